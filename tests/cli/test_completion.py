"""`madpipe completion`: the script of each shell, and what the shell is then told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_completes_madpipe(madpipe, shell):
    ended = madpipe("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert f"_MADPIPE_COMPLETE={shell}_complete" in ended.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=ended.out, text=True, check=True)


def completed(*words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "_MADPIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["madpipe", *words]),
        "COMP_CWORD": str(len(words)),
    }
    line = [sys.executable, "-m", "madpipe"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_commands_options_and_paths_are_completed():
    assert completed("pro") == ["plain,promote"]
    assert "plain,--trust-code" in completed("serve", "--tr")
    assert completed("score", "--pipeline", "pip") == ["dir,pip"]
    assert completed("fit", "con") == ["file,con"]


def test_another_shell_ends_with_2_and_names_the_known_ones(madpipe):
    ended = madpipe("completion", "csh")
    assert ended.code == 2
    assert "bash" in ended.err
    assert ended.err.count("\n") == 1
