"""An explanation in words, from the document that `Explanation.to_json` gives."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_OUTPUTS, APART = 3, 0.05  # told in words: outputs that differ by more, or the one that differs most
USUAL = 0.05  # p-value above which an input is like trusted ones; what follows is then no sign of anything
NOTHING = "; this is usual for trusted inputs, what follows is no sign of anything"


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """An explanation in words, for someone who has never seen a decomposition."""
    bits, p = document["surprise_bits"], document["p_value"]
    yield f"Input {document['input_id']}: {bits:.1f} bits of surprise, p = {p:.3g}{NOTHING if p > USUAL else ''}"
    yield from _about_outputs(document)
    yield from _about_causes(document)
    yield from _about_reading(document)
    yield from _about_trusted(document)


def _about_outputs(document: Mapping[str, Any]) -> Iterator[str]:
    outputs = document["outputs"]
    said = {name: _told(outputs[name], document, outputs) for name in ("clean", "explained", "ablated")}
    yield f"  the network says             {said['clean']}"
    yield f"  its trusted parts alone say  {said['explained']}"
    yield f"  without the parts named here {said['ablated']}"


def _told(values: Any, document: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """The decision of one output, or the outputs that differ most."""
    flat, kind = _flat(values), document["output_kind"]
    if kind == "categorical" and not isinstance(values[0], list):
        best = max(range(len(flat)), key=flat.__getitem__)
        return f"class {best} ({flat[best]:.0%})"
    clean, explained = _flat(outputs["clean"]), _flat(outputs["explained"])
    apart = sorted(range(len(flat)), key=lambda i: -abs(clean[i] - explained[i]))[:MOST_OUTPUTS]
    apart = [i for i in apart if abs(clean[i] - explained[i]) > APART] or apart[:1]
    form = "{:.3g}" if kind == "regression" else "{:.0%}"
    return ", ".join(f"output {i}: {form.format(flat[i])}" for i in sorted(apart))


def _flat(values: Any) -> list[float]:
    return [inner for value in values for inner in _flat(value)] if isinstance(values, list) else [values]


def _about_causes(document: Mapping[str, Any]) -> Iterator[str]:
    parts = [part for part in document["parts"] if part["surprise_bits"] is not None]
    yield "  surprise by part: " + ", ".join(f"{part['name']} {part['surprise_bits']:+.1f} bits" for part in parts)
    names = ", ".join(document["named"])
    if document["changed"]:
        does = "gives the trusted output" if document["restores"] else "does NOT give the trusted output"
        yield f"  cause: {names}; removing {'it' if len(document['named']) == 1 else 'them'} {does}"
    else:
        yield f"  cause: {names}; the decision is the same without, but not the way to it"
    for part in parts:
        if part["push"] is not None and part["usual_push"] is not None:
            yield (
                f"    {part['name']} pushes with {abs(part['push']):.3g} here; "
                f"19 of 20 trusted inputs stay within {part['usual_push']:.3g}"
            )


def _about_reading(document: Mapping[str, Any]) -> Iterator[str]:
    if document["most_read"]:
        told = [f"{','.join(map(str, one['feature']))} ({one['share']:.0%})" for one in document["most_read"]]
        yield "  read most, by feature: " + ", ".join(told)


def _about_trusted(document: Mapping[str, Any]) -> Iterator[str]:
    if document["nearest_trusted"]:
        yield "  nearest trusted inputs: row " + ", ".join(str(one["row"]) for one in document["nearest_trusted"])
    if document["trusted_bits"] is None:
        return
    diverged = f"a divergence of {document['trusted_bits']:.3g} bits"
    if document["trusted_agreement"] is not None:
        diverged += f", {1 - document['trusted_agreement']:.1%} of decisions change"
    yield f"  what removing them for good costs on trusted inputs: {diverged}"
