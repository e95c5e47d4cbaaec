"""Law 1: all masks one and delta one is the clean forward, for every layer kind, any model, any number of instances."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from madpipe.components.masks import InputMask, SharedMask
from madpipe.components.model import ComponentModel, Forward
from madpipe.errors import ShapeError, UnknownNameError


def shared_ones(model: ComponentModel) -> dict[str, SharedMask]:
    return {
        site.name: SharedMask(torch.ones(model.instances, k), 1.0)
        for site, k in zip(model.sites, model.slots, strict=True)
    }


def input_ones(model: ComponentModel, inputs: int) -> dict[str, InputMask]:
    return {
        site.name: InputMask(torch.ones(model.instances, inputs, k), torch.ones(model.instances, inputs))
        for site, k in zip(model.sites, model.slots, strict=True)
    }


def assert_same(masked: Forward, clean: Forward, tolerance: float = 1e-5) -> None:
    """Outputs and what every site reads, relative to the largest value."""
    pairs = {"output": (masked.output, clean.output)}
    pairs |= {name: (masked.site_inputs[name], clean.site_inputs[name]) for name in clean.site_inputs}
    for name, (found, wanted) in pairs.items():
        gap, size = (found - wanted).abs().max(), wanted.abs().max().clamp(min=1e-6)
        assert gap <= tolerance * size, (name, float(gap), float(size))


def test_the_clean_pass_is_the_target_bit_for_bit(case):
    assert torch.equal(case.model.clean_forward(case.x).output[0], case.model.target(case.x))


def test_no_masks_at_all_is_the_target_bit_for_bit(case):
    outputs = case.model.masked_forward(case.repeated(), {}).output
    assert torch.equal(outputs.flatten(0, 1), case.model.target(case.repeated()))


def test_a_shared_mask_of_ones_with_delta_is_the_weight_bit_for_bit(case):
    for i, k in enumerate(case.model.slots):
        whole = case.model.masked_weight(i, torch.ones(case.instances, k), 1.0)
        assert torch.equal(whole, case.model.weight(i).expand_as(whole))


def test_a_shared_mask_of_ones_with_delta_gives_the_clean_pass(case):
    # The weight is exact; the bias is added after the product rather than in it, which costs a last bit.
    masked = case.model.masked_forward(case.repeated(), shared_ones(case.model))
    assert_same(masked, case.model.clean_forward(case.x), 1e-6)


def test_an_input_mask_of_ones_with_delta_gives_the_clean_pass(case):
    masked = case.model.masked_forward(case.repeated(), input_ones(case.model, len(case.x)))
    assert_same(masked, case.model.clean_forward(case.x))


def test_one_masked_site_among_clean_ones_gives_the_clean_pass(case):
    name = case.model.sites[-1].name
    masked = case.model.masked_forward(case.repeated(), {name: input_ones(case.model, len(case.x))[name]})
    assert_same(masked, case.model.clean_forward(case.x))


def test_it_holds_in_float64_to_float64_precision(case):
    model = case.model.double()
    masks = {name: SharedMask(mask.slots.double(), 1.0) for name, mask in shared_ones(model).items()}
    assert_same(model.masked_forward(case.repeated().double(), masks), model.clean_forward(case.x.double()), 1e-14)


def test_the_parts_and_the_delta_sum_to_the_weight(case):
    for i in range(len(case.model.sites)):
        whole = case.model.component_sum(i) + case.model.delta(i)
        torch.testing.assert_close(whole, case.model.weight(i).expand_as(whole))


def test_a_component_sum_is_the_sum_of_outer_products(case):
    V, U = case.model.V[0], case.model.U[0]
    one_by_one = sum(V[:, :, k, None] * U[:, k, None, :] for k in range(case.model.slots[0]))
    torch.testing.assert_close(case.model.component_sum(0), one_by_one)


sizes = st.integers(1, 6)


@given(
    inputs=sizes,
    d_in=sizes,
    d_out=sizes,
    positions=st.lists(st.integers(1, 3), max_size=2),
    instances=st.integers(1, 3),
)
def test_linear_sites_of_any_size_are_faithful(random_model, inputs, d_in, d_out, positions, instances):
    model = random_model(nn.Sequential(nn.Linear(d_in, d_out)), 3, instances)
    x = torch.randn(inputs, *positions, d_in)
    repeated = x.repeat(instances, *[1] * (x.ndim - 1))
    assert_same(model.masked_forward(repeated, input_ones(model, inputs)), model.clean_forward(x))


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    instances=st.integers(1, 3),
)
def test_convolutions_of_any_geometry_are_faithful(
    random_model, kernel, stride, padding, dilation, padding_mode, instances
):
    layer = nn.Conv2d(
        2, 3, kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=padding_mode, bias=instances > 1
    )
    model = random_model(nn.Sequential(layer), 4, instances)
    x = torch.randn(2, 2, 6, 7)
    clean = model.clean_forward(x)
    for masks in (input_ones(model, 2), shared_ones(model)):
        assert_same(model.masked_forward(x.repeat(instances, 1, 1, 1), masks), clean)


def padded(module: nn.Module, x: Tensor) -> Tensor:
    """What a convolution with another padding mode than zeros convolves."""
    if getattr(module, "padding_mode", "zeros") == "zeros":
        return x
    return nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)


def test_site_inputs_are_what_hooks_would_see(case):
    seen: dict[str, Tensor] = {}
    for site in case.model.sites:

        def note(module: nn.Module, args: tuple[Tensor], name: str = site.name) -> None:
            seen[name] = padded(module, args[0])

        case.model.target.get_submodule(site.name).register_forward_pre_hook(note)
    captured = case.model.clean_forward(case.x).site_inputs
    assert list(captured) == list(seen)
    assert all(torch.equal(captured[name][0], seen[name]) for name in seen)


class Applied(nn.Module):
    """A linear map called as a function, with keywords, on the module's weight."""

    def __init__(self, biased: bool) -> None:
        super().__init__()
        self.layer, self.biased = nn.Linear(3, 2), biased

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(weight=self.layer.weight, bias=self.layer.bias if self.biased else None, input=x)


@pytest.mark.parametrize("biased", [True, False])
def test_a_bare_function_call_with_or_without_the_modules_bias_is_faithful(random_model, biased):
    model, x = random_model(Applied(biased), 2, 1), torch.randn(4, 3)
    assert_same(model.masked_forward(x, shared_ones(model)), model.clean_forward(x))


def test_modules_that_share_a_weight_keep_their_own_biases(random_model):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model, x = random_model(nn.Sequential(first, nn.ReLU(), second), 2, 2), torch.randn(3, 4)
    assert_same(model.masked_forward(x.repeat(2, 1), shared_ones(model)), model.clean_forward(x))


def test_a_shared_weight_is_masked_at_every_use(random_model):
    layer = nn.Linear(4, 4, bias=False)
    model = random_model(nn.Sequential(layer, layer), 2, 1)
    assert not model.masked_forward(torch.randn(3, 4), {"0": SharedMask(torch.zeros(1, 2))}).output.any()


class Unreached(nn.Module):
    """Holds two layers, uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_site_that_is_never_reached_is_named(random_model):
    with pytest.raises(UnknownNameError, match="never uses the weight of idle in a linear map"):
        random_model(Unreached(), 2, 1).clean_forward(torch.randn(4, 3))


class Regrouped(nn.Module):
    """Moves positions to the axis of the inputs, which ends what can be told per input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 3)).view(len(x), -1, 2).mean(1)


def test_a_site_that_reads_other_rows_than_the_inputs_is_named(random_model):
    with pytest.raises(ShapeError, match="'layer' reads 20 rows in a pass over 4 inputs"):
        random_model(Regrouped(), 2, 1).clean_forward(torch.randn(4, 5, 3))


def test_masks_for_a_site_that_is_not_there_are_our_own_mistake(case):
    with pytest.raises(AssertionError, match="nowhere"):
        case.model.masked_forward(case.repeated(), {"nowhere": SharedMask(torch.ones(case.instances, 5))})
