"""Which parts of the network make an input unusual: alive components and weight deltas, each against its trusted size.

A component's size is |V . x| |U| on the clean input of its site, a delta's the root mean square of (W - sum of alive)
x; both take the largest position. Involvement is log(size / 95 % quantile over trusted validation rows): above 0 means
more than 19 of 20 trusted inputs. It costs one extra linear map per site, and says where, not how much of the output
changed.

Where parts are components over several sites, one is as involved as its most involved slot, and this again is held
against its own 95 % quantile: the most involved of many is often above 0.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.decomposition.component_view import largest_of_groups
from madpipe.patterns.observation import Observation, Observer

View = Literal["subcomponents", "components"]


class Involvement:
    """Ranks parts for each input. `names` are `<site>.<k>` for slots, or `component.<n>@<site>+<site>` in the
    components view, and `delta@<site>`.

    Only variants trained to reproduce hidden activations are asked, since only their components stand for what the
    target does inside; where these are several, names begin with `<variant>:`. Sizes are float32: they explain, and
    no score depends on them.
    """

    def __init__(self, observer: Observer, view: View = "subcomponents"):
        self.method = observer.method
        self.scale: Tensor | None = None  # of each slot and delta
        self.component_scale: Tensor | None = None  # of each part in the components view
        self.view = view
        self._slot_names: list[str] = []  # of the part that each slot or delta belongs to
        self._instances = [s for s, matches in enumerate(self.method.matches_hidden()) if matches]
        self._maps = [self._site_map(observer, i) for i in range(len(self.method.model.sites))]
        self.names = self._slot_names if view == "subcomponents" else list(dict.fromkeys(self._slot_names))
        position = {name: place for place, name in enumerate(self.names)}
        self._parts = torch.tensor([position[name] for name in self._slot_names])

    def _site_map(self, observer: Observer, index: int) -> Tensor:
        """[1, I, n]: columns V_k |U_k| of the alive slots, then W - sum of alive, of each instance asked."""
        model, site = self.method.model, self.method.model.sites[index]
        alive, norms = self.method.alive(index), model.U[index].norm(dim=2)
        readers = [model.V[index][s][:, alive[s]] * norms[s][alive[s]] for s in self._instances]
        kept = observer.alive_weights[site.name].matrices
        removed = [model.weight(index) - kept[s] for s in self._instances]
        for s in self._instances:
            prefix = f"{self.method.variant_names[s]}:" if len(self._instances) > 1 else ""
            slots = alive[s].nonzero().flatten().tolist()
            self._slot_names += [f"{prefix}{name}" for name in self._names_of(index, s, slots)]
        self._slot_names.append(f"delta@{site.name}")
        return torch.cat([*readers, *removed], 1)[None].float()

    def _names_of(self, index: int, instance: int, slots: list[int]) -> list[str]:
        if self.view == "subcomponents":
            return [self.method.part_name(index, k) for k in slots]
        view = self.method.component_views()[instance]
        components = view.labels[self.method.model.sites[index].name][slots].tolist()
        return [f"{view.names[n]}@{view.spans[n]}" for n in components]

    def sizes(self, observation: Observation, rows: NDArray[np.intp] | None = None) -> Tensor:
        """Of alive slots and the weight delta at each site, [B, n], non-negative; `rows`: of these inputs alone."""
        model, columns = self.method.model, []
        chosen = slice(None) if rows is None else torch.from_numpy(rows)
        for i, site in enumerate(model.sites):
            x = observation.clean.site_inputs[site.name][0][chosen].float()
            written = model.operation(i).inner(x, self._maps[i])[0]
            widths = [written.shape[-1] - len(self._instances) * site.d_out, len(self._instances) * site.d_out]
            components, removed = written.split(widths, dim=-1)
            per_variant = removed.unflatten(-1, (len(self._instances), -1)).square().mean(-1).sqrt()
            columns += [_over_positions(components.abs()), _over_positions(per_variant).amax(1, keepdim=True)]
        return torch.cat(columns, 1)

    def fit(self, observations: Iterable[Observation]) -> None:
        """Learn each part's 95 % quantile on trusted validation rows."""
        sizes = torch.cat([self.sizes(observation) for observation in observations])
        self.scale = _usual_size(sizes)
        if self.view == "components":
            self.component_scale = _usual_size(self._of_components(sizes / self.scale))

    def top(self, observation: Observation, count: int, rows: NDArray[np.intp] | None = None) -> list[list[str]]:
        """The `count` most involved parts of each input, most involved first; `rows`: of these inputs alone."""
        if rows is not None and not len(rows):
            return []
        ratios = self.ratios(observation, rows).cpu().numpy()
        if len(set(self.names)) == len(self.names):
            best = np.asarray(self.names, dtype=object)[_largest(ratios, count)]
            return [list(row) for row in best.tolist()]
        rows = _largest(ratios, 2 * count).tolist()
        return [list(dict.fromkeys(self.names[j] for j in row))[:count] for row in rows]

    def ratios(self, observation: Observation, rows: NDArray[np.intp] | None = None) -> Tensor:
        """Of each part, its size over what is usual on trusted rows: [B, parts], in the order of `names`."""
        assert self.scale is not None
        ratios = self.sizes(observation, rows) / self.scale
        return ratios if self.component_scale is None else self._of_components(ratios) / self.component_scale

    def _of_components(self, ratios: Tensor) -> Tensor:
        return largest_of_groups(ratios, self._parts, len(self.names))

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of what `fit` learns."""
        return ("scale",) if self.view == "subcomponents" else ("scale", "component_scale")

    def state(self) -> dict[str, Tensor]:
        """What `fit` learned, to be stored."""
        return {name: getattr(self, name) for name in self.learned}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave, on the device of the method."""
        for name in self.learned:
            setattr(self, name, tensors[name].to(self.method.model.V[0].device))


def _usual_size(sizes: Tensor) -> Tensor:
    """95 % quantiles over rows [n, parts].

    A part silent on them is held to a thousandth of the median part, so that its first word counts, but finitely.
    """
    quantile = torch.quantile(sizes.float(), 0.95, dim=0).to(sizes)
    positive = quantile[quantile > 0]
    floor = 1e-3 * float(positive.median()) if len(positive) else 1e-12
    return quantile.clamp(min=max(floor, 1e-12))


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
