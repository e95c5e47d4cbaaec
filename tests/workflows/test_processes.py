"""Jobs in processes: each ends as it ends, the others go on, and none outlives what started it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import madpipe
from madpipe.workflows.processes import run_in_processes

JOB = """
import json, os, signal, sys, threading, time
job = json.loads(sys.stdin.readline())
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
print("threads", os.environ["OMP_NUM_THREADS"], file=sys.stderr)
open(job["pid"], "w").write(str(os.getpid()))
match job["do"]:
    case "fail":
        print("what went wrong\\n", file=sys.stderr)
        sys.exit(4)
    case "die":
        os.kill(os.getpid(), signal.SIGKILL)
    case "stay":
        time.sleep(60)
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "some_job.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda *what: [{"name": do, "do": do, "pid": str(tmp_path / f"{do}.pid")} for do in what]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(path: Path) -> int:
    for _ in range(1000):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(path)


def test_each_ends_in_its_own_way_and_the_others_go_on(jobs, tmp_path):
    endings = run_in_processes("some_job", jobs("fail", "die", "end"), 2, tmp_path / "logs")
    ended = {each.name: each for each in endings}
    assert {name: each.code for name, each in ended.items()} == {"fail": 4, "die": -signal.SIGKILL, "end": 0}
    assert ended["fail"].reason == "what went wrong"
    assert ended["die"].reason == "its process was ended by SIGKILL (out of memory?)"
    assert ended["end"].said == "threads 1"


def test_the_words_of_those_that_failed_are_kept(jobs, tmp_path):
    list(run_in_processes("some_job", jobs("fail", "end"), 1, tmp_path / "logs"))
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["fail.log"]


def test_who_stops_listening_ends_what_runs(jobs, tmp_path):
    with closing(run_in_processes("some_job", jobs("stay", "end"), 2, tmp_path / "logs")) as endings:
        assert next(endings).name == "end"
        pid = wait_for(tmp_path / "stay.pid")
    assert not is_running(pid)


def test_a_job_leaves_when_the_process_that_started_it_is_killed(jobs, tmp_path):
    program = (
        "from pathlib import Path; from madpipe.workflows.processes import run_in_processes;"
        f"list(run_in_processes('some_job', {jobs('stay')!r}, 1, Path({str(tmp_path / 'logs')!r})))"
    )
    path = f"{tmp_path}{os.pathsep}{Path(madpipe.__file__).parents[1]}"
    starting = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path})
    pid = wait_for(tmp_path / "stay.pid")
    starting.kill()
    starting.wait()
    for _ in range(500):
        if not is_running(pid):
            return
        time.sleep(0.02)
    raise AssertionError("the job outlived its parent by ten seconds")
