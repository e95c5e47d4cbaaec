"""Law 2: a masked forward leaves no state behind and never changes the target's bytes."""

import hashlib
import threading

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.masks import InputMask, SharedMask
from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def state(module: nn.Module) -> list[tuple]:
    """What a pass could leave on the modules: attributes by identity, hooks, flags."""
    return [
        (
            name,
            sorted((key, id(value)) for key, value in vars(part).items()),
            [sorted(hooks) for key, hooks in vars(part).items() if key.endswith("_hooks")],
            part.training,
            [(key, id(value), value.requires_grad) for key, value in part.named_parameters(recurse=False)],
        )
        for name, part in module.named_modules()
    ]


def half_masks(case) -> dict[str, InputMask]:
    S, B = case.instances, len(case.x)
    return {
        site.name: InputMask(torch.full((S, B, k), 0.5), torch.full((S, B), 0.25))
        for site, k in zip(case.model.sites, case.model.slots, strict=True)
    }


def test_a_masked_forward_leaves_the_bytes_of_the_target(case):
    before = digest(case.model)
    case.model.masked_forward(case.repeated(), half_masks(case))
    assert digest(case.model) == before


def test_a_masked_forward_leaves_attributes_hooks_and_flags(case):
    before = state(case.model)
    case.model.masked_forward(case.repeated(), half_masks(case))
    assert state(case.model) == before


def test_a_masked_forward_leaves_its_inputs_and_masks(case):
    x, masks = case.repeated(), half_masks(case)
    case.model.masked_forward(x, masks)
    assert torch.equal(x, case.repeated())
    assert all((mask.slots == 0.5).all() for mask in masks.values())


def test_the_clean_pass_after_a_masked_one_is_still_clean(case):
    clean = case.model.clean_forward(case.x).output
    case.model.masked_forward(case.repeated(), half_masks(case))
    assert torch.equal(case.model.clean_forward(case.x).output, clean)


def test_the_users_own_module_is_copied_and_left_alone():
    target = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)).train()
    before = state(target)
    ComponentModel(target, find_sites(target), [2, 2])
    assert state(target) == before


def test_the_copy_is_frozen_and_in_eval_mode():
    model = ComponentModel(nn.Sequential(nn.Linear(3, 4), nn.Dropout()).train(), [], [])
    assert not model.target.training
    assert not any(parameter.requires_grad for parameter in model.target.parameters())


class Stumbling(nn.Module):
    """Raises after its first layer when an input is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if (x < 0).any():
            raise ValueError("negative")
        return self.second(h)


def test_a_pass_that_raises_leaves_attributes_hooks_and_bytes(random_model):
    model = random_model(Stumbling(), 2, 1)
    before = state(model), digest(model)
    with pytest.raises(ValueError, match="negative"):
        model.masked_forward(-torch.ones(2, 3), {"first": SharedMask(torch.zeros(1, 2))})
    assert (state(model), digest(model)) == before


def test_a_pass_that_raises_ends_its_routing(random_model):
    model, x = random_model(Stumbling(), 2, 1), torch.ones(2, 3)
    clean = model.target(x)
    with pytest.raises(ValueError, match="negative"):
        model.masked_forward(-x, {"second": SharedMask(torch.zeros(1, 2))})
    assert torch.equal(model.target(x), clean)


def test_masks_of_one_thread_do_not_reach_another(random_model):
    """Each thread waits inside its pass for the other to be inside its own."""
    barrier = threading.Barrier(2, timeout=20)

    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            barrier.wait()
            h = self.first(x)
            barrier.wait()
            return self.second(h)

    target = Meeting()
    model = random_model(target, 2, 1)
    outputs: dict[float, Tensor] = {}

    def run(share: float) -> None:
        masks = {name: SharedMask(torch.full((1, 2), share), share) for name in ("first", "second")}
        outputs[share] = model.masked_forward(torch.ones(1, 3), masks).output[0]

    threads = [threading.Thread(target=run, args=(share,)) for share in (1.0, 0.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    torch.testing.assert_close(outputs[1.0], target.second(target.first(torch.ones(1, 3))).detach())
    assert torch.equal(outputs[0.0], target.second.bias.detach()[None])


def test_gradients_reach_the_slots_and_not_the_target(case):
    case.model.V.requires_grad_(True)
    case.model.masked_forward(case.repeated(), half_masks(case)).output.square().sum().backward()
    assert all(bool(V.grad.any()) for V in case.model.V)
    assert all(parameter.grad is None for parameter in case.model.target.parameters())
