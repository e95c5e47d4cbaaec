"""Attacks on the digits network: they stay in their box, raise the loss, and noise does not."""

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.tasks.adversarial import SIZE, STEP, STEPS, fgsm, loss_gradient, pgd, with_sign_noise
from madpipe.tasks.build import build_task
from madpipe.tasks.digits_images import as_input, split_digits
from madpipe.tasks.digits_target import NETS, new_network, predict

NET = NETS["mlp"]


@pytest.fixture(scope="module")
def module() -> nn.Sequential:
    return new_network(NET, 0).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    digits = split_digits(0)["test anomalous"]
    return as_input(digits.images, NET.shape), torch.from_numpy(digits.labels)


def attacked(name: str, module: nn.Sequential, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return fgsm(module, *batch) if name == "fgsm" else pgd(module, *batch, np.random.default_rng(0))


def loss(module: nn.Sequential, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(x), labels, reduction="none")


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_an_attack_stays_in_its_box_and_in_the_range_of_a_pixel(module, batch, name):
    moved = attacked(name, module, batch)
    assert (moved - batch[0]).abs().max() <= SIZE + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_an_attack_raises_the_loss_of_nearly_every_row(module, batch, name):
    assert (loss(module, attacked(name, module, batch), batch[1]) > loss(module, *batch)).float().mean() > 0.99


def test_steps_reach_from_one_corner_of_the_box_to_the_other():
    assert STEPS * STEP >= 2 * SIZE


def test_a_gradient_is_of_its_own_row_and_leaves_none_behind(module, batch):
    x, labels = batch
    together = loss_gradient(module, x[:5], labels[:5])
    alone = torch.cat([loss_gradient(module, x[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_sign_noise_is_of_the_attacks_size_and_changes_no_prediction(module):
    images = split_digits(0)["trusted"].images
    noisy, chosen = with_sign_noise(images, NET, module, np.random.default_rng(0))
    assert 0.3 < chosen.mean() <= 0.6
    assert (noisy[~chosen] == images[~chosen]).all()
    inner = (images > SIZE) & (images < 1 - SIZE)
    np.testing.assert_allclose(np.abs(noisy - images)[chosen][inner[chosen]], SIZE, atol=1e-6)
    assert (predict(module, noisy, NET.shape) == predict(module, images, NET.shape)).all()


@pytest.mark.slow
@pytest.mark.parametrize("training", ["standard", "adversarial"])
def test_positives_change_class_and_adversarial_training_makes_them_fewer(training):
    task = build_task({"name": "adversarial", "training": training})
    assert task.facts["clean_accuracy"] > 0.95
    low, high = (0.7, 1.0) if training == "standard" else (0.1, 0.5)
    assert low < task.facts["attack_success"] < high
    assert 0.4 < task.subsets["sign_noise"].sum() / (~task.is_anomalous).sum() < 0.6
