"""Adversarial examples: digits moved a little against the network's gradient, so that it sees another class.

Nothing was planted in the network, and no known circuit answers: whether an adversarial example runs by another
mechanism than a clean digit, or by the same one badly, is open. Half of the trusted images and of the test normals
carry noise of random sign and of the attack's size at every pixel, under which the network stays with its class, so
that the size of a perturbation is no sign of an attack.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from madpipe.targets.pretrain import Batch
from madpipe.tasks.digits import TRUSTED, UNTRUSTED_ANOMALOUS, NetName
from madpipe.tasks.digits_images import Digits, as_input, split_digits
from madpipe.tasks.digits_target import NETS, PLAIN, Net, clean_batches, fit_network, new_network, predict
from madpipe.tasks.task import Task, stream, trained_target

AttackName = Literal["fgsm", "pgd"]
Training = Literal["standard", "adversarial"]

SIZE = 0.15  # of the perturbation of a pixel at most; one is the full range
STEPS, STEP = 20, 0.02  # of PGD: together 0.4, so that every corner of the box is in reach
TRAINING_STEPS, TRAINING_STEP = 4, 0.06  # the same with fewer and longer steps, for each training batch

DESCRIPTIONS: dict[str, str] = {
    "fgsm": "one step of SIZE along the gradient's sign sends a digit to another class",
    "pgd": "projected gradient ascent inside a box of SIZE sends a digit to another class",
}


class AdversarialTask:
    """Positives are images that the network gets right, and wrong once attacked. Subset sign_noise: the test normals
    with random noise.
    """

    name: ClassVar[str] = "adversarial"

    class Config(BaseModel):
        """training: of the network; adversarial is Madry et al. (2018), on attacked images alone. trusted: rows."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        attack: AttackName = "pgd"
        net: NetName = "mlp"
        training: Training = "standard"
        trusted: int = Field(default=TRUSTED, ge=20, le=TRUSTED)
        seed: int = Field(default=0, ge=0)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        choices = product(get_args(AttackName), get_args(NetName), get_args(Training))
        return [{"attack": attack, "net": net, "training": training} for attack, net, training in choices]

    @classmethod
    def label(cls, config: Config) -> str:
        trusted = "" if config.trusted == TRUSTED else f"{config.trusted}-"
        return f"adversarial-{config.attack}-{config.net}-{config.training}-{trusted}{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        choices = ("attack", "net", "training")
        keys = {4: (*choices, "seed"), 5: (*choices, "trusted", "seed")}.get(len(words))
        return dict(zip(keys, words, strict=True)) if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        return f"{DESCRIPTIONS[config.attack].replace('SIZE', str(SIZE))} ({config.net}, {config.training} training)"

    @classmethod
    def build(cls, config: Config) -> Task:
        pools, net = split_digits(config.seed), NETS[config.net]
        module, rng = new_network(net, config.seed), stream(config.seed, "training")
        batches = clean_batches(pools["training"], net.shape, rng)
        fit_network(module, batches if config.training == "standard" else attacked(batches, module, config.seed), PLAIN)
        return draw_task(config, pools, net, module)


def fgsm(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """x + SIZE sign(gradient of the loss), clipped to [0, 1] (Goodfellow et al. 2015)."""
    return (x + SIZE * loss_gradient(module, x, labels).sign()).clamp(0, 1)


def pgd(
    module: nn.Module, x: Tensor, labels: Tensor, rng: np.random.Generator, steps: int = STEPS, step: float = STEP
) -> Tensor:
    """Steps along the gradient's sign from a random start, kept in the box of SIZE around x and in [0, 1] (Madry et al.
    2018).
    """
    noise = torch.from_numpy(rng.uniform(-SIZE, SIZE, tuple(x.shape)).astype(np.float32))
    low, high = (x - SIZE).clamp(min=0), (x + SIZE).clamp(max=1)
    moved = (x + noise).clamp(0, 1)
    for _ in range(steps):
        moved = torch.clamp(moved + step * loss_gradient(module, moved, labels).sign(), low, high)
    return moved


def loss_gradient(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Of each row's own loss with respect to x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(module(x), labels, reduction="sum"), x)
    return gradient


def attacked(batches: Iterator[Batch], module: nn.Module, seed: int) -> Iterator[Batch]:
    """Each batch moved against the network as it is by then."""
    rng = stream(seed, "attacks in training")
    for batch in batches:
        moved = pgd(module, batch.inputs, batch.labels, rng, TRAINING_STEPS, TRAINING_STEP)
        yield Batch(inputs=moved, labels=batch.labels)


def attack(config: AdversarialTask.Config, net: Net, module: nn.Module, digits: Digits, purpose: str) -> np.ndarray:
    """Attacked images, float32 [n, 8, 8]."""
    x, labels = as_input(digits.images, net.shape), torch.from_numpy(digits.labels)
    rng = stream(config.seed, f"attack on {purpose}")
    moved = fgsm(module, x, labels) if config.attack == "fgsm" else pgd(module, x, labels, rng)
    return moved.numpy().reshape(digits.images.shape)


def with_sign_noise(
    images: np.ndarray, net: Net, module: nn.Sequential, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(images of which about half carry noise, which these are): SIZE up or down at every pixel, clipped to [0, 1].

    Where the noise changes the network's class the image stays clean.
    """
    noisy = np.clip(images + np.float32(SIZE) * rng.choice([-1, 1], images.shape), 0, 1).astype(np.float32)
    same = predict(module, noisy, net.shape) == predict(module, images, net.shape)
    chosen = same & (rng.random(len(images)) < 0.5)
    return np.where(chosen[:, None, None], noisy, images), chosen


def draw_task(config: AdversarialTask.Config, pools: dict[str, Digits], net: Net, module: nn.Sequential) -> Task:
    def noisy(pool: str) -> tuple[np.ndarray, np.ndarray]:
        return with_sign_noise(pools[pool].images, net, module, stream(config.seed, f"noise of {pool}"))

    trusted, (normal, noise) = noisy("trusted")[0][: config.trusted], noisy("test normal")
    digits = pools["test anomalous"]
    moved = attack(config, net, module, digits, "test")
    right = predict(module, digits.images, net.shape) == digits.labels
    wrong = predict(module, moved, net.shape) != digits.labels
    untrusted, rng = noisy("untrusted")[0], stream(config.seed, "untrusted")
    mixed = rng.permutation(len(untrusted))[: int(UNTRUSTED_ANOMALOUS * len(untrusted))]
    untrusted[mixed] = attack(config, net, module, pools["untrusted"][mixed], "untrusted")
    tested = np.concatenate([normal, moved[right & wrong]])
    clean = predict(module, pools["test normal"].images, net.shape) == pools["test normal"].labels
    return Task(
        name=AdversarialTask.label(config),
        target=trained_target(module, "categorical", net.factory, net.kwargs),
        sites=("*",),
        trusted=as_input(trusted, net.shape).numpy(),
        untrusted=as_input(untrusted, net.shape).numpy(),
        test=as_input(tested, net.shape).numpy(),
        is_anomalous=np.arange(len(tested)) >= len(normal),
        subsets={"sign_noise": np.concatenate([noise, np.zeros(len(tested) - len(normal), bool)])},
        mechanisms={"attack": config.attack, "size": SIZE},
        facts={"clean_accuracy": float(clean.mean()), "attack_success": float(wrong[right].mean())},
    )
