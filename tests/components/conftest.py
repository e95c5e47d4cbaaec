"""Component models with random slots, on targets of every shape that a site can sit in."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites


class Nested(nn.Module):
    """Sites two modules deep, a skip connection, and a head that reads flattened positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.block = nn.ModuleDict({"up": nn.Linear(8, 5), "down": nn.Sequential(nn.ReLU(), nn.Linear(5, 8))})
        self.head = nn.Linear(3 * 8 * 8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        h = h + self.block["down"](self.block["up"](h))
        return self.head(h.flatten(1))


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, (3, 2), dilation=(1, 2), padding="same", padding_mode="reflect", bias=False),
        nn.ReLU(),
        nn.Conv2d(5, 3, 2, padding=1, padding_mode="circular"),
        nn.Flatten(),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (linear, (6,)),
    "linear_with_positions": (linear, (3, 2, 6)),
    "convolutional": (convolutional, (2, 9, 8)),
    "nested": (Nested, (1, 8, 8)),
}


@dataclass(frozen=True)
class Case:
    """A component model with `S` instances of `K` random slots per site, and one batch x [B, ...]."""

    model: ComponentModel
    x: Tensor

    @property
    def instances(self) -> int:
        return self.model.instances

    def repeated(self) -> Tensor:
        """x once per instance, [S*B, ...]."""
        return self.x.repeat(self.instances, *[1] * (self.x.ndim - 1))


def with_random_slots(target: nn.Module, slots: int, instances: int) -> ComponentModel:
    sites = find_sites(target)
    model = ComponentModel(target, sites, [slots] * len(sites), instances)
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    return model.requires_grad_(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def random_model() -> Callable[[nn.Module, int, int], ComponentModel]:
    """(target, slots per site, instances) -> a component model with random slots at every site."""
    return with_random_slots


@pytest.fixture(params=[(name, instances) for name in NETWORKS for instances in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    name, instances = request.param
    build, shape = NETWORKS[name]
    return Case(with_random_slots(build(), 5, instances), torch.randn(4, *shape))
