"""An explanation of one input as plain arrays, which reports read without a network."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrustedInput:
    """A trusted input beside this one. row: its number in the trusted data; value: how strongly, or how far."""

    row: int
    value: float
    x: Floats


@dataclass(frozen=True, kw_only=True)
class PartStory:
    """One part of the network on this input.

    surprise_bits: its share in the anomaly score (Shapley value over weight deltas); None of a component, which is
    trusted. ablation_bits: KL(output || output without this part alone), in bits. usual_size: how large it is here over
    its 95 % quantile on trusted inputs. reads, writes: directions in the site's input and output (None where a part
    spans sites). push, usual_push: the effect it has on what the output lost, to first order, here and as the 95 %
    quantile of its magnitude over trusted inputs. active_on: trusted inputs that drive it most.
    """

    name: str
    site: str
    surprise_bits: float | None
    ablation_bits: float
    usual_size: float | None
    reads: Floats | None
    writes: Floats | None
    push: float | None
    usual_push: float | None
    active_on: tuple[TrustedInput, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why one input is surprising. Outputs are probabilities, or values in regression, [*positions, outputs].

    surprise_bits: the anomaly score in bits; base_bits: of these, what is left when nothing goes unexplained. clean,
    explained (mean over explained networks, their standard deviation is `spread`), ablated: the target's output, that
    of the trusted components alone, that of the target without the named parts. changed: whether clean and explained
    decide differently. named: the smallest set of parts whose ablation gives the explained decision (restores tells
    whether it does) or, where the decision is the same anyway, takes away nine tenths of the surprise. trusted_bits
    and trusted_agreement: KL on trusted inputs after that ablation, and the share of them that decide as before (None
    without trusted inputs, the share in regression too). read, of the input's shape: bits of the surprise that the
    named parts make and that go when a feature takes the values of trusted inputs (read_in_bits) or, without these or
    for large inputs, x_i times the gradient of the parts' effect (None where inputs are token numbers). nearest:
    trusted inputs by pattern.
    """

    input_id: str
    x: Floats
    anomaly_score: float
    p_value: float
    output_kind: str
    surprise_bits: float
    base_bits: float
    clean: Floats
    explained: Floats
    spread: Floats
    ablated: Floats
    changed: bool
    named: tuple[str, ...]
    restores: bool
    trusted_bits: float | None
    trusted_agreement: float | None
    parts: tuple[PartStory, ...]
    read: Floats | None
    read_in_bits: bool
    nearest: tuple[TrustedInput, ...] | None

    def most_read(self, count: int = 5) -> list[tuple[tuple[int, ...], float]]:
        """(index, share of all that is read, with its sign) of the `count` features that the named parts read most."""
        if self.read is None:
            return []
        signed = self.read_in_bits  # a feature that hides the mechanism is not one that it hangs on
        weight = self.read if signed else np.abs(self.read)
        whole = max(float(np.maximum(weight, 0).sum()), np.finfo(float).tiny)
        order = np.argsort(-weight, axis=None, kind="stable")[:count]
        places = [np.unravel_index(int(i), self.read.shape) for i in order]
        return [(tuple(int(axis) for axis in place), float(self.read[place]) / whole) for place in places]

    def decision(self, values: Floats) -> list[int] | None:
        """Class of each position, or truth of each output; None in regression."""
        match self.output_kind:
            case "categorical":
                return [int(label) for label in np.atleast_1d(values.argmax(-1)).ravel()]
            case "bernoulli":
                return [int(value) for value in (values > 0.5).ravel()]
        return None

    def to_json(self) -> dict[str, Any]:
        """Everything as what JSON holds."""
        outputs = {name: getattr(self, name).tolist() for name in ("clean", "explained", "spread", "ablated")}
        decisions = {name: self.decision(getattr(self, name)) for name in ("clean", "explained", "ablated")}
        plain = (
            *(
                "input_id",
                "anomaly_score",
                "p_value",
                "output_kind",
                "surprise_bits",
                "base_bits",
                "changed",
                "restores",
            ),
            *("trusted_bits", "trusted_agreement", "read_in_bits"),
        )
        return {
            **{name: getattr(self, name) for name in plain},
            "named": list(self.named),
            "outputs": outputs,
            "decisions": decisions,
            "most_read": [{"feature": list(place), "share": share} for place, share in self.most_read()],
            "read": None if self.read is None else self.read.tolist(),
            "parts": [_story(part) for part in self.parts],
            "nearest_trusted": None if self.nearest is None else [_trusted(one) for one in self.nearest],
        }


def _story(part: PartStory) -> dict[str, Any]:
    arrays = {name: None if (own := getattr(part, name)) is None else own.tolist() for name in ("reads", "writes")}
    rest = ("name", "site", "surprise_bits", "ablation_bits", "usual_size", "push", "usual_push")
    active = [_trusted(one) for one in part.active_on]
    return {**{name: getattr(part, name) for name in rest}, **arrays, "active_on": active}


def _trusted(one: TrustedInput) -> dict[str, Any]:
    return {"row": one.row, "value": one.value}
