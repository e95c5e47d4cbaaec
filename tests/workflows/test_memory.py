"""Scoring a stream takes memory for a batch, not for the stream."""

import json
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, resource, sys
from pathlib import Path
from madpipe.workflows.score import score

pipeline, small, large, output = sys.argv[1:]
peaks = []
for inputs in (small, large):
    rows = score(pipeline, [Path(inputs)], output=output, report=lambda line: None).rows
    peaks.append((rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
print(json.dumps(peaks))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_ten_times_the_rows_take_no_more_memory(fitted, tmp_path, ending):
    rows = np.random.default_rng(0).standard_normal((200_000, 6)).astype(np.float32)
    for name, part in (("small", rows[:20_000]), ("large", rows)):
        np.save(tmp_path / f"{name}.npy", part)
        np.savez(tmp_path / f"{name}.npz", x=part)
    words = [tmp_path / f"small{ending}", tmp_path / f"large{ending}", tmp_path / "scores.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, fitted.pipeline, *words], capture_output=True, text=True, check=True
    )
    (few, before), (many, after) = json.loads(done.stdout)
    assert (few, many) == (20_000, 200_000)
    # 180,000 rows more: their component activity alone is 180,000 x 256 float64 = 350 MB. Pages of the mapped file
    # (5 MB) and of the growing parquet file's index are what may be added.
    assert after - before < 40_000  # kB
