"""Batches of rows to be scored, cut so that a row comes to the same whatever is beside it (law 3)."""

from collections.abc import Iterator

import torch
from torch import Tensor

SINGLE_PRECISION_ROWS = 256


def scoring_batches(x: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Consecutive batches of x [N, ...], each with how many of its rows count.

    In single precision the kernel that a matrix product runs, and with it the order of its sums, depends on the number
    of rows; residuals are small differences of large numbers and show it in the fourth digit. There every batch has
    SINGLE_PRECISION_ROWS rows, the last filled up with its own first row. In double precision it shows nowhere, and
    batches have up to `size` rows.
    """
    if x.dtype == torch.float64:
        for part in x.split(size):
            yield part, len(part)
        return
    for part in x.split(SINGLE_PRECISION_ROWS):
        missing = SINGLE_PRECISION_ROWS - len(part)
        filled = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part
        yield filled, len(part)
