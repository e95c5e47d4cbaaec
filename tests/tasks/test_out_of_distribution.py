"""The out-of-distribution control: what each shift does to an image, and that a held-out class is held out."""

import numpy as np
import pytest

from madpipe.tasks import digits_target
from madpipe.tasks.build import build_task
from madpipe.tasks.digits_images import Digits, split_digits
from madpipe.tasks.out_of_distribution import (
    OutOfDistributionTask,
    draw_class,
    of_class,
    partly_shifted,
    shift_images,
)

DIGITS = split_digits(0)["test anomalous"]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("shift", ["rotated", "inverted", "shuffled"])
def test_a_shift_changes_every_image_and_no_label(shift):
    shifted = shift_images(shift, DIGITS, rng())
    assert (shifted.images != DIGITS.images).any(axis=(1, 2)).all()
    assert (shifted.labels == DIGITS.labels).all()
    assert shifted.images.dtype == np.float32


def test_a_rotated_image_has_its_top_on_its_left():
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 0] = 1
    assert (shift_images("rotated", Digits(image, np.zeros(1)), rng()).images[0, :, 0] == 1).all()


def test_shuffling_keeps_an_images_pixels_and_orders_each_otherwise():
    shuffled = shift_images("shuffled", DIGITS, rng()).images.reshape(-1, 64)
    assert (np.sort(shuffled) == np.sort(DIGITS.images.reshape(-1, 64))).all()
    same = Digits(np.repeat(DIGITS.images[:1], 2, axis=0), DIGITS.labels[:2])
    first, second = shift_images("shuffled", same, rng()).images
    assert (first != second).any()


def test_a_tenth_of_the_unlabelled_images_is_shifted():
    mixed = partly_shifted("inverted", DIGITS, rng())
    assert (mixed != DIGITS.images).any(axis=(1, 2)).sum() == 33


def test_a_held_out_class_is_drawn_only_where_one_is_asked_for():
    assert draw_class(OutOfDistributionTask.Config()) is None
    assert draw_class(OutOfDistributionTask.Config(shift="held_out_class")) in range(10)


def test_all_images_of_a_held_out_class_but_the_unlabelled_ones_are_tested():
    pools = split_digits(0)
    wanted = sum((pool.labels == 4).sum() for name, pool in pools.items() if name != "untrusted")
    assert (of_class(4, pools).labels == 4).all()
    assert len(of_class(4, pools).labels) == wanted


def test_a_network_never_sees_the_class_that_is_held_out(monkeypatch):
    seen: set[int] = set()

    def watch(module, batches, *arguments, **options):
        for _ in range(20):
            seen.update(next(batches).labels.tolist())

    monkeypatch.setattr(digits_target, "pretrain", watch)
    task = OutOfDistributionTask.build(OutOfDistributionTask.Config(shift="held_out_class"))
    held_out = task.mechanisms["held_out_class"]
    assert seen == set(range(10)) - {held_out}
    assert len(task.trusted) == (split_digits(0)["trusted"].labels != held_out).sum()


@pytest.mark.slow
@pytest.mark.parametrize("shift", ["rotated", "inverted", "shuffled", "held_out_class"])
def test_the_network_knows_digits_and_not_shifted_ones(shift):
    facts = build_task({"name": "out_of_distribution", "shift": shift}).facts
    assert facts["clean_accuracy"] > 0.95
    assert facts["shifted_accuracy"] < 0.5
