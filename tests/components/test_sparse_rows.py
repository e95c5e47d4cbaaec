"""Products over numbers that are not zero alone are those over all numbers, values and gradients."""

import pytest
import torch

from madpipe.components.sparse_rows import Rows

INSTANCES, INPUTS, READS, COLUMNS = 3, 8, 20, 6


def rows_with(share: float) -> Rows:
    x = torch.randn(INSTANCES * INPUTS, READS, dtype=torch.float64)
    return Rows(x * (torch.rand(x.shape) < share), INSTANCES)


@pytest.mark.parametrize(("share", "sparse"), [(0.0, True), (0.05, True), (1.0, False)])
@pytest.mark.parametrize("part", [slice(0, 24), slice(8, 16), slice(17, 21)], ids=["all", "an instance", "some of one"])
def test_rows_times_a_matrix_are_the_products_of_whole_rows(share, sparse, part):
    torch.manual_seed(0)
    rows = rows_with(share)
    matrices = torch.randn(INSTANCES, READS, COLUMNS, dtype=torch.float64, requires_grad=True)
    assert rows.sparse == sparse
    expected = torch.einsum("sbi,sin->sbn", rows.x.view(INSTANCES, INPUTS, READS), matrices).flatten(0, 1)[part]
    found = rows.times(matrices, part)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(found)
    own, whole = (torch.autograd.grad((values * weights).sum(), matrices)[0] for values in (found, expected))
    torch.testing.assert_close(own, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("part", [slice(0, 24), slice(17, 21)], ids=["all", "some of one"])
def test_each_row_is_given_what_belongs_to_its_instance(part):
    values = torch.arange(INSTANCES)[:, None]
    wanted = values.repeat_interleave(INPUTS, 0)[part]
    assert torch.equal(rows_with(1.0).own(values, part).expand_as(wanted), wanted)
