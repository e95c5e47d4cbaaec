"""A clock that is set back by a day in the middle of a fit."""

import sqlite3
from contextlib import closing

import pytest

from tests.faults.conftest import ending, final

SET_BACK = """
import os, time

wall, wall_ns, began = time.time, time.time_ns, time.monotonic()


def back():
    return 86400 if os.path.exists(os.environ["SET_BACK_ONCE_THERE_IS"]) else 0


time.time = lambda: wall() - back()
time.time_ns = lambda: wall_ns() - back() * 10**9
"""


@pytest.mark.soak
def test_a_clock_that_is_set_back_while_it_fits_changes_no_result_and_no_order(place, reference, tried):
    (place.folder / "clock").mkdir()
    (place.folder / "clock" / "sitecustomize.py").write_text(SET_BACK)
    from pathlib import Path

    path = f"{place.folder / 'clock'}:{Path(__file__).parents[2]}"
    moment = place.folder / "result.partial" / "checkpoints" / "0" / "last.ckpt"
    told = ending(place.fit(environment={"PYTHONPATH": path, "SET_BACK_ONCE_THERE_IS": str(moment)}))
    tried("clock set back by a day")
    assert told.code == 0, told.talk
    assert final(place.output) == reference.final
    with closing(sqlite3.connect(place.folder / "mlflow.db")) as store:
        runs = store.execute(
            "SELECT r.start_time, r.end_time FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id "
            "WHERE e.name = 'faults' ORDER BY r.start_time"
        ).fetchall()
    assert len(runs) == 2
    assert all(0 <= end - start < 600_000 for start, end in runs)  # ms
