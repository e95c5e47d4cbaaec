"""Which slots make up each component of one instance: the `components` view of a decomposition.

In APD a component is the same slots at every site; where slots are subcomponents, it is a cluster of them over all
sites, found on trusted data (grouping.py). Legend: K slots of a site, G components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ComponentView:
    """labels: site -> [K] long, the component of each slot, -1 where it is in none. count: G."""

    labels: Mapping[str, Tensor]
    count: int

    @classmethod
    def of_groups(cls, groups: Sequence[Sequence[int]], slots: Mapping[str, int]) -> "ComponentView":
        """`groups` hold positions among the slots of all sites, one site after another; `slots`: site -> K."""
        labels = torch.full((sum(slots.values()),), -1)
        for component, members in enumerate(groups):
            labels[list(members)] = component
        return cls(dict(zip(slots, labels.split(list(slots.values())), strict=True)), len(groups))

    @cached_property
    def names(self) -> list[str]:
        return [f"component.{n}" for n in range(self.count)]

    @cached_property
    def spans(self) -> list[str]:
        """The sites that each component has slots at, joined by "+"."""
        own: list[list[str]] = [[] for _ in range(self.count)]
        for site, labels in self.labels.items():
            for component in labels[labels >= 0].unique().tolist():
                own[component].append(site)
        return ["+".join(sites) for sites in own]

    def largest(self, values: Mapping[str, Tensor]) -> Tensor:
        """Of each component's slots the value of largest magnitude, with its sign: site -> [..., K] to [..., G].

        Of importances the largest: a component may not be ablated where any of its subcomponents may not (OR).
        """
        labels = torch.cat(list(self.labels.values()))
        joined = torch.cat([values[site] for site in self.labels], -1)
        return largest_of_groups(joined[..., labels >= 0], labels[labels >= 0], self.count)

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sums over each component's slots at the sites of `values`: site -> [..., K] to [..., G]."""
        parts = []
        for site, value in values.items():
            own = self.labels[site].to(value.device)
            empty = value.new_zeros((*value.shape[:-1], self.count))
            parts.append(empty.index_add_(-1, own[own >= 0], value[..., own >= 0]))
        return torch.stack(parts).sum(0)


def largest_of_groups(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Of each group's values the one of largest magnitude, with its sign: [..., n], group of each [n], to [..., count].

    0 where a group is empty.
    """
    index, empty = groups.to(values.device).expand_as(values), values.new_zeros((*values.shape[:-1], count))
    highest = empty.scatter_reduce(-1, index, values, "amax", include_self=False)
    lowest = empty.scatter_reduce(-1, index, values, "amin", include_self=False)
    return torch.where(highest >= -lowest, highest, lowest)
