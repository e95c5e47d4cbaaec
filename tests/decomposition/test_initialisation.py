"""Where slots start: inside the directions that trusted inputs excite."""

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition.initialisation import second_moment_span, start_at_weights, start_near_zero


def model(slots: int, instances: int = 2) -> ComponentModel:
    target = nn.Sequential(nn.Linear(8, 5))
    return ComponentModel(target, find_sites(target), [slots], instances)


def span(directions: int) -> Tensor:
    return torch.linalg.qr(torch.randn(8, directions))[0]


def rest(basis: Tensor) -> Tensor:
    """Projection on what is orthogonal to `basis`."""
    return torch.eye(len(basis)) - basis @ basis.t()


def test_a_second_moment_span_is_orthonormal():
    basis = second_moment_span(torch.randn(50, 8) @ torch.randn(8, 8))
    torch.testing.assert_close(basis.t() @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_a_second_moment_span_holds_its_share_and_no_direction_more(kept: float):
    rows = torch.randn(50, 8) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05]) + 1
    basis = second_moment_span(rows, kept)
    share = (rows @ basis).square().sum() / rows.square().sum()
    without_last = (rows @ basis[:, :-1]).square().sum() / rows.square().sum()
    assert without_last < kept <= share + 1e-6


def test_directions_that_are_never_excited_are_left_out():
    rows = torch.randn(50, 2) @ torch.randn(2, 8)
    assert second_moment_span(rows).shape == (8, 2)


def test_rows_that_are_all_zero_have_a_finite_span():
    assert second_moment_span(torch.zeros(5, 4)).isfinite().all()


def test_a_start_at_the_weights_sums_to_them_on_the_span():
    m, basis = model(12), span(3)
    start_at_weights(m, 0, basis, torch.Generator().manual_seed(0))
    wanted = basis.t() @ m.weight(0)
    torch.testing.assert_close(basis.t() @ m.component_sum(0).detach(), wanted.expand(2, 3, 5), atol=1e-5, rtol=1e-4)


def test_a_start_at_the_weights_sums_to_zero_off_the_span():
    m, basis = model(12), span(3)
    start_at_weights(m, 0, basis, torch.Generator().manual_seed(0))
    assert (rest(basis) @ m.component_sum(0).detach()).abs().max() < 1e-5


def test_a_start_at_the_weights_on_all_directions_is_the_weight():
    m = model(12)
    start_at_weights(m, 0, torch.eye(8), torch.Generator().manual_seed(0))
    torch.testing.assert_close(m.component_sum(0).detach(), m.weight(0).expand(2, 8, 5), atol=1e-5, rtol=1e-4)


def test_a_start_at_the_weights_with_fewer_slots_than_the_rank_is_a_projection():
    m = model(3, instances=1)
    start_at_weights(m, 0, torch.eye(8), torch.Generator().manual_seed(0))
    V = m.V[0][0].detach()
    projected = V @ torch.linalg.pinv(V) @ m.weight(0)
    torch.testing.assert_close(m.component_sum(0)[0].detach(), projected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("start", [start_at_weights, start_near_zero])
def test_reading_directions_are_unit_vectors(start):
    m = model(12)
    start(m, 0, span(3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(m.V[0].norm(dim=1).detach(), torch.ones(2, 12))


@pytest.mark.parametrize("start", [start_at_weights, start_near_zero])
def test_reading_directions_lie_in_the_span(start):
    m, basis = model(12), span(3)
    start(m, 0, basis, torch.Generator().manual_seed(0))
    assert (rest(basis) @ m.V[0].detach()).abs().max() < 1e-5


@pytest.mark.parametrize("start", [start_at_weights, start_near_zero])
def test_instances_start_apart_and_a_seed_starts_alike(start):
    basis = span(3)
    first, again = model(12), model(12)
    again.load_state_dict(first.state_dict())
    for m in (first, again):
        start(m, 0, basis, torch.Generator().manual_seed(0))
    assert torch.equal(first.V[0], again.V[0])
    assert not torch.equal(first.V[0][0], first.V[0][1])


def test_a_start_near_zero_is_small_beside_the_weights():
    m = model(40)
    start_near_zero(m, 0, span(4), torch.Generator().manual_seed(0))
    sizes = m.component_sum(0).detach().square().sum((1, 2)).sqrt() / m.weight(0).norm()
    assert (sizes < 0.5).all()


def test_a_weight_of_zeros_can_be_started():
    m = model(6)
    m.module(0).weight.data.zero_()
    start_at_weights(m, 0, span(3), torch.Generator().manual_seed(0))
    assert not m.component_sum(0).isnan().any()
