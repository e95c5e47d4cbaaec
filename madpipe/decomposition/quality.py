"""Is a decomposition good? Figures taken on trusted rows it was not trained on (SPD section 3, VPD section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from madpipe.components.masks import InputMask, Masks, stochastic_mask
from madpipe.decomposition.adversary import ATTACKED_ROWS, fresh_attack
from madpipe.decomposition.method import Method


def quality(method: Method, chunks: Sequence[Tensor]) -> dict[str, float]:
    """`quality_by_seed`, averaged over seeds."""
    seeds = quality_by_seed(method, chunks)
    return {key: sum(figures[key] for figures in seeds) / len(seeds) for key in seeds[0]}


@torch.no_grad()
def quality_by_seed(method: Method, chunks: Sequence[Tensor], attacked: bool = True) -> list[dict[str, float]]:
    """One per seed: keys `<figure>/<variant>`.

    l0, l0_01: slots with activity above 0 and above 0.1 per input (and position), over all sites. alive: alive slots.
    faithfulness: |W - sum of slots|^2 / |W|^2. alive_norm: |sum of alive slots|^2 / |W|^2. reconstruction_*: KL in nats
    per input of the pass with all slots (unmasked), alive ones, this input's importances, stochastic masks, and, if
    `attacked`, the worst masks that adversary.py finds for the first ATTACKED_ROWS rows (adversarial).
    """
    names = method.variant_names
    sums: dict[str, Tensor] = {}
    count = 0
    generator = torch.Generator().manual_seed(0)
    for x in chunks:
        count += len(x)
        for key, value in _chunk_sums(method, x, generator).items():
            sums[key] = sums[key] + value if key in sums else value
    figures = {key: value / max(count, 1) for key, value in sums.items()} | _weight_figures(method)
    if attacked:
        figures["reconstruction_adversarial"] = fresh_attack(method, first_rows(chunks, ATTACKED_ROWS))
    return [
        {
            f"{key}/{name}": float(value[seed * len(names) + v])
            for key, value in figures.items()
            for v, name in enumerate(names)
        }
        for seed in range(method.seeds)
    ]


@torch.no_grad()
def agreement(method: Method, chunks: Sequence[Tensor]) -> dict[str, float]:
    """Share of decisions that alive slots alone make as the target does: variant -> share, of the first seed.

    A decision is the class at a position, or the truth of one output; regression has none, and nothing is given.
    """
    kind, model = method.statistics.metric.kind, method.model
    if kind == "regression":
        return {}
    same = []
    for x in chunks:
        repeated = x.repeat(model.instances, *[1] * (x.ndim - 1))
        outputs = model.clean_forward(x).output, model.masked_forward(repeated, method.alive_masks()).output
        clean, explained = (values.argmax(-1) if kind == "categorical" else values > 0 for values in outputs)
        same.append(explained.reshape(model.instances, len(x), -1) == clean.reshape(1, len(x), -1))
    shares = torch.cat(same, 1).double().mean((1, 2))
    return {name: float(shares[v]) for v, name in enumerate(method.variant_names)}


def first_rows(chunks: Sequence[Tensor], count: int) -> Tensor:
    """At most `count` rows of chunks [B, ...]."""
    taken, wanted = [], count
    for x in chunks:
        taken.append(x[:wanted])
        wanted -= len(taken[-1])
    return torch.cat(taken)


def _chunk_sums(method: Method, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    model = method.model
    clean = model.clean_forward(x)
    activity = method.activity(clean, x)
    S, repeated = model.instances, x.repeat(model.instances, *[1] * (x.ndim - 1))
    passes: dict[str, Masks] = {
        "unmasked": method.all_slots_masks(),
        "alive": method.alive_masks(),
        "importance": {name: InputMask(g) for name, g in activity.items()},
        "stochastic": {name: InputMask(stochastic_mask(g.cpu(), generator).to(g)) for name, g in activity.items()},
    }
    result = {}
    for name, masks in passes.items():
        kl = method.statistics.metric.kl(clean.output, model.masked_forward(repeated, masks).output)
        result[f"reconstruction_{name}"] = kl.reshape(S, len(x), -1).sum((1, 2))
    result["l0"] = torch.stack([_active(g, 0.0) for g in activity.values()]).sum(0)
    result["l0_01"] = torch.stack([_active(g, 0.1) for g in activity.values()]).sum(0)
    return result


def _active(g: Tensor, threshold: float) -> Tensor:
    """Active slots per input, mean over positions, summed over inputs: [S]."""
    per_position = (g > threshold).to(g.dtype).sum(-1)
    return per_position.flatten(2).mean(2).sum(1) if per_position.ndim > 2 else per_position.sum(1)


def _weight_figures(method: Method) -> dict[str, Tensor]:
    model, sites = method.model, range(len(method.model.sites))
    total = sum(float(model.weight(i).square().sum()) for i in sites)
    alive = [method.alive(i).to(model.V[i].dtype) for i in sites]
    return {
        "alive": torch.stack([mask.sum(1) for mask in alive]).sum(0),
        "faithfulness": torch.stack([model.delta(i).square().sum((1, 2)) for i in sites]).sum(0) / total,
        "alive_norm": torch.stack([model.masked_weight(i, alive[i]).square().sum((1, 2)) for i in sites]).sum(0)
        / total,
    }
