"""Out-of-distribution digits: a control, since what is new here is the input.

The network is clean. A detector of mechanisms may well find these, and so should one of the raw input: where it does no
better than that, nothing about mechanisms is shown.
"""

from itertools import product
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from madpipe.tasks.digits import TRUSTED, UNTRUSTED_ANOMALOUS, NetName
from madpipe.tasks.digits_images import CLASSES, Digits, as_input, split_digits
from madpipe.tasks.digits_target import NETS, PLAIN, clean_batches, fit_network, new_network, predict
from madpipe.tasks.task import Task, stream, trained_target

Shift = Literal["rotated", "inverted", "shuffled", "held_out_class"]

DESCRIPTIONS: dict[str, str] = {
    "rotated": "digits on their side",
    "inverted": "dark digits on a bright ground",
    "shuffled": "the pixels of each digit in random order",
    "held_out_class": "a digit that neither the network nor trusted data ever saw",
}


class OutOfDistributionTask:
    """Every shifted image is a positive, whatever the network makes of it: there is no attack that could fail."""

    name: ClassVar[str] = "out_of_distribution"

    class Config(BaseModel):
        """trusted: rows at most; those of a held-out class leave. The target depends on net and seed alone, and on
        whether a class is held out.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        shift: Shift = "rotated"
        net: NetName = "mlp"
        trusted: int = Field(default=TRUSTED, ge=20, le=TRUSTED)
        seed: int = Field(default=0, ge=0)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{"shift": shift, "net": net} for shift, net in product(get_args(Shift), get_args(NetName))]

    @classmethod
    def label(cls, config: Config) -> str:
        trusted = "" if config.trusted == TRUSTED else f"{config.trusted}-"
        return f"out_of_distribution-{config.shift}-{config.net}-{trusted}{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        keys = {3: ("shift", "net", "seed"), 4: ("shift", "net", "trusted", "seed")}.get(len(words))
        return dict(zip(keys, words, strict=True)) if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        return f"control: {DESCRIPTIONS[config.shift]} ({config.net})"

    @classmethod
    def build(cls, config: Config) -> Task:
        pools, net, held_out = split_digits(config.seed), NETS[config.net], draw_class(config)
        known = {name: pool[pool.labels != held_out] for name, pool in pools.items()}
        module = new_network(net, config.seed)
        fit_network(module, clean_batches(known["training"], net.shape, stream(config.seed, "training")), PLAIN)
        rng = stream(config.seed, "shift")
        if config.shift == "held_out_class":
            shifted, untrusted = of_class(held_out, pools), pools["untrusted"].images
        else:
            shifted = shift_images(config.shift, pools["test anomalous"], rng)
            untrusted = partly_shifted(config.shift, pools["untrusted"], rng)
        return draw_task(config, known, shifted, untrusted, module, held_out)


def draw_class(config: OutOfDistributionTask.Config) -> int | None:
    """The class that is held out, None for a shift of the images."""
    if config.shift != "held_out_class":
        return None
    return int(stream(config.seed, "held-out class").integers(CLASSES))


def of_class(held_out: int | None, pools: dict[str, Digits]) -> Digits:
    """The class's images of every pool but the unlabelled mix, which holds its own share of them."""
    parts = [pool[pool.labels == held_out] for name, pool in pools.items() if name != "untrusted"]
    return Digits(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def shift_images(shift: Shift, digits: Digits, rng: np.random.Generator) -> Digits:
    """The same digits, each shifted; pixels are shuffled in another order in each."""
    images = digits.images
    if shift == "rotated":
        images = np.rot90(images, axes=(1, 2))
    elif shift == "inverted":
        images = 1 - images
    else:
        images = rng.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape)
    return Digits(np.ascontiguousarray(images), digits.labels)


def partly_shifted(shift: Shift, digits: Digits, rng: np.random.Generator) -> np.ndarray:
    """Unlabelled images, UNTRUSTED_ANOMALOUS of them shifted."""
    images = digits.images.copy()
    chosen = rng.permutation(len(images))[: int(UNTRUSTED_ANOMALOUS * len(images))]
    images[chosen] = shift_images(shift, digits[chosen], rng).images
    return images


def draw_task(
    config: OutOfDistributionTask.Config,
    known: dict[str, Digits],
    shifted: Digits,
    untrusted: np.ndarray,
    module: nn.Sequential,
    held_out: int | None,
) -> Task:
    net, normal = NETS[config.net], known["test normal"]

    def accuracy(digits: Digits) -> float:
        return float((predict(module, digits.images, net.shape) == digits.labels).mean())

    return Task(
        name=OutOfDistributionTask.label(config),
        target=trained_target(module, "categorical", net.factory, net.kwargs),
        sites=("*",),
        trusted=as_input(known["trusted"].images[: config.trusted], net.shape).numpy(),
        untrusted=as_input(untrusted, net.shape).numpy(),
        test=as_input(np.concatenate([normal.images, shifted.images]), net.shape).numpy(),
        is_anomalous=np.repeat([False, True], [len(normal.labels), len(shifted.labels)]),
        mechanisms={"shift": config.shift, "held_out_class": held_out},
        facts={"clean_accuracy": accuracy(normal), "shifted_accuracy": accuracy(shifted)},
    )
