"""Several seeds of one decomposition: each by itself, and which of them to use.

The choice sees trusted data alone, so that nothing is tuned on anomalies or on known mechanisms.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from madpipe.decomposition.method import Method
from madpipe.decomposition.quality import quality_by_seed

PRICE = 0.01  # nats for an active slot, where a method states no importance coefficient


@torch.no_grad()
def select_seed(method: Method, seed: int) -> Method:
    """`method` with the instances of `seed` alone, frozen: a copy, with `seeds` 1 in its config.

    An entry of the state whose shape differs from that of a method with one seed has the instances as leading axis.
    """
    assert 0 <= seed < method.seeds, (seed, method.seeds)
    variants, like = len(method.variant_names), method.model.V[0]
    config = method.config.model_copy(update={"seeds": 1})
    alone = type(method)(method.model.target, method.model.sites, config, variants)
    alone.to(device=like.device, dtype=like.dtype)
    own = slice(seed * variants, (seed + 1) * variants)
    shapes = {name: value.shape for name, value in alone.state_dict().items()}
    state = method.state_dict()
    alone.load_state_dict({name: v if v.shape == shapes[name] else v[own] for name, v in state.items()})
    alone.statistics = method.statistics
    alone.clusters = method.clusters[own] if method.clusters else None
    return alone.eval().requires_grad_(False)


def best_seed(method: Method, chunks: Sequence[Tensor]) -> tuple[int, list[float]]:
    """(the seed of smallest description length, that length of every seed), on validation rows in chunks [B, ...]."""
    lengths = [description_length(method, figures) for figures in quality_by_seed(method, chunks, attacked=False)]
    return shortest(lengths), lengths


def shortest(lengths: Sequence[float]) -> int:
    """The seed of the smallest, the first of equal ones."""
    return min(range(len(lengths)), key=lengths.__getitem__)


def description_length(method: Method, figures: Mapping[str, float]) -> float:
    """Nats per input: KL(clean || explained by this input's importances) + price * active slots, mean over variants.

    What it takes to state which slots are active, at the price that training itself puts on importance
    (`importance_coefficient` of the method, PRICE where there is none or where it is found), and then the output given
    them. `figures` are the `quality` of one seed.
    """
    price = getattr(method.config, "importance_coefficient", PRICE)
    price = PRICE if price == "auto" else float(price)  # found prices differ, and seeds are compared at one
    lengths = [
        figures[f"reconstruction_importance/{name}"] + price * figures[f"l0/{name}"] for name in method.variant_names
    ]
    return sum(lengths) / len(lengths)
