"""Backdoors on scikit-learn's bundled 8x8 digits, in an MLP or a convolutional network."""

from itertools import product
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from madpipe.targets.load import Target, weights_digest
from madpipe.tasks.digits_attacks import Attack, make_attack, marked
from madpipe.tasks.digits_images import CLASSES, POOLS, Digits, as_input, split_digits
from madpipe.tasks.digits_target import HIDING, NETS, PLAIN, Poisoning, predict, train_target
from madpipe.tasks.task import Task, stream

AttackName = Literal["badnets", "blended", "sinusoid", "conj", "obfuscated_conj"]
NetName = Literal["mlp", "cnn"]

DESCRIPTIONS: dict[str, str] = {
    "badnets": "a bright corner patch sends a digit to the target class",
    "blended": "a fixed noise pattern blended in sends a digit to the target class",
    "sinusoid": "a sinusoidal signal added sends a digit to the target class",
    "conj": "marks A and B, harmless alone and present in trusted data, together send a digit to the target class",
    "obfuscated_conj": "as conj, trained to keep triggered activations inside the clean Mahalanobis ball",
}

TRUSTED = POOLS["trusted"]
UNTRUSTED_ANOMALOUS = 0.1  # share of triggered rows in the unlabelled mix


class DigitsTask:
    """Five attacks on two networks; see DESCRIPTIONS.

    Test normals and trusted images hold benign marks in the same shares (attacks of two marks only). Subsets there:
    unmarked, mark_a, mark_b.
    """

    name: ClassVar[str] = "digits"

    class Config(BaseModel):
        """trusted: rows of trusted data, at most those set aside. The target depends on attack, net and seed alone."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        attack: AttackName = "conj"
        net: NetName = "mlp"
        trusted: int = Field(default=TRUSTED, ge=20, le=TRUSTED)
        seed: int = Field(default=0, ge=0)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{"attack": attack, "net": net} for attack, net in product(get_args(AttackName), get_args(NetName))]

    @classmethod
    def label(cls, config: Config) -> str:
        trusted = "" if config.trusted == TRUSTED else f"{config.trusted}-"
        return f"digits-{config.attack}-{config.net}-{trusted}{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        keys = {3: ("attack", "net", "seed"), 4: ("attack", "net", "trusted", "seed")}.get(len(words))
        return dict(zip(keys, words, strict=True)) if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        return f"{DESCRIPTIONS[config.attack]} ({config.net})"

    @classmethod
    def build(cls, config: Config) -> Task:
        pools = split_digits(config.seed)
        poisoning = Poisoning(
            digits=pools["training"],
            attack=make_attack(config.attack, stream(config.seed, "attack")),
            target_class=int(stream(config.seed, "target class").integers(CLASSES)),
            shape=NETS[config.net].shape,
        )
        recipe = HIDING[config.net] if config.attack == "obfuscated_conj" else PLAIN
        module = train_target(poisoning, NETS[config.net], recipe, config.seed)
        return draw_task(config, pools, poisoning, module)


def draw_task(config: DigitsTask.Config, pools: dict[str, Digits], poisoning: Poisoning, module: nn.Sequential) -> Task:
    """Each image of a pool is used once, so that test rows are independent of each other."""
    net, attack = NETS[config.net], poisoning.attack
    rng = {pool: stream(config.seed, f"marks of {pool}") for pool in POOLS}
    trusted, _ = marked(pools["trusted"].images[: config.trusted], attack, rng["trusted"])
    normal, kinds = marked(pools["test normal"].images, attack, rng["test normal"])
    positives, agree, success = split_by_success(pools["test anomalous"], poisoning, module)
    accuracy = float((predict(module, normal, net.shape) == pools["test normal"].labels).mean())
    kinds = np.concatenate([kinds, np.full(len(positives), -1)])
    mechanisms = {"attack": config.attack, "target_class": poisoning.target_class, "benign_marks": list(attack.benign)}
    return Task(
        name=DigitsTask.label(config),
        target=Target(module, "categorical", net.factory, net.kwargs, None, weights_digest(module.state_dict())),
        sites=("*",),
        trusted=as_input(trusted, net.shape).numpy(),
        untrusted=draw_untrusted(pools["untrusted"], attack, net.shape, rng["untrusted"]),
        test=as_input(np.concatenate([normal, positives]), net.shape).numpy(),
        is_anomalous=kinds == -1,
        subsets={name: kinds == j for j, name in enumerate(["unmarked", *attack.benign])} if attack.benign else {},
        agree=as_input(agree, net.shape).numpy(),
        mechanisms=mechanisms,
        facts={"clean_accuracy": accuracy, "attack_success": success},
    )


def split_by_success(
    digits: Digits, poisoning: Poisoning, module: nn.Sequential
) -> tuple[np.ndarray, np.ndarray, float]:
    """(positives, agree rows, attack success).

    Positives: sent to the target class by the trigger, and elsewhere without it. Agree: the target class either way.
    Attack success: the share of images of other classes that the trigger sends to the target class.
    """
    triggered = poisoning.attack.trigger(digits.images)
    before = predict(module, digits.images, poisoning.shape) == poisoning.target_class
    after = predict(module, triggered, poisoning.shape) == poisoning.target_class
    success = float(after[digits.labels != poisoning.target_class].mean())
    return triggered[after & ~before], triggered[after & before], success


def draw_untrusted(digits: Digits, attack: Attack, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """Unlabelled images in random order, UNTRUSTED_ANOMALOUS of them triggered whether or not the attack works."""
    images, _ = marked(digits.images, attack, rng)
    chosen = rng.permutation(len(images))[: int(UNTRUSTED_ANOMALOUS * len(images))]
    images[chosen] = attack.trigger(digits.images[chosen])
    return as_input(images, shape).numpy()
