"""A batch that memory has no room for is scored in halves, to the same scores."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from madpipe.errors import MemoryShortError
from madpipe.pipeline.scorer import Pipeline

ROWS = 100_000
SCORE = """
import resource, sys
from madpipe.cli.main import main
from madpipe.pipeline.scorer import Pipeline  # what it imports needs room too

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


@pytest.mark.soak
def test_a_batch_too_large_for_memory_is_halved_and_said_once(fitted, process, own_rows, tried, tmp_path):
    np.save(tmp_path / "big.npy", own_rows(ROWS, 5))
    words = ["score", "--pipeline", str(fitted.pipeline), "big.npy", "-o"]
    assert process(*words, "whole.csv", cwd=tmp_path).code == 0
    limited = [sys.executable, "-c", SCORE, str(64 << 20), *words, "halved.csv", "--batch-size", str(ROWS)]
    told = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, check=False)
    tried("batch larger than memory")
    assert told.returncode == 0, told.stderr
    assert told.stderr.count("Memory was too short for batches of 100,000 inputs: scored") == 1
    assert (tmp_path / "halved.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_whatever_memory_errors_are_called_they_halve_the_batch(fitted, own_rows, monkeypatch, error):
    pipeline, seen = Pipeline.load(fitted.pipeline), []
    x, score = own_rows(10, 5), pipeline._score_batch
    wanted = pipeline.score(x)

    def short(batch, count, named_below):
        seen.append(count)
        if count > 3:
            raise error
        return score(batch, count, named_below)

    monkeypatch.setattr(pipeline, "_score_batch", short)
    found = pipeline.score(x)
    assert seen == [10, 5, 2, 2, 2, 2, 2]
    assert pipeline.memory_limit == 2
    assert found.p_value.tolist() == wanted.p_value.tolist()
    assert found.top_components == wanted.top_components


def test_memory_for_not_even_one_input_is_an_error_in_one_line(fitted, own_rows, monkeypatch):
    pipeline = Pipeline.load(fitted.pipeline)

    def short(*_):
        raise MemoryError

    monkeypatch.setattr(pipeline, "_score_batch", short)
    with pytest.raises(MemoryShortError, match=r"memory is too short to score one input of shape \(6,\)"):
        pipeline.score(own_rows(10, 5))


def test_other_errors_are_not_taken_for_a_lack_of_memory(fitted, own_rows, monkeypatch):
    pipeline = Pipeline.load(fitted.pipeline)

    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(pipeline, "_score_batch", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        pipeline.score(own_rows(10, 5))
    assert pipeline.memory_limit is None
