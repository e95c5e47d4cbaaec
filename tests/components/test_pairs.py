"""Active pairs alone give the pass that all slots and a mask per input give, with its gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from madpipe.components import pairs as pairs_module
from madpipe.components.masks import ActiveMask, InputMask, SiteMask
from madpipe.components.model import ComponentModel
from madpipe.components.pairs import active_pairs
from madpipe.components.sites import find_sites

INSTANCES, COMPONENTS, RANK = 2, 5, 3


def targets() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    return {
        "layers": (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)),
        "positions": (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (7, 4)),
        "convolution": (convolution, (1, 4, 4)),
    }


@pytest.fixture(params=["layers", "positions", "convolution"])
def case(request) -> tuple[ComponentModel, Tensor]:
    torch.manual_seed(0)
    target, shape = targets()[request.param]
    sites = find_sites(target)
    model = ComponentModel(target, sites, [COMPONENTS * RANK] * len(sites), INSTANCES).double()
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    return model, torch.randn(INSTANCES * 9, *shape, dtype=torch.float64)


def random_mask(share: float) -> Tensor:
    return torch.rand(INSTANCES, 9, COMPONENTS) < share


@pytest.mark.parametrize("heights", [(), (1, 2)], ids=["one tile each", "several tiles"])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_pass_of_active_pairs_is_the_masked_pass_with_its_gradients(case, share, heights, monkeypatch):
    monkeypatch.setattr(pairs_module, "HEIGHTS", heights)
    monkeypatch.setattr(pairs_module, "COPIED", 0)
    model, x = case
    active = random_mask(share)
    slots = InputMask(active.double().repeat_interleave(RANK, -1))
    results: list[tuple[Tensor, ...]] = []
    for mask in (slots, ActiveMask(active_pairs(active))):
        masks: dict[str, SiteMask] = {site.name: mask for site in model.sites}
        output = model.masked_forward(x, masks).output
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        gradients = torch.autograd.grad((output * weights).sum(), [*model.V, *model.U], allow_unused=True)
        results.append((output, *gradients))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@given(S=st.integers(1, 3), B=st.integers(1, 6), C=st.integers(1, 5), share=st.floats(0, 1))
def test_pairs_hold_every_active_input_of_every_component_once(S: int, B: int, C: int, share: float):
    active = torch.rand(S, B, C) < share
    pairs = active_pairs(active)
    components = torch.arange(S * C) if pairs.components is None else pairs.components
    held = torch.ones(pairs.size, dtype=torch.bool).index_fill_(0, pairs.empty, False).view_as(pairs.rows)
    for s in range(S):
        for c in range(C):
            own = components == s * C + c
            found = pairs.rows[own][held[own]]
            assert found.tolist() == [s * B + b for b in range(B) if active[s, b, c]]


def test_a_component_of_many_inputs_does_not_make_the_tiles_of_the_others_taller():
    active = torch.zeros(1, 300, 50, dtype=torch.bool)
    active[:, :, 0] = True  # on 300 inputs, and 49 components on one input each
    active[:, 7] = True
    pairs = active_pairs(active)
    assert len(pairs.places) == 300 + 49
    assert pairs.size < 1000  # in one tile each: 50 * 300
