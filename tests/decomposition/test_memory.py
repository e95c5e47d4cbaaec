"""A step makes no tensor with an entry for each component and weight, let alone for each input too."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from madpipe.components.sites import find_sites
from madpipe.decomposition.apd import APD, APDConfig
from madpipe.decomposition.method import Method, MethodConfig
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.spd import SPD, SPDConfig
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.targets import mlp

READS, WRITES, C = 24, 40, 512  # of the first site
MATRICES = C * WRITES * READS  # the numbers of a matrix for each component


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made within it holds, in its forward and backward passes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // value.element_size())
        return out


def most_numbers_of_a_step(method_class: type[Method], config: MethodConfig) -> int:
    torch.manual_seed(0)
    target = mlp.build([READS, WRITES, 6])
    inputs = torch.randn(64, READS)
    sites = find_sites(target)
    method = method_class(target, sites, config, len(method_class.variants(config)))
    method.initialise(trusted_statistics(target, sites, inputs, "regression"), torch.Generator().manual_seed(0))
    optimizer, rows = make_optimizer(method), [torch.arange(64)] * method.model.instances
    with Largest() as largest:
        take_step(method, optimizer, draw_batch(method, inputs, rows, 0, seed=0), 0)
    return largest.numbers


@pytest.mark.parametrize("attribution", ["gradient", "integrated_gradients", "ablation"])
def test_a_step_of_apd_makes_no_matrix_for_each_component(attribution: str) -> None:
    config = APDConfig(components=C, rank=2, top_k=4.0, batch_size=8, alive_share=0.0, attribution=attribution)
    assert most_numbers_of_a_step(APD, config) < MATRICES


@pytest.mark.parametrize("function", ["site", "slot"])
def test_a_step_of_spd_makes_no_matrix_for_each_slot(function: str) -> None:
    config = SPDConfig(
        components=C,
        batch_size=8,
        importance_function=function,
        importance_hidden=16,
        mask_shares=(0.0, 0.0, 1.0),
        layerwise_coefficient=1.0,
    )
    assert most_numbers_of_a_step(SPD, config) < MATRICES


def test_the_largest_tensor_is_seen_in_the_backward_pass_too() -> None:
    V, U = (torch.ones(C, *shape, requires_grad=True) for shape in ((WRITES, 1), (1, READS)))
    with Largest() as forward:
        total = (V @ U).square().sum()
    with Largest() as backward:
        total.backward()
    assert forward.numbers == backward.numbers == MATRICES
