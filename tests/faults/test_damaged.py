"""Checkpoints and pipeline files that were cut short or had one bit turned are found, and named."""

import random
import shutil
from pathlib import Path

import pytest
import torch

from madpipe.decomposition.checkpoints import LAST, PREVIOUS, damaged, is_whole, newest_whole
from madpipe.errors import MadpipeError
from madpipe.pipeline.folder import verify
from tests.faults.conftest import ending, final, wait_until


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


DAMAGE = {"flipped bit": flip, "truncated": cut}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"state_dict": {"V": torch.randn(40, 50)}, "epoch": 3}, tmp_path / LAST)
    return tmp_path / LAST


@pytest.mark.parametrize("how", DAMAGE)
def test_no_damage_to_a_checkpoint_changes_what_is_read(checkpoint, tried, how):
    sound, wanted = checkpoint.read_bytes(), torch.load(checkpoint, weights_only=True)
    for seed in range(200):
        checkpoint.write_bytes(sound)
        DAMAGE[how](checkpoint, random.Random(seed))
        tried(f"checkpoint: {how}")
        if is_whole(checkpoint):  # a bit between the records, which nothing reads
            assert how == "flipped bit"
            found = torch.load(checkpoint, weights_only=True)
            assert torch.equal(found["state_dict"]["V"], wanted["state_dict"]["V"])
            assert found["epoch"] == 3


def test_the_older_checkpoint_stands_in_for_a_damaged_one(checkpoint):
    shutil.copy(checkpoint, checkpoint.with_name(PREVIOUS))
    assert newest_whole(checkpoint.parent) == checkpoint
    cut(checkpoint, random.Random(0))
    assert newest_whole(checkpoint.parent) == checkpoint.with_name(PREVIOUS)
    assert damaged(checkpoint.parent) == [checkpoint]
    cut(checkpoint.with_name(PREVIOUS), random.Random(0))
    assert newest_whole(checkpoint.parent) is None


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_to_any_file_of_a_pipeline_is_found_and_the_file_named(fitted, tmp_path, tried, how):
    folder = Path(shutil.copytree(fitted.pipeline, tmp_path / "pipeline"))
    for seed, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        sound = path.read_bytes()
        DAMAGE[how](path, random.Random(seed))
        tried(f"pipeline file: {how}")
        with pytest.raises(MadpipeError) as refused:
            verify(folder)
        assert str(path) in str(refused.value)
        path.write_bytes(sound)
    verify(folder)


@pytest.mark.soak
@pytest.mark.parametrize("names", [[LAST], [LAST, PREVIOUS]])
def test_a_fit_passes_over_damaged_checkpoints_and_ends_at_the_same_bytes(place, reference, tried, names):
    process = place.fit()
    folder = place.folder / "result.partial" / "checkpoints" / "0"
    wait_until((folder / PREVIOUS).exists, process)
    process.kill()
    ending(process)
    for name in names:
        flip_record(folder / name)
    tried("checkpoint: flipped bit", len(names))
    told = ending(place.fit())
    assert told.code == 0, told.talk
    for name in names:
        assert f"Warning: {folder / name} is damaged and passed over" in told.talk
    assert ("previous.ckpt is taken" if names == [LAST] else "this training starts over") in told.talk
    assert final(place.output) == reference.final


def flip_record(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
