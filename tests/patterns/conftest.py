"""Settled methods to observe: exact ones made by hand, and random ones with some slots dead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.sites import find_sites
from madpipe.decomposition.apd import APD, APDConfig
from madpipe.decomposition.method import Method
from madpipe.decomposition.spd import SPD, SPDConfig
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.decomposition.subcomponent_config import Variant
from madpipe.patterns.observation import Observer
from madpipe.targets import convnet, mlp

VARIANTS = (Variant(name="output"), Variant(name="hidden", hidden_coefficient=1.0))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def target() -> nn.Module:
    return mlp.build([5, 7, 6, 3]).eval().requires_grad_(False)


@pytest.fixture
def rows() -> Tensor:
    """Trusted inputs of `target`, float64 as they are scored."""
    return torch.randn(40, 5).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(20, 1, 4, 4).double()


def method_on(target: nn.Module, trusted: Tensor, **config: Any) -> Method:
    """In float64; two instances, of which the second was to match hidden activations."""
    settings = SPDConfig(**({"variants": VARIANTS, "components": 8, "importance_hidden": 4} | config))
    sites = find_sites(target)
    method = SPD(target, sites, settings, len(settings.variants))
    method.initialise(
        trusted_statistics(target, sites, trusted.float(), "categorical"), torch.Generator().manual_seed(0)
    )
    return method.eval().requires_grad_(False).double()


@pytest.fixture
def make() -> Callable[..., Method]:
    """(target, trusted rows, **config) -> a method that was started and not trained."""
    return method_on


@pytest.fixture
def exact(target: nn.Module, rows: Tensor) -> Method:
    """Slot k reads input k and writes row k of the weight: their sum is the weight, every one is alive."""
    method = method_on(target, rows)
    for i, site in enumerate(method.model.sites):
        method.model.V[i].zero_()[:, :, : site.d_in] = torch.eye(site.d_in)
        method.model.U[i].zero_()[:, : site.d_in] = method.model.weight(i)
    return method


@pytest.fixture
def partial(target: nn.Module, rows: Tensor) -> Method:
    """Every second slot is dead."""
    method = method_on(target, rows)
    for i in range(len(method.model.sites)):
        method.alive(i)[:, 1::2] = False
    return method


@pytest.fixture
def convolutional(images: Tensor) -> Method:
    return method_on(convnet.build([1, 4, 4], [3, 2], 5, 3).eval().requires_grad_(False), images)


@pytest.fixture
def observe() -> Callable[..., Any]:
    """(method, x) -> an observation."""
    return lambda method, x: Observer(method).observe(x)


@pytest.fixture
def apd(target: nn.Module, rows: Tensor) -> Method:
    """Five components of two slots at each site, all alive."""
    sites = find_sites(target)
    method = APD(target, sites, APDConfig(components=5, rank=2, top_k=2.0), 1)
    method.initialise(trusted_statistics(target, sites, rows.float(), "categorical"), torch.Generator().manual_seed(0))
    return method.eval().requires_grad_(False).double()
