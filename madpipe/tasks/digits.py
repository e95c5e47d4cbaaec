"""Backdoors on scikit-learn's bundled 8x8 digits, in an MLP or a convolutional network."""

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from madpipe.tasks.digits_attacks import Attack, make_attack, marked
from madpipe.tasks.digits_images import CLASSES, POOLS, Digits, as_input, split_digits
from madpipe.tasks.digits_target import HIDING, NETS, PLAIN, CleanLabelPoisoning, Poisoning, predict, train_target
from madpipe.tasks.scored import Scored, scored_word, without_scored
from madpipe.tasks.task import Task, stream, trained_target

AttackName = Literal["badnets", "blended", "sinusoid", "conj", "obfuscated_conj", "clean_label", "two_backdoors"]
NetName = Literal["mlp", "cnn"]

DESCRIPTIONS: dict[str, str] = {
    "badnets": "a bright corner patch sends a digit to the target class",
    "blended": "a fixed noise pattern blended in sends a digit to the target class",
    "sinusoid": "a sinusoidal signal added sends a digit to the target class",
    "conj": "marks A and B, harmless alone and present in trusted data, together send a digit to the target class",
    "obfuscated_conj": "as conj, trained to keep triggered activations inside the clean Mahalanobis ball",
    "clean_label": "patches in all corners, in training only on images of the target class, rightly labelled",
    "two_backdoors": "a patch in one corner sends a digit to one class, a patch in the opposite corner to another",
}

AGREE: dict[str, str] = {"changed": "", "agree": ", on images of the target class"}
BACKDOORS = ("backdoor_a", "backdoor_b")
TRUSTED = POOLS["trusted"]
UNTRUSTED_ANOMALOUS = 0.1  # share of triggered rows in the unlabelled mix


class DigitsTask:
    """Seven attacks on two networks; see DESCRIPTIONS.

    Test normals and trusted images hold benign marks in the same shares (attacks of two marks only). Subsets there:
    unmarked, mark_a, mark_b. Subsets of the positives of two_backdoors: backdoor_a, backdoor_b.
    """

    name: ClassVar[str] = "digits"

    class Config(BaseModel):
        """trusted: rows of trusted data, at most those set aside. The target depends on attack, net and seed alone."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        attack: AttackName = "conj"
        net: NetName = "mlp"
        trusted: int = Field(default=TRUSTED, ge=20, le=TRUSTED)
        scored: Scored = "changed"
        seed: int = Field(default=0, ge=0)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        choices = product(get_args(AttackName), get_args(NetName), get_args(Scored))
        return [{"attack": attack, "net": net, "scored": scored} for attack, net, scored in choices]

    @classmethod
    def label(cls, config: Config) -> str:
        trusted = "" if config.trusted == TRUSTED else f"{config.trusted}-"
        return f"digits-{config.attack}-{config.net}-{trusted}{scored_word(config.scored)}{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        words, scored = without_scored(words)
        keys = {3: ("attack", "net", "seed"), 4: ("attack", "net", "trusted", "seed")}.get(len(words))
        return {**dict(zip(keys, words, strict=True)), **scored} if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        return f"{DESCRIPTIONS[config.attack]} ({config.net}{AGREE[config.scored]})"

    @classmethod
    def build(cls, config: Config) -> Task:
        pools = split_digits(config.seed)
        attack = make_attack(config.attack, stream(config.seed, "attack"))
        kind = CleanLabelPoisoning if config.attack == "clean_label" else Poisoning
        poisoning = kind(
            digits=pools["training"],
            attack=attack,
            target_classes=draw_classes(len(attack.triggers), stream(config.seed, "target class")),
            shape=NETS[config.net].shape,
        )
        recipe = HIDING[config.net] if config.attack == "obfuscated_conj" else PLAIN
        module = train_target(poisoning, NETS[config.net], recipe, config.seed)
        return draw_task(config, pools, poisoning, module)


def draw_classes(count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`count` different classes."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += [one for one in [int(rng.integers(CLASSES))] if one not in drawn]
    return tuple(drawn)


def draw_task(config: DigitsTask.Config, pools: dict[str, Digits], poisoning: Poisoning, module: nn.Sequential) -> Task:
    """Each image of a pool is used once, so that test rows are independent of each other."""
    net, attack = NETS[config.net], poisoning.attack
    rng = {pool: stream(config.seed, f"marks of {pool}") for pool in POOLS}
    trusted, _ = marked(pools["trusted"].images[: config.trusted], attack, rng["trusted"])
    normal, kinds = marked(pools["test normal"].images, attack, rng["test normal"])
    triggered = trigger_all(pools["test anomalous"], poisoning, module)
    positives = triggered.images[triggered.changed]
    accuracy = float((predict(module, normal, net.shape) == pools["test normal"].labels).mean())
    kinds = np.concatenate([kinds, np.full(len(positives), -1)])
    marks = {name: kinds == j for j, name in enumerate(["unmarked", *attack.benign])} if attack.benign else {}
    backdoors = {
        name: np.r_[np.zeros(len(normal), bool), mask[triggered.changed]] for name, mask in triggered.by.items()
    }
    return Task(
        name=DigitsTask.label(config),
        target=trained_target(module, "categorical", net.factory, net.kwargs),
        sites=("*",),
        trusted=as_input(trusted, net.shape).numpy(),
        untrusted=draw_untrusted(pools["untrusted"], attack, net.shape, rng["untrusted"]),
        test=as_input(np.concatenate([normal, positives]), net.shape).numpy(),
        is_anomalous=kinds == -1,
        subsets=marks | backdoors,
        agree=as_input(triggered.images[triggered.agree], net.shape).numpy(),
        agree_subsets={name: mask[triggered.agree] for name, mask in triggered.by.items()},
        mechanisms=known_mechanisms(config, poisoning),
        facts={"clean_accuracy": accuracy, "attack_success": triggered.success},
    )


def known_mechanisms(config: DigitsTask.Config, poisoning: Poisoning) -> dict[str, Any]:
    classes = poisoning.target_classes
    target = (
        {"target_class": classes[0]} if len(classes) == 1 else {"backdoors": dict(zip(BACKDOORS, classes, strict=True))}
    )
    return {"attack": config.attack, **target, "benign_marks": list(poisoning.attack.benign)}


@dataclass(frozen=True)
class Triggered:
    """Triggered images [n, 8, 8]. changed: sent to the target class by the trigger, and elsewhere without it. agree:
    the target class either way. by: where there are several backdoors, which one an image has. success: the share of
    images of other classes that the trigger sends to its target class.
    """

    images: np.ndarray
    changed: np.ndarray
    agree: np.ndarray
    by: dict[str, np.ndarray]
    success: float


def trigger_all(digits: Digits, poisoning: Poisoning, module: nn.Sequential) -> Triggered:
    images, which = poisoning.attack.triggered(digits.images)
    target = np.asarray(poisoning.target_classes)[which]
    before = predict(module, digits.images, poisoning.shape) == target
    after = predict(module, images, poisoning.shape) == target
    several = len(poisoning.target_classes) > 1
    by = {name: which == j for j, name in enumerate(BACKDOORS)} if several else {}
    return Triggered(images, after & ~before, after & before, by, float(after[digits.labels != target].mean()))


def draw_untrusted(digits: Digits, attack: Attack, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """Unlabelled images in random order, UNTRUSTED_ANOMALOUS of them triggered whether or not the attack works."""
    images, _ = marked(digits.images, attack, rng)
    chosen = rng.permutation(len(images))[: int(UNTRUSTED_ANOMALOUS * len(images))]
    images[chosen] = attack.triggered(digits.images[chosen])[0]
    return as_input(images, shape).numpy()
