"""Networks of one input: values and gradients are those of the formula written out, in blocks of any size."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from madpipe.decomposition import scalar_networks
from madpipe.decomposition.scalar_networks import scalar_networks as networks


def written_out(z: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return (w[:, :, None] * functional.gelu(a[:, :, None] * z[:, None] + b[:, :, None])).sum(1)


def drawn(K: int, N: int, H: int, dtype: torch.dtype = torch.double) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((K, N), (K, H), (K, H), (K, H))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("block", [1, 12, 50, 2**18])  # one column at a time, part of a row, uneven rows, everything
def test_values_and_gradients_are_those_of_the_formula(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalar_networks, "BLOCK", block)
    arguments = drawn(5, 7, 3)
    torch.testing.assert_close(networks(*arguments), written_out(*arguments))
    weight = torch.randn(5, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(networks(*arguments), arguments, weight)
    torch.testing.assert_close(found, torch.autograd.grad(written_out(*arguments), arguments, weight))


def test_float32_gradients_are_as_exact_as_those_written_out() -> None:
    single = drawn(8, 4096, 16, torch.float32)
    double = [value.detach().double().requires_grad_() for value in single]
    found = torch.autograd.grad(networks(*single).sum(), single)
    exact = torch.autograd.grad(written_out(*double).sum(), double)
    for one, other in zip(found, exact, strict=True):
        assert (one - other).abs().max() < 2e-6 * other.abs().max()


def test_nothing_of_the_hidden_units_is_kept_for_gradients() -> None:
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        networks(*drawn(6, 100, 16))
    assert max(kept) == 600


def test_under_autocast_low_precision_inputs_are_taken_up_in_the_weights_precision() -> None:
    z, *weights = drawn(3, 10, 4, torch.float32)
    low = z.detach().to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = networks(low, *weights)
    y.sum().backward()
    torch.testing.assert_close(y, written_out(low.float(), *weights))
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16
