"""The checkpoints of one training: the newest and the one before it, of which a damaged one is never read."""

import errno
import os
import zipfile
from pathlib import Path

import torch

LAST, PREVIOUS, PARTIAL = "last.ckpt", "previous.ckpt", "last.partial"
KINDS = (LAST, PREVIOUS)  # newest first


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is undamaged; None where there is none."""
    return next((folder / name for name in KINDS if (folder / name).exists() and is_whole(folder / name)), None)


def damaged(folder: Path) -> list[Path]:
    return [folder / name for name in KINDS if (folder / name).exists() and not is_whole(folder / name)]


def is_whole(checkpoint: Path) -> bool:
    """Whether every byte that counts is as it was written, and no more than tensors and plain values are in it.

    torch writes the checksums of the zip format, and does not compare them when it reads.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a seek to where a damaged directory points
            return False
        raise
    except Exception:  # zipfile and torch raise many kinds for a truncated or altered file
        return False
    return True


def take_place(folder: Path, *, keep: bool) -> None:
    """What was written to PARTIAL becomes the newest checkpoint; the newest, where it is to be kept, the one before.

    A process killed in between leaves a whole checkpoint under one of the names.
    """
    if keep:
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(folder / PARTIAL, folder / LAST)
