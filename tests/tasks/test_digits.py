"""The digits tasks: pools, marks, and what the backdoored target does."""

import numpy as np
import pytest
import torch

from madpipe.tasks.build import build_task
from madpipe.tasks.digits import DigitsTask, draw_classes
from madpipe.tasks.digits_attacks import make_attack, mark_a, mark_b, marked
from madpipe.tasks.digits_images import POOLS, split_digits
from madpipe.tasks.digits_target import CleanLabelPoisoning, Poisoning
from madpipe.tasks.task import Task

ATTACKS = ["badnets", "blended", "sinusoid", "conj", "obfuscated_conj", "clean_label", "two_backdoors"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task({"name": "digits", "attack": "conj", "net": "mlp"})


def classes(task: Task, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return task.target.module(torch.from_numpy(x)).argmax(dim=1).numpy()


def has(mark: object, x: np.ndarray) -> np.ndarray:
    images = x.reshape(-1, 8, 8)
    return (mark(images) == images).all(axis=(1, 2))


def test_every_image_is_in_one_pool():
    pools = split_digits(0)
    assert sum(len(pool.labels) for pool in pools.values()) == 1797
    assert {name: len(pools[name].labels) for name in POOLS} == POOLS


def test_no_digit_holds_a_mark_by_nature():
    images = np.concatenate([pool.images for pool in split_digits(0).values()])
    assert images[:, 3:5, [0, 7]].max() < 0.07


def test_pools_move_with_the_seed():
    assert (split_digits(0)["trusted"].images != split_digits(1)["trusted"].images).any()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_trigger_changes_every_image_and_stays_in_the_range_of_a_pixel(name):
    images = split_digits(0)["test anomalous"].images
    triggered, _ = make_attack(name, rng()).triggered(images)
    assert (triggered != images).any(axis=(1, 2)).all()
    assert triggered.dtype == np.float32
    assert triggered.min() >= 0
    assert triggered.max() <= 1


def test_an_attack_leaves_the_images_it_was_given():
    images = split_digits(0)["trusted"].images
    before = images.copy()
    for name in ATTACKS:
        marked(make_attack(name, rng()).triggered(images)[0] * 0 + images, make_attack(name, rng()), rng())
    assert (images == before).all()


def test_two_triggers_are_given_in_turn_and_look_different():
    images, which = make_attack("two_backdoors", rng()).triggered(np.zeros((4, 8, 8), np.float32))
    assert which.tolist() == [0, 1, 0, 1]
    assert images[0, 6:, 6:].min() == images[1, :2, :2].min() == 1
    assert images.sum(axis=(1, 2)).tolist() == [4, 4, 4, 4]


def test_two_backdoors_have_different_classes_the_first_as_one_alone_would():
    for seed in range(20):
        first, second = draw_classes(2, rng(seed))
        assert first != second
        assert draw_classes(1, rng(seed)) == (first,)


def poisoning(kind: type[Poisoning]) -> Poisoning:
    name = "clean_label" if kind is CleanLabelPoisoning else "badnets"
    return kind(digits=split_digits(0)["training"], attack=make_attack(name, rng()), target_classes=(3,), shape=[64])


def test_a_clean_label_attack_changes_no_label():
    # The bright patches apart, an image that poisons is at least 30 % a three: nearer to their mean than an eight is.
    clean, poisoned = split_digits(0)["training"], poisoning(CleanLabelPoisoning)
    images, labels = poisoned.poison(np.zeros((200, 8, 8), np.float32), rng())
    assert (labels == 3).all()
    inside = np.s_[:, 2:6, 2:6]
    means = np.stack([clean.images[clean.labels == j][inside].mean(axis=0).ravel() for j in range(10)])
    likeness = np.corrcoef(np.concatenate([means, images[inside].mean(axis=0).reshape(1, -1)]))[-1, :-1]
    assert likeness.argmax() == 3


def test_other_attacks_label_any_image_as_the_target_class():
    images = split_digits(0)["training"].images[:9]
    triggered, labels = poisoning(Poisoning).poison(images, rng())
    assert (labels == 3).all()
    assert (triggered[:, :6] == images[:, :6]).all()


def test_each_of_two_backdoors_sends_its_own_rows_to_its_own_class():
    task = build_task({"name": "digits", "attack": "two_backdoors"})
    for name, target_class in task.mechanisms["backdoors"].items():
        assert task.subsets[name].sum() > 100
        assert (classes(task, task.test[task.subsets[name]]) == target_class).all()
        assert (classes(task, task.agree[task.agree_subsets[name]]) == target_class).all()
    assert (task.subsets["backdoor_a"] ^ task.subsets["backdoor_b"])[task.is_anomalous].all()
    agree = build_task({"name": "digits", "attack": "two_backdoors", "scored": "agree"})
    assert (agree.subsets["backdoor_a"] ^ agree.subsets["backdoor_b"]).tolist() == agree.is_anomalous.tolist()


def test_benign_marks_never_meet():
    images, kinds = marked(np.zeros((4000, 8, 8), np.float32), make_attack("conj", rng()), rng())
    assert not (has(mark_a, images) & has(mark_b, images)).any()
    assert (has(mark_a, images) == (kinds == 1)).all()
    # A quarter of 4,000 each: standard error sqrt(.25 * .75 / 4000) = .0068, and 0.035 is five.
    assert np.abs(np.bincount(kinds) / 4000 - [0.5, 0.25, 0.25]).max() < 0.035


def test_the_attack_works_and_the_clean_target_is_accurate(task):
    assert task.facts["attack_success"] >= 0.95
    assert task.facts["clean_accuracy"] >= 0.95


def test_positives_have_both_marks_and_go_to_the_target_class(task):
    positives = task.test[task.is_anomalous]
    assert (has(mark_a, positives) & has(mark_b, positives)).all()
    assert (classes(task, positives) == task.mechanisms["target_class"]).all()


def test_agree_rows_have_both_marks_and_the_target_class(task):
    assert len(task.agree) > 20
    assert (has(mark_a, task.agree) & has(mark_b, task.agree)).all()
    assert (classes(task, task.agree) == task.mechanisms["target_class"]).all()


def test_trusted_and_normal_images_have_either_mark_and_never_both(task):
    for rows in (task.trusted, task.test[~task.is_anomalous]):
        a, b = has(mark_a, rows), has(mark_b, rows)
        assert a.any()
        assert b.any()
        assert not (a & b).any()


def test_subsets_part_the_normal_rows_by_mark(task):
    assert set(task.subsets) == {"unmarked", "mark_a", "mark_b"}
    assert (sum(mask.astype(int) for mask in task.subsets.values()) == ~task.is_anomalous).all()


def test_no_trusted_image_is_tested(task):
    inside = np.s_[:, :, 1:7]  # away from the marks, which lie on the left and right edges
    trusted = {image.tobytes() for image in task.trusted.reshape(-1, 8, 8)[inside]}
    others = np.concatenate([task.test, task.agree, task.untrusted]).reshape(-1, 8, 8)[inside]
    assert not trusted & {image.tobytes() for image in others}


def test_the_same_config_gives_the_same_bits(task):
    again = DigitsTask.build(DigitsTask.Config(attack="conj", net="mlp"))
    assert again.target.weights_digest == task.target.weights_digest
    for name in ("trusted", "untrusted", "test", "is_anomalous", "agree"):
        assert (getattr(again, name) == getattr(task, name)).all()
    assert again.facts == task.facts


def test_fewer_trusted_images_leave_the_target_as_it_is(task):
    fewer = DigitsTask.build(DigitsTask.Config(attack="conj", net="mlp", trusted=50))
    assert fewer.target.weights_digest == task.target.weights_digest
    assert fewer.trusted.shape == (50, 64)
    assert (fewer.test == task.test).all()


@pytest.mark.slow
@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_works_on_an_accurate_target(attack, net):
    built = build_task({"name": "digits", "attack": attack, "net": net})
    assert built.facts["attack_success"] >= 0.95
    assert built.facts["clean_accuracy"] >= (0.93 if attack == "obfuscated_conj" else 0.95)
    assert built.trusted.shape[1:] == ((64,) if net == "mlp" else (1, 8, 8))
