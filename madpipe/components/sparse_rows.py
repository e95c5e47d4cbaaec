"""Products of input rows with a matrix, over the numbers alone that are not zero where these are few.

Legend: S instances, B inputs, I numbers of an input, N columns.
"""

from functools import cached_property

from torch import Tensor
from torch.nn import functional

FEW = 1 / 8  # of all numbers: above it a product with all of them is no slower


class Rows:
    """Rows x [S*B, I], those of an instance one after another; the parts asked for are of one instance, or all."""

    def __init__(self, x: Tensor, instances: int):
        self.x, self.instances = x, instances

    @cached_property
    def sparse(self) -> bool:
        return int(self._filled.sum()) <= FEW * self.x.numel()

    def times(self, matrices: Tensor, part: slice) -> Tensor:
        """Every row of `part` times its instance's matrix, of [S, I, N]: [b, N]."""
        if self.sparse:
            first, last = self._bounds[part.start], self._bounds[part.stop]
            starts = self._starts[part] - first
            chosen, weights = self._columns[first:last], self._values[first:last]
            return functional.embedding_bag(
                chosen, matrices.flatten(0, 1), starts, mode="sum", per_sample_weights=weights
            )
        whole = matrices[self._instances(part)]
        return (self.x[part].unflatten(0, (len(whole), -1)) @ whole).flatten(0, 1)

    def own(self, values: Tensor, part: slice) -> Tensor:
        """Of `values` [S, ...], those of the instance of every row of `part`: [b, ...], or [1, ...] of one instance."""
        of = values[self._instances(part)]
        return of.repeat_interleave(self._size, 0) if len(of) > 1 else of

    @cached_property
    def _size(self) -> int:
        return len(self.x) // self.instances

    def _instances(self, part: slice) -> slice:
        return slice(part.start // self._size, -(-part.stop // self._size))

    @cached_property
    def _filled(self) -> Tensor:
        return self.x != 0

    @cached_property
    def _entries(self) -> Tensor:
        """Where in x the numbers that are not zero stand, row by row."""
        return self._filled.flatten().nonzero()[:, 0]

    @cached_property
    def _columns(self) -> Tensor:
        """Rows of all instances' matrices, one below the other."""
        width = self.x.shape[1]
        return self._entries % width + self._entries // (width * self._size) * width

    @cached_property
    def _values(self) -> Tensor:
        return self.x.flatten().index_select(0, self._entries)

    @cached_property
    def _starts(self) -> Tensor:
        counts = self._filled.sum(1)
        return counts.cumsum(0) - counts

    @cached_property
    def _bounds(self) -> list[int]:
        return [*self._starts.tolist(), len(self._entries)]
