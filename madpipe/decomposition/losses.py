"""Pure losses: tensors in, one number per instance out.

Legend: S instances, B inputs, O outputs, P positions, K slots.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

CACHED = 2**18  # numbers that fit into a core's own cache
OutputKind = Literal["categorical", "bernoulli", "regression"]


@dataclass(frozen=True)
class OutputMetric:
    """Distances between two outputs in the target's own terms.

    `kind` says what the outputs are: logits of one categorical, independent logits (bernoulli), or real values
    (regression: a Gaussian of variance `variance`). `variance` is that of clean outputs on trusted data, a scalar.
    """

    kind: OutputKind
    variance: float

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p || q) >= 0 in nats: [..., O] twice -> [...]. Axes between the inputs and O are the caller's to sum."""
        q = q.to(p.dtype)  # under autocast q is bfloat16, and what follows takes differences
        match self.kind:
            case "categorical":
                log_p, log_q = functional.log_softmax(p, -1), functional.log_softmax(q, -1)
                return (log_p.exp() * (log_p - log_q)).sum(-1)
            case "bernoulli":
                difference = functional.softplus(q) - functional.softplus(p) - torch.sigmoid(p) * (q - p)
                return difference.sum(-1)
            case "regression":
                return (p - q).square().sum(-1) / (2 * self.variance)

    def squared_distance(self, p: Tensor, q: Tensor) -> Tensor:
        """Mean squared difference of raw outputs over `variance`: [..., O] twice -> [...]."""
        return (p - q).square().mean(-1) / self.variance

    def reconstruction(self, clean: Tensor, explained: Tensor, mean: "Mean | None" = None) -> Tensor:
        """KL plus normalised squared distance, mean over inputs (and positions): [S, B, ..., O] twice -> [S].

        KL alone saturates where the target is sure of itself; the distance keeps a gradient there.
        """
        mean = mean or per_instance_mean
        if self.kind == "regression":  # both are the squared distance, its kl by half the number of outputs larger
            squares = (clean - explained.to(clean.dtype)).square()
            return mean(squares) * ((clean.shape[-1] / 2 + 1) / self.variance)
        both = self.kl(clean, explained) + self.squared_distance(clean, explained)
        return mean(both)


def per_instance_mean(values: Tensor) -> Tensor:
    """[S, ...] -> [S]."""
    return values.flatten(1).mean(1)


Mean = Callable[[Tensor], Tensor]  # over inputs and positions, [S, B, ...] -> [S]


def hidden_reconstruction(
    clean: dict[str, Tensor],
    masked: dict[str, Tensor],
    variances: dict[str, float],
    mean: Mean = per_instance_mean,
) -> Tensor:
    """Mean squared difference of hidden activations over their variance, mean over sites: [S]; a scalar 0 without any.

    `clean` [S, B, ...] and `masked` [S, B, ...] hold at least the sites named in `variances`.
    """
    terms = [mean((clean[name] - masked[name]).square()) / variance for name, variance in variances.items()]
    return torch.stack(terms).mean(0) if terms else next(iter(clean.values())).new_zeros(())


def faithfulness(deltas: list[Tensor]) -> Tensor:
    """Mean squared weight delta over all parameters of all sites: [S, I, O] each -> [S] (APD section 2; SPD eq. 3)."""
    count = sum(delta[0].numel() for delta in deltas)
    return torch.stack([delta.square().flatten(1).sum(1) for delta in deltas]).sum(0) / count


def relative_faithfulness(deltas: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Squared weight delta over squared weight, both summed over all sites: [S, I, O], [I, O] each -> [S]."""
    total = torch.stack([w.square().sum() for w in weights]).sum().clamp(min=1e-30)
    return torch.stack([delta.square().flatten(1).sum(1) for delta in deltas]).sum(0) / total


def parsimony(sums: list[Tensor], weights: list[Tensor]) -> Tensor:
    """sum over sites of |sum of alive components|_F^2 / |W|_F^2: [S]. `sums` are [S, I, O], `weights` [I, O]."""
    sizes = [w.square().sum().clamp(min=1e-30) for w in weights]  # a weight of zeros costs nothing
    terms = [s.square().flatten(1).sum(1) / size for s, size in zip(sums, sizes, strict=True)]
    return torch.stack(terms).sum(0)


def importance_minimality(importances: list[Tensor], exponent: float, mean: Mean = per_instance_mean) -> Tensor:
    """Mean over inputs (and positions) of sum_k |g_k|^p, summed over sites: [S] (SPD eq. 7).

    `importances` are [S, B, *P, K], at least 0 (the upper leaky hard sigmoid). 1e-6 is added to g, for a gradient
    finite at 0 when p is below 1.
    """
    terms = [mean((g + 1e-6).pow(exponent).sum(-1)) for g in importances]
    return torch.stack(terms).sum(0)


def smooth_l0(importances: list[Tensor], width: float, mean: Mean = per_instance_mean) -> Tensor:
    """Mean over inputs (and positions) of sum_k g^2 / (g^2 + width^2), summed over sites: [S] (VPD).

    Counts active slots as `width` falls to 0; its gradient stays bounded by 0.65 / width, unlike that of |g|^p at 0.
    """
    terms = [mean((g.square() / (g.square() + width**2)).sum(-1)) for g in importances]
    return torch.stack(terms).sum(0)


def frequency(importances: list[Tensor], scale: float, whole: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
    """sum_k f_k log2(1 + scale f_k), f_k the mean importance of slot k over inputs and positions: [S] (VPD).

    Convex in f: two rare mechanisms in one slot cost more than in two. `whole` makes a mean over these inputs one over
    those of all processes.
    """
    means = [whole(g.clamp(min=0).flatten(1, -2).mean(1)) for g in importances]
    return torch.stack([(f * torch.log2(1 + scale * f)).sum(1) for f in means]).sum(0)


def schatten(sizes: Tensor, frequencies: Tensor, exponent: float) -> Tensor:
    """Mean over inputs of sum_{c active} sum_m (|U_cm|^2 |V_cm|^2)^(p/2): [S] (APD section 2.4, factorised Schatten-p).

    `sizes` [S, C*m] are |U_k|^2 |V_k|^2, `frequencies` [S, C] the share of inputs on which each component is active.
    """
    energy = sizes.unflatten(1, (frequencies.shape[1], -1))
    per_component = (energy + 1e-16).pow(exponent / 2).sum(-1)
    return (frequencies * per_component).sum(-1)


def sum_and_sizes(V: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """sum_k V_k U_k, [S, I, O], and |V_k|^2 |U_k|^2, [S, K], of `V` [S, I, K], `U` [S, K, O].

    Both at once, since slots are what a method holds most of: their gradient is then made in one piece.
    """
    total, read, written = _SumAndSquares.apply(V, U)
    return total, read * written


def _column_squares(V: Tensor) -> Tensor:
    """|V_k|^2, [S, K]: some rows at a time, whose squares stay in the processor's cache."""
    rows = max(CACHED // V[:, 0].numel(), 1)
    parts = [part.square().sum(1) for part in V.split(rows, 1)]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class _SumAndSquares(torch.autograd.Function):
    """V U, |V_k|^2, |U_k|^2."""

    @staticmethod
    def forward(ctx: Any, V: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(V, U)
        return V @ U, _column_squares(V), torch.linalg.vector_norm(U, dim=2).square()

    @staticmethod
    def backward(ctx: Any, total: Tensor, read: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        V, U = ctx.saved_tensors
        total = total.to(V.dtype)  # a product made under autocast
        of_V = (V * (2 * read)[:, None, :]).baddbmm_(total, U.mT)
        return of_V, (U * (2 * written)[:, :, None]).baddbmm_(V.mT, total)
