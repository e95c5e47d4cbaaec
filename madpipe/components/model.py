"""ComponentModel: a frozen target with rank-one slots at its sites, run with any part of its weights.

A forward pass takes its masks as arguments. The linear maps of the sites are recognised by the weight tensor they use
(a thread-local TorchFunctionMode, routing.py), so no module is patched, hooked or written to, and any nn.Module can be
a target.
A weight used several times in a pass is masked alike each time; `site_inputs` holds what it reads first.
Not supported: weights recomputed at each access (parametrizations), and fused attention kernels.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from madpipe.components.layers import SiteOperation, SiteReading, site_operation, weight_matrix
from madpipe.components.masks import ActiveMask, FixedWeights, InputMask, Masks, SharedMask, SiteMask, over_positions
from madpipe.components.pairs import written_by_pairs
from madpipe.components.routing import Call, Recording, SiteRouter
from madpipe.components.sites import Site
from madpipe.errors import ShapeError, UnknownNameError

NOTHING_KNOWN: Mapping[str, SiteReading] = MappingProxyType({})


@dataclass(frozen=True)
class Forward:
    """What one pass computed: `output` [S, B, ...] and the sites' inputs [S, B, ...], in the order they ran.

    `recording`: all of its calls, where they were asked for.
    """

    output: Tensor
    site_inputs: Mapping[str, Tensor]
    recording: Recording | None = None


class ComponentModel(nn.Module):
    """A target and, per site, K slots V [S, I, K], U [S, K, O] for each of S instances.

    Instances are decompositions of one target trained side by side: other seeds, or other settings. Inputs of a masked
    pass are [S*B, ...], instance by instance.
    """

    def __init__(self, target: nn.Module, sites: Sequence[Site], slots: Sequence[int], instances: int = 1):
        super().__init__()
        self.target = copy.deepcopy(target).eval().requires_grad_(False)
        self.sites = tuple(sites)
        self.slots = tuple(slots)
        self.instances = instances
        self.V = nn.ParameterList(torch.zeros(instances, s.d_in, k) for s, k in zip(sites, slots, strict=True))
        self.U = nn.ParameterList(torch.zeros(instances, k, s.d_out) for s, k in zip(sites, slots, strict=True))

    def module(self, index: int) -> nn.Module:
        """The target's module whose weight is site `index`."""
        return self.target.get_submodule(self.sites[index].name)

    def weight(self, index: int) -> Tensor:
        """The target's weight at a site, [I, O]."""
        return weight_matrix(self.module(index))

    def component_sum(self, index: int, mask: Tensor | None = None) -> Tensor:
        """sum_k mask_k V_k U_k for each instance: [S, I, O]; `mask` is [S, K]."""
        V = self.V[index] if mask is None else self.V[index] * mask[:, None, :]
        return V @ self.U[index]

    def delta(self, index: int) -> Tensor:
        """The weight delta W - sum_k V_k U_k, [S, I, O]: what no slot holds."""
        return self.weight(index) - self.component_sum(index)

    def masked_weight(self, index: int, slots: Tensor, delta: float = 0.0) -> Tensor:
        """sum_k m_k V_k U_k + delta (W - sum_k V_k U_k), [S, I, O], for slot masks m [S, K]; exactly W at all ones."""
        kept = self.component_sum(index, slots - delta)
        return kept + delta * self.weight(index) if delta else kept

    def operation(self, index: int) -> SiteOperation:
        """The linear map of site `index`, without its bias."""
        return site_operation(self.sites[index], self.module(index))

    def reading(self, index: int, x: Tensor, written: Tensor | None = None) -> SiteReading:
        """Site `index` reading x [S*B, ...]; `written`: W x, where that is known."""
        return SiteReading(self.operation(index), x, self.V[index], self.weight(index), written)

    def clean_forward(self, x: Tensor) -> Forward:
        """The target as it is, on [B, ...]; site inputs and output with a leading axis of one."""
        return self._route(x, self._masked_by({}, {}), 1)

    def masked_forward(
        self,
        x: Tensor,
        masks: Masks,
        known: Mapping[str, SiteReading] = NOTHING_KNOWN,
        *,
        begun: Forward | None = None,
        record: bool = False,
    ) -> Forward:
        """The target on [S*B, ...], the weight of each site in `masks` replaced by its masked sum of slots and delta.

        Shapes of the masks stand in masks.py; a site without a mask runs clean. `known`: what sites read at their first
        use, where that is known before the pass. `begun`: a recorded pass of the same x, which is taken over up to the
        first site that has not the very same mask; `record` makes such a one. UnknownNameError when a site is never
        reached.
        """
        names = {site.name for site in self.sites}
        assert set(masks) <= names, f"masks for {sorted(set(masks) - names)}, sites are {sorted(names)}"
        recording = Recording.of(x, masks) if record else None
        earlier = begun.recording if begun is not None else None
        shared = () if earlier is None else earlier.shared_with(x, masks, [site.name for site in self.sites])
        return self._route(x, self._masked_by(masks, known), self.instances, recording, shared)

    def rebuilt_forward(self, x: Tensor, weights: Mapping[str, FixedWeights]) -> Forward:
        """The target on [B, ...] with rebuilt weights at sites, of any number T of instances: [T, B, ...]."""
        instances = len(next(iter(weights.values())).matrices)
        return self._route(x.repeat(instances, *[1] * (x.ndim - 1)), self._masked_by(weights, {}), instances)

    def perturbed_forward(self, x: Tensor, perturb: Callable[[int, Tensor, Tensor], Tensor]) -> Forward:
        """The clean pass with `perturb(site index, site input, W x)` in place of each site's W x, before its bias."""

        def handle(index: int, site_input: Tensor, first: bool) -> Tensor:
            clean = self.operation(index).apply_weights(site_input, self.weight(index)[None])
            return perturb(index, site_input, clean)

        return self._route(x, handle, 1)

    def _masked_by(
        self, masks: Masks, known: Mapping[str, SiteReading]
    ) -> Callable[[int, Tensor, bool], Tensor | None]:
        def handle(index: int, site_input: Tensor, first: bool) -> Tensor | None:
            name = self.sites[index].name
            if name not in masks:
                return None
            reading = known[name] if first and name in known else self.reading(index, site_input)
            return self._masked_site(index, reading, masks[name])

        return handle

    def _route(
        self,
        x: Tensor,
        handle: Callable[[int, Tensor, bool], Tensor | None],
        instances: int,
        recording: Recording | None = None,
        shared: Iterable[Call] = (),
    ) -> Forward:
        """One pass in which `handle(site index, site input, whether it is what the site reads first)` gives the sites'
        W x, or None for a site that runs clean.

        The bias is that of the call: modules that share a weight may each have their own.
        """
        captured: dict[str, Tensor] = {}

        def note(index: int, site_input: Tensor) -> None:
            captured.setdefault(self.sites[index].name, site_input)

        def with_bias(index: int, site_input: Tensor, bias: Tensor | None) -> Tensor | None:
            written = handle(index, site_input, captured[self.sites[index].name] is site_input)
            return None if written is None else self.operation(index).add_bias(written, bias)

        weights = [self.module(i).weight for i in range(len(self.sites))]
        with SiteRouter(weights, note, with_bias, shared, recording):  # type: ignore[arg-type]
            output = self.target(x)
        self._refuse_unreached(captured)
        B = x.shape[0] // instances
        return Forward(
            output.view(instances, B, *output.shape[1:]),
            {name: _per_instance(value, instances, B, name) for name, value in captured.items()},
            recording,
        )

    def _masked_site(self, index: int, reading: SiteReading, mask: SiteMask) -> Tensor:
        """The site's output [S*B, ...] under `mask`, without bias."""
        operation, x = reading.operation, reading.x
        V, U = self.V[index], self.U[index]
        match mask:
            case FixedWeights(matrices):
                return operation.apply_weights(x, matrices)
            case SharedMask(slots, delta):
                return operation.apply_weights(x, self.masked_weight(index, slots, delta))
            case ActiveMask(pairs):
                return written_by_pairs(operation, x, V, U, pairs)
            case InputMask(_, delta):
                inner = reading.inner
                rest = None if delta is None else reading.written_in_share(delta.flatten())
                return operation.write(inner * over_positions(mask.beyond_delta, inner.ndim), U, rest)

    def _refuse_unreached(self, captured: Mapping[str, Tensor]) -> None:
        missing = [site.name for site in self.sites if site.name not in captured]
        if missing:
            raise UnknownNameError(
                f"target.sites: the forward pass never uses the weight of {', '.join(missing)} in a linear map or "
                f"convolution; leave {'it' if len(missing) == 1 else 'them'} out of target.sites."
            )


def _per_instance(site_input: Tensor, instances: int, B: int, name: str) -> Tensor:
    """[S*B, ...] -> [S, B, ...]; ShapeError where the first axis is not that of the inputs."""
    if site_input.shape[0] != instances * B:
        raise ShapeError(
            f"target.sites: '{name}' reads {site_input.shape[0]} rows in a pass over {instances * B} inputs; the first "
            "axis of what it reads must be that of the inputs. Leave it out of target.sites, or keep that axis."
        )
    return site_input.view(instances, B, *site_input.shape[1:])
