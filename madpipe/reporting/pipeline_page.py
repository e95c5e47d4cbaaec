"""A pipeline told to someone who has never seen a decomposition: the sections of one page, as HTML."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from madpipe.reporting.page import drawing, facts, folded, lead, paragraph, preformatted, section, side_by_side, table

Quality = Mapping[str, Mapping[str, Sequence[float]]]  # figure -> variant -> a value for each fold
SHOWN_FLAGGED, DRAWN_CONTROLS = 20, 4
DIFFERENT = 0.01  # p-value of a test below which the page says that something is amiss
AGREEMENT = "agreement"
MASKS = {
    "reconstruction_unmasked": "every component",
    "reconstruction_alive": "alive components",
    "reconstruction_importance": "those this input needs",
    "reconstruction_stochastic": "at random",
    "reconstruction_adversarial": "chosen by an adversary",
}
QUALITY = {
    AGREEMENT: "same decision as the network, from alive components alone (share of trusted rows; 1 is best)",
    "reconstruction_alive": "divergence of the output of alive components alone (nats per input; 0 is best)",
    "reconstruction_importance": "divergence with only those components that this input needs (nats per input)",
    "reconstruction_adversarial": "divergence under the worst masks an adversary finds (nats per input)",
    "alive": "alive subcomponents: some trusted input needs them",
    "l0_01": "of these active on one input, on average",
    "alive_norm": "share of the weights' squared size that alive components keep",
}


def introduction(told_of: Mapping[str, object], findings: Sequence[str]) -> str:
    """What the page is about, the words it uses, and what it found."""
    told = (
        "A network was split into components on inputs that are trusted. Components that trusted inputs need are kept; "
        "what is left of each weight is called its weight delta. A new input is suspicious when the kept components "
        "alone do not explain what the network did with it: then it used weights that trusted inputs never needed."
    )
    words = (
        "The anomaly score says how badly the output is explained (higher is worse). Its p-value is the share of "
        "trusted inputs, set aside for this purpose, that look at least as bad: 0.01 means one trusted input in a "
        "hundred does. Bits of surprise are the anomaly score in another unit: one bit more is twice as surprising."
    )
    found = [paragraph(finding) for finding in findings]
    return section("At a glance", lead(told), paragraph(words), *found, facts(told_of))


def decomposition_section(quality: Quality, folds: int, unit: str, figure: Figure) -> str:
    opening = (
        "Look for: the components alone should decide as the network does, with a divergence near 0. Bad would be a "
        "divergence of 1 or more with alive components, since then the network is not explained even where it behaves."
    )
    rows = [
        {"measured on trusted rows held back": told, **{_view(v): _range(values) for v, values in quality[key].items()}}
        for key, told in QUALITY.items()
        if key in quality
    ]
    how = (
        f"Mean over {folds} decompositions, each trained without a part of the rows (in brackets the least and the "
        "largest). Views are ways of decomposing the same network: 'output' asks for equal outputs only, 'hidden' for "
        "equal inner activations too. An adversary may always do harm; what matters is that ordinary masks do not."
    )
    drawn = drawing(
        figure, f"Divergence from the network's own output ({unit}), by which components are switched on.", "quality"
    )
    return section("Is the decomposition good?", lead(opening), table(rows), paragraph(how), drawn)


def components_section(
    sites: Sequence[Mapping[str, object]], spectra: Mapping[str, Figure], pictures: Mapping[str, Figure]
) -> str:
    opening = (
        "Look for: curves that fall, so that some components matter and others do not. Bad would be a site whose "
        "components are all dead (nothing of that weight is explained). Nearly all alive is usual in a small network: "
        "scores hang on what alive components add up to, not on how many they are."
    )
    parts = [
        drawing(
            figure, f"How much each component is needed, at most, by a trusted input. View: {view}.", f"spectrum {view}"
        )
        for view, figure in spectra.items()
    ]
    drawn = [drawing(figure, name, name) for name, figure in pictures.items()]
    return section("Components", lead(opening), table(sites), side_by_side(*parts), *drawn)


def calibration_section(
    checks: Mapping[str, Mapping[str, Any]], figure: Figure | None, crossed: bool, note: str
) -> str:
    opening = (
        "Look for: lines inside their band, close to the diagonal: of trusted inputs 1 % should have p ≤ 0.01, and so "
        "on. Bad would be a line above its band, which means more false alarms than were asked for."
    )
    if crossed:
        told = (
            "The trusted rows were too few to set some aside, so each was ranked by a decomposition that had not seen "
            "it. Such p-values hold within a factor of two, and trusted rows cannot check them by themselves."
        )
        return section("Are the p-values honest?", lead(opening), paragraph(told), paragraph(note))
    rows = [
        {
            "rows": name,
            "level": _percent(rate["level"]),
            "share at or below": _percent(rate["share"]),
            "honest p-values, 95 %": f"{_percent(rate['interval'][0])} to {_percent(rate['interval'][1])}",
        }
        for name, check in checks.items()
        for rate in check["rates"]
    ]
    verdicts = [paragraph(_uniform(name, check)) for name, check in checks.items()]
    drawn = (
        []
        if figure is None
        else [drawing(figure, "p-values of normal inputs; the bands hold 95 % of all cases.", "p-values")]
    )
    return section("Are the p-values honest?", lead(opening), *verdicts, *drawn, table(rows), paragraph(note))


def _uniform(name: str, check: Mapping[str, Any]) -> str:
    p = check["uniformity_p_value"]
    told = "no sign of anything wrong" if p > DIFFERENT else "a clear departure: these rows are unlike the others"
    return f"{name}: Kolmogorov-Smirnov test against honest p-values p = {p:.2g}, {told}."


def scores_section(figure: Figure, caption: str, said: str) -> str:
    opening = (
        "Look for: scored inputs that lie where trusted ones do, with suspicious ones apart on the right. Bad would be "
        "the whole group shifted to the right: then the inputs have changed, or the pipeline is for other inputs."
    )
    return section("Scores", lead(opening), paragraph(said), drawing(figure, caption, "scores"))


def evaluation_section(result: Mapping[str, Any], figures: Sequence[Figure], source: str) -> str:
    opening = (
        "Look for: the thick line in the upper left corner (AUROC 1), above any dashed ones, which are simpler "
        "detectors fitted on the same trusted rows. Bad would be the thick line near the dotted diagonal (AUROC 0.5)."
    )
    rows = [_judged("this pipeline (default)", result["default"])]
    rows += [_judged(f"part of it: {name}", own) for name, own in result["members"].items()]
    others = sorted(result.get("controls", {}).items(), key=lambda item: -item[1]["auroc"])
    rows += [_judged(f"control: {name}", own) for name, own in others[:DRAWN_CONTROLS]]
    rest = [_judged(f"control: {name}", own) for name, own in others[DRAWN_CONTROLS:]]
    more = [folded(f"The other {len(rest)} controls", table(rest))] if rest else []
    said = (
        f"{source}: {result['rows']:,} labelled inputs, {result['anomalous']:,} of them anomalous. Labels judge: "
        "nothing was fitted or tuned on them."
        + (f" Controls that are drawn are the {DRAWN_CONTROLS} with the highest AUROC here." if others else "")
    )
    captions = ("ROC: anomalies caught against false alarms.", "The same where false alarms are rare.")
    drawn = [drawing(figure, told, told) for figure, told in zip(figures, captions, strict=True)]
    return section(
        "Does it find known anomalies?", lead(opening), paragraph(said), side_by_side(*drawn), table(rows), *more
    )


def _judged(name: str, figures: Mapping[str, Any]) -> dict[str, object]:
    low, high = figures["fpr_at_nominal_1_interval"]
    return {
        "detector": name,
        "AUROC": figures["auroc"],
        "caught at 1 % false alarms": figures["tpr_at_1"],
        "caught by p ≤ 1 %": figures["recall_at_nominal_1"],
        "false alarms of p ≤ 1 %": figures["fpr_at_nominal_1"],
        "honest range": f"{low:.3f} to {high:.3f}",
    }


def flagged_section(flagged: Sequence[Mapping[str, object]], count: int, explained: Sequence[str], note: str) -> str:
    """flagged: rows of the table, the most anomalous first; of `count` in all. explained: HTML of `explanation`."""
    opening = (
        "Look for: few parts named for an input, and an output that changes when they are removed: then they are the "
        "cause. Bad would be a trusted-looking input here again and again: then recalibrate, or trust more data."
    )
    if not count:
        return section("Flagged inputs", lead(opening), paragraph(f"Nothing is flagged. {note}"))
    most = (
        f"The {len(flagged)} most anomalous of {count:,} flagged inputs."
        if count > len(flagged)
        else f"All {count:,} flagged inputs."
    )
    return section("Flagged inputs", lead(opening), paragraph(most), table(flagged), paragraph(note), *explained)


def explanation(input_id: str, words: str, panels: Sequence[Figure]) -> str:
    drawn = [drawing(figure, "", f"input {input_id}, panel {place + 1}") for place, figure in enumerate(panels)]
    return folded(f"Why input {input_id}?", preformatted(words), side_by_side(*drawn)).replace(
        "<details>", "<details open>", 1
    )


def making_section(config: str, versions: Mapping[str, object], commands: Mapping[str, str]) -> str:
    opening = (
        "Look for: the same figures when you run this again. Bad would be a digest or a version that differs from "
        "those here: then it is another pipeline."
    )
    told = "\n".join(f"# {what}\n{command}" for what, command in commands.items())
    whole = folded(
        "The whole configuration, as it was resolved (config.yaml of the pipeline folder)", preformatted(config)
    )
    return section(
        "How it was made, and how to make it again", lead(opening), preformatted(told), facts(versions), whole
    )


def _view(variant: str) -> str:
    return f"view: {variant}"


def _range(values: Sequence[float]) -> str:
    return f"{fmean(values):.3g} ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else f"{values[0]:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
