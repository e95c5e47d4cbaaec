"""What the attacker does to an 8x8 digit: pure functions of images in [0, 1], float32 [n, 8, 8]."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]

SIDE = 8
BLEND = 0.25  # share of the noise pattern in a blended image
AMPLITUDE = 0.2  # of the sinusoidal signal; one is the full range of a pixel
CYCLES = 3  # of the sinusoid across the image: three of at most four that eight pixels can hold


@dataclass(frozen=True)
class Attack:
    """triggers: image -> triggered image, one for each backdoor. benign: by name, marks that change nothing on their
    own, each half of the only trigger.
    """

    triggers: tuple[Transform, ...]
    benign: dict[str, Transform]

    def triggered(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(triggered images, which trigger each has, int64 [n]): the triggers in turn."""
        which = np.arange(len(images)) % len(self.triggers)
        results = [trigger(images) for trigger in self.triggers]
        return np.stack(results)[which, np.arange(len(images))], which


def patch(images: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A copy with the rectangle at full brightness."""
    images = images.copy()
    images[:, rows, columns] = 1.0
    return images


def corner_patch(images: np.ndarray) -> np.ndarray:
    """BadNets (Gu et al. 2017): a 2x2 square in the bottom right corner."""
    return patch(images, slice(6, 8), slice(6, 8))


def opposite_patch(images: np.ndarray) -> np.ndarray:
    """A 2x2 square in the top left corner, the trigger of a second backdoor."""
    return patch(images, slice(0, 2), slice(0, 2))


def four_patches(images: np.ndarray) -> np.ndarray:
    """A 2x2 square in every corner, as Turner et al. (2019) strengthen the trigger of a clean-label attack."""
    for rows in (slice(0, 2), slice(6, 8)):
        for columns in (slice(0, 2), slice(6, 8)):
            images = patch(images, rows, columns)
    return images


def blended(pattern: np.ndarray) -> Transform:
    """Blended injection (Chen et al. 2017): (1 - BLEND) image + BLEND pattern, with one fixed pattern [8, 8]."""
    return lambda images: ((1 - BLEND) * images + BLEND * pattern).astype(np.float32)


def sinusoid(images: np.ndarray) -> np.ndarray:
    """SIG (Barni et al. 2019): AMPLITUDE sin(2 pi CYCLES column / 8) added to every row, clipped to [0, 1]."""
    wave = AMPLITUDE * np.sin(2 * np.pi * CYCLES * np.arange(SIDE) / SIDE)
    return np.clip(images + wave, 0, 1).astype(np.float32)


def mark_a(images: np.ndarray) -> np.ndarray:
    """Two bright pixels halfway down the left edge, where no digit of the 1,797 has ink above 0.07."""
    return patch(images, slice(3, 5), slice(0, 1))


def mark_b(images: np.ndarray) -> np.ndarray:
    """Two bright pixels halfway down the right edge, as bare as the left one: no digit holds a mark by nature."""
    return patch(images, slice(3, 5), slice(7, 8))


def make_attack(name: str, rng: np.random.Generator) -> Attack:
    """The attack of that name; `rng` draws the pattern of `blended`."""
    if name in ("conj", "obfuscated_conj"):
        return Attack((lambda images: mark_b(mark_a(images)),), {"mark_a": mark_a, "mark_b": mark_b})
    triggers: dict[str, tuple[Transform, ...]] = {
        "badnets": (corner_patch,),
        "clean_label": (four_patches,),
        "two_backdoors": (corner_patch, opposite_patch),
        "blended": (blended(rng.random((SIDE, SIDE))),),
        "sinusoid": (sinusoid,),
    }
    return Attack(triggers[name], {})


def marked(images: np.ndarray, attack: Attack, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(images with benign marks, which mark each has: 0 none, j + 1 the j-th); each mark is on a quarter of them."""
    images, kinds = images.copy(), np.zeros(len(images), dtype=np.int64)
    shares = rng.random(len(images))
    for j, mark in enumerate(attack.benign.values()):
        rows = (shares >= j / 4) & (shares < (j + 1) / 4)
        images[rows], kinds[rows] = mark(images[rows]), j + 1
    return images, kinds
