"""Groups of atoms, the singular vectors of their sums, and what closes a sum to its weight."""

import pytest
import torch

from madpipe.decomposition.atom_sums import closed, connected_groups, led_groups, singular_factors


@pytest.mark.parametrize(
    ("links", "groups"),
    [([], [[0], [1], [2], [3]]), ([(0, 1), (1, 3)], [[0, 1, 3], [2]]), ([(0, 3), (1, 2)], [[0, 3], [1, 2]])],
)
def test_linked_atoms_are_one_group(links, groups):
    linked = torch.eye(4, dtype=torch.bool)
    for i, j in links:
        linked[i, j] = linked[j, i] = True
    assert connected_groups(linked) == groups


def test_a_mixture_joins_one_of_its_two_leaders_and_never_joins_them():
    near = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)  # 1 is a mixture
    assert led_groups(near, torch.tensor([3.0, 1.0, 2.0, 4.0])) == [[3], [0, 1], [2]]


def test_singular_vectors_leave_out_what_is_negligible():
    matrix = torch.diag(torch.tensor([2.0, 1.0, 1e-3]))
    V, U = singular_factors(matrix, 0.1)
    assert U.shape == (2, 3)
    torch.testing.assert_close(V @ U, torch.diag(torch.tensor([2.0, 1.0, 0.0])))


def test_closing_the_rest_moves_every_atom_a_little():
    generator = torch.Generator().manual_seed(0)
    V, U = torch.randn(8, 5, generator=generator), torch.randn(5, 4, generator=generator)
    weight = V @ U + 0.1 * V @ torch.randn(5, 4, generator=generator)
    closed_V, closed_U = closed(V, U, weight, sweeps=4)
    assert (closed_V @ closed_U - weight).norm() < 0.05 * (V @ U - weight).norm()
    for k in range(5):
        before, after = torch.outer(V[:, k], U[k]), torch.outer(closed_V[:, k], closed_U[k])
        assert (after - before).norm() < 0.5 * before.norm()
