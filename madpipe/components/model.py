"""ComponentModel: a frozen target with rank-one slots at its sites, run with any part of its weights.

A forward pass takes its masks as arguments. The linear maps of the sites are recognised by the weight tensor they use
(a thread-local TorchFunctionMode), so no module is patched, hooked or written to, and any nn.Module can be a target.
A weight used several times in a pass is masked alike each time; `site_inputs` holds what it reads first.
Not supported: weights recomputed at each access (parametrizations), and fused attention kernels.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from madpipe.components.layers import SiteOperation, SiteReading, site_operation, weight_matrix
from madpipe.components.masks import ActiveMask, FixedWeights, InputMask, Masks, SharedMask, SiteMask
from madpipe.components.pairs import written_by_pairs
from madpipe.components.sites import Site
from madpipe.errors import ShapeError, UnknownNameError

NOTHING_KNOWN: Mapping[str, SiteReading] = MappingProxyType({})


@dataclass(frozen=True)
class Forward:
    """What one pass computed: `output` [S, B, ...] and the sites' inputs [S, B, ...], in the order they ran."""

    output: Tensor
    site_inputs: Mapping[str, Tensor]


class _SiteRouter(TorchFunctionMode):
    """Hands each linear map that uses a site's weight to `handle(site index, x, bias)`; the rest runs as it is."""

    def __init__(self, weights: Iterable[Tensor], handle: Callable[[int, Tensor, Tensor | None], Tensor | None]):
        super().__init__()
        self.index = {id(weight): i for i, weight in enumerate(weights)}
        self.handle = handle

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear or func is functional.conv2d:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            site = self.index.get(id(weight))
            if site is not None:
                bias = args[2] if len(args) > 2 else kwargs.get("bias")
                replaced = self.handle(site, args[0] if args else kwargs["input"], bias)
                if replaced is not None:
                    return replaced
        return func(*args, **kwargs)


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

    def reading(self, index: int, x: Tensor) -> SiteReading:
        """Site `index` reading x [S*B, ...]."""
        return SiteReading(self.operation(index), x, self.V[index], self.weight(index))

    def clean_forward(self, x: Tensor) -> Forward:
        """The target as it is, on [B, ...]; site inputs and output with a leading axis of one."""
        return self._run(x, {}, {}, 1)

    def masked_forward(self, x: Tensor, masks: Masks, known: Mapping[str, SiteReading] = NOTHING_KNOWN) -> Forward:
        """The target on [S*B, ...], the weight of each site in `masks` replaced by its masked sum of slots and delta.

        Shapes of the masks stand in masks.py; a site without a mask runs clean. `known`: what sites read at their first
        use, where that is known before the pass. UnknownNameError when a site is never reached.
        """
        names = {site.name for site in self.sites}
        assert set(masks) <= names, f"masks for {sorted(set(masks) - names)}, sites are {sorted(names)}"
        return self._run(x, masks, known, self.instances)

    def perturbed_forward(self, x: Tensor, perturb: Callable[[int, Tensor, Tensor], Tensor]) -> Forward:
        """The clean pass with `perturb(site index, site input, W x)` in place of each site's W x, before its bias."""

        def handle(index: int, site_input: Tensor) -> Tensor:
            clean = self.operation(index).apply_weights(site_input, self.weight(index)[None])
            return perturb(index, site_input, clean)

        return self._route(x, handle, 1)

    def _run(self, x: Tensor, masks: Masks, known: Mapping[str, SiteReading], instances: int) -> Forward:
        unused = dict(known)

        def handle(index: int, site_input: Tensor) -> Tensor | None:
            name = self.sites[index].name
            if name not in masks:
                return None
            reading = unused.pop(name) if name in unused else self.reading(index, site_input)
            return self._masked_site(index, reading, masks[name])

        return self._route(x, handle, instances)

    def _route(self, x: Tensor, handle: Callable[[int, Tensor], Tensor | None], instances: int) -> Forward:
        """One pass in which `handle(site index, site input)` gives the sites' W x, or None for a site that runs clean.

        The bias is that of the call: modules that share a weight may each have their own.
        """
        captured: dict[str, Tensor] = {}

        def capture_and_handle(index: int, site_input: Tensor, bias: Tensor | None) -> Tensor | None:
            captured.setdefault(self.sites[index].name, site_input)
            written = handle(index, site_input)
            return None if written is None else self.operation(index).add_bias(written, bias)

        weights = [self.module(i).weight for i in range(len(self.sites))]
        with _SiteRouter(weights, capture_and_handle):  # type: ignore[arg-type]
            output = self.target(x)
        self._refuse_unreached(captured)
        B = x.shape[0] // instances
        return Forward(
            output.view(instances, B, *output.shape[1:]),
            {name: _per_instance(value, instances, B, name) for name, value in captured.items()},
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
            case InputMask(slots, delta):
                inner, slots = reading.inner, _over_positions(slots, reading.inner)
                if delta is None:
                    return operation.write(inner * slots, U)
                delta_positions = _over_positions(delta[..., None], inner)
                kept = operation.write(inner * (slots - delta_positions), U)
                per_row = delta.reshape(-1, *[1] * (reading.written.ndim - 1))
                return kept + per_row * reading.written

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


def _over_positions(mask: Tensor, inner: Tensor) -> Tensor:
    """[S, B, K] -> [S, B, 1.., K], so that a mask without positions holds at all of them."""
    missing = inner.ndim - mask.ndim
    return mask.reshape(*mask.shape[:2], *[1] * missing, *mask.shape[2:]) if missing else mask
