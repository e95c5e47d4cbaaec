"""Releases that stole credentials cannot be resolved: pip itself is asked, with an index that offers them."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
(LIGHTNING,) = [line for line in DEPENDENCIES if line.startswith("lightning")]
MALICIOUS = ("2.6.2", "2.6.3")  # GHSA-w37p-236h-pfx3


def test_the_range_takes_the_release_after_them(index):
    index.offer("lightning", "2.6.1", *MALICIOUS, "2.6.6")
    assert index.download(LIGHTNING).returncode == 0
    assert index.taken() == ["2.6.6"]


@pytest.mark.parametrize("words", [[LIGHTNING], [LIGHTNING, "--pre"]], ids=["plain", "pre"])
def test_the_range_takes_nothing_where_only_they_are_offered(words: list[str], index):
    index.offer("lightning", *MALICIOUS)
    done = index.download(*words)
    assert done.returncode != 0
    assert "No matching distribution found for lightning" in done.stderr


@pytest.mark.parametrize("version", MALICIOUS)
def test_who_asks_for_one_by_name_beside_the_range_is_refused(version: str, index):
    index.offer("lightning", *MALICIOUS, "2.6.6")
    done = index.download(LIGHTNING, f"lightning=={version}")
    assert done.returncode != 0
    assert "conflicting" in done.stderr or "Cannot install" in done.stderr
    assert not index.taken()


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
def test_the_lock_as_a_constraint_leaves_only_its_own_version(name: str, index):
    index.offer(name.replace("-", "_"), *MALICIOUS, "2.6.6", "2.6.9")
    done = index.download(name, "--constraint", str(ROOT / "requirements.lock"))
    assert done.returncode == 0, done.stderr
    assert index.taken() == ["2.6.6"]
