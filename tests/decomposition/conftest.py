"""Small targets, trusted rows, and methods started on them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.sites import find_sites
from madpipe.decomposition.method import Method
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.registry import METHODS
from madpipe.targets import convnet, mlp

SMALL: dict[str, dict[str, Any]] = {
    "spd": {"components": 6, "importance_hidden": 4},
    "apd": {"components": 4, "rank": 2, "top_k": 1.5},
    "vpd": {"components": 6, "importance_hidden": 4},
}

Start = Callable[..., Method]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small_mlp() -> nn.Module:
    return mlp.build([5, 7, 3]).eval().requires_grad_(False)


@pytest.fixture
def small_cnn() -> nn.Module:
    return convnet.build([1, 4, 4], [3, 2], 5, 3).eval().requires_grad_(False)


@pytest.fixture
def rows() -> Tensor:
    """Trusted inputs of `small_mlp`."""
    return torch.randn(60, 5)


@pytest.fixture
def images() -> Tensor:
    """Trusted inputs of `small_cnn`."""
    return torch.randn(30, 1, 4, 4)


@pytest.fixture
def start() -> Start:
    """(method name, target, trusted rows, instances=None, seed=0, **config) -> an initialised method."""

    def started(
        name: str, target: nn.Module, trusted: Tensor, instances: int | None = None, seed: int = 0, **config: Any
    ) -> Method:
        method_class = METHODS.load(name)
        settings = method_class.Config(**(SMALL[name] | {"batch_size": 16} | config))
        sites = find_sites(target)
        method: Method = method_class(target, sites, settings, instances or len(method_class.variants(settings)))
        statistics = trusted_statistics(target, sites, trusted, "categorical")
        method.initialise(statistics, torch.Generator().manual_seed(seed))
        return method

    return started
