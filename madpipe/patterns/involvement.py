"""Which parts of the network make an input unusual: alive components and weight deltas, each against its trusted size.

A component's size is |V . x| |U| on the clean input of its site, a delta's the root mean square of (W - sum of alive)
x; both take the largest position. Involvement is log(size / 95 % quantile over trusted validation rows): above 0 means
more than 19 of 20 trusted inputs. It costs one extra linear map per site, and says where, not how much of the output
changed.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.patterns.observation import Observation, Observer


class Involvement:
    """Ranks parts for each input. `names` are `<site>.<k>` for components and `delta@<site>`.

    Only variants trained to reproduce hidden activations are asked, since only their components stand for what the
    target does inside; where these are several, names begin with `<variant>:`. Sizes are float32: they explain, and
    no score depends on them.
    """

    def __init__(self, observer: Observer):
        self.method = observer.method
        self.scale: Tensor | None = None
        self.names: list[str] = []
        self._instances = [s for s, matches in enumerate(self.method.matches_hidden()) if matches]
        self._maps = [self._site_map(observer, i) for i in range(len(self.method.model.sites))]

    def _site_map(self, observer: Observer, index: int) -> Tensor:
        """[1, I, n]: columns V_k |U_k| of the alive slots, then W - sum of alive, of each instance asked."""
        model, site = self.method.model, self.method.model.sites[index]
        alive, norms = self.method.alive(index), model.U[index].norm(dim=2)
        readers = [model.V[index][s][:, alive[s]] * norms[s][alive[s]] for s in self._instances]
        kept = observer.alive_weights[site.name].matrices
        removed = [model.weight(index) - kept[s] for s in self._instances]
        for s in self._instances:
            prefix = f"{self.method.variant_names[s]}:" if len(self._instances) > 1 else ""
            self.names += [f"{prefix}{self.method.part_name(index, k)}" for k in alive[s].nonzero().flatten().tolist()]
        self.names.append(f"delta@{site.name}")
        return torch.cat([*readers, *removed], 1)[None].float()

    def sizes(self, observation: Observation) -> Tensor:
        """[B, parts], non-negative, in the order of `names`."""
        model, columns = self.method.model, []
        for i, site in enumerate(model.sites):
            x = observation.clean.site_inputs[site.name][0].float()
            written = model.operation(i).inner(x, self._maps[i])[0]
            widths = [written.shape[-1] - len(self._instances) * site.d_out, len(self._instances) * site.d_out]
            components, removed = written.split(widths, dim=-1)
            per_variant = removed.unflatten(-1, (len(self._instances), -1)).square().mean(-1).sqrt()
            columns += [_over_positions(components.abs()), _over_positions(per_variant).amax(1, keepdim=True)]
        return torch.cat(columns, 1)

    def fit(self, observations: Iterable[Observation]) -> None:
        """Learn each part's 95 % quantile on trusted validation rows.

        A part silent there is held to a thousandth of the median part, so that its first word counts, but finitely.
        """
        sizes = torch.cat([self.sizes(observation) for observation in observations])
        quantile = torch.quantile(sizes.float(), 0.95, dim=0).to(sizes)
        positive = quantile[quantile > 0]
        floor = 1e-3 * float(positive.median()) if len(positive) else 1e-12
        self.scale = quantile.clamp(min=max(floor, 1e-12))

    def top(self, observation: Observation, count: int) -> list[list[str]]:
        """The `count` most involved parts of each input, most involved first."""
        assert self.scale is not None
        ratios = (self.sizes(observation) / self.scale).cpu().numpy()
        if len(set(self.names)) == len(self.names):
            best = np.asarray(self.names, dtype=object)[_largest(ratios, count)]
            return [list(row) for row in best.tolist()]
        rows = _largest(ratios, 2 * count).tolist()
        return [list(dict.fromkeys(self.names[j] for j in row))[:count] for row in rows]


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Columns of the `count` largest entries of each row, largest first; overwrites `values`.

    A few passes of argmax are many times faster than sorting, or than topk, on some hundred columns.
    """
    rows = np.arange(len(values))
    best = np.empty((len(values), min(count, values.shape[1])), dtype=np.intp)
    for j in range(best.shape[1]):
        best[:, j] = values.argmax(axis=1)
        values[rows, best[:, j]] = -np.inf
    return best


def _over_positions(values: Tensor) -> Tensor:
    """[B, *P, N] -> [B, N], the largest."""
    return values.flatten(1, -2).amax(1) if values.ndim > 2 else values
