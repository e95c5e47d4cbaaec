"""Which rows of a batch one process computes, where several train one decomposition together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Process `rank` of `count`: of every instance's B rows, the rank-th of `count` equal parts, in order."""

    rank: int = 0
    count: int = 1

    def of(self, whole: Tensor) -> Tensor:
        """[S, B, ...] -> [S, B / count, ...]."""
        return whole if self.count == 1 else whole.chunk(self.count, 1)[self.rank]

    def uniform(self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """U(0, 1) of `shape` [S, B / count, ...]: this process's part of what one process would draw for all B rows.

        Drawn where `generator` lives, so that a CPU generator gives every device the same draws.
        """
        whole = (shape[0], shape[1] * self.count, *shape[2:])
        return self.of(torch.rand(whole, generator=generator, device=generator.device, dtype=dtype))


WHOLE = Share()
