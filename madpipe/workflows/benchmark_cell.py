"""One cell of a benchmark, in a process of its own: `python -m madpipe.workflows.benchmark_cell`, told on stdin.

The process ends with the one that started it: it leaves when its stdin is closed.
"""

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe import __version__
from madpipe.components.checkpoint import save_json
from madpipe.config.resolving import method_of, resolved, task_of
from madpipe.config.schema import PipelineConfig
from madpipe.errors import MadpipeError
from madpipe.evaluation.task_metrics import TestRows, task_metrics
from madpipe.pipeline.control_subject import control_subject
from madpipe.pipeline.controls import CONTROLS, control_scores
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.scoring_cost import scoring_cost
from madpipe.tasks.build import build_task
from madpipe.tasks.task import Task
from madpipe.workflows.evaluate import pipeline_scores
from madpipe.workflows.fit import fit
from madpipe.workflows.starting import find_source

UNION_PATTERNS = "union"


def run_cell(job: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's document. `job`: `config` (resolved), `pipeline` (None for controls), `offline`, `scratch`."""
    config = PipelineConfig.model_validate(job["config"])
    scratch = Path(job["scratch"])
    with _one_builds(scratch.parent / f"building-{job['task']}-{job['seed']}.lock"):
        task = build_task(job["config"]["task"])
    x, rows = _test_rows(config, task)
    if job["pipeline"] is None:
        judged = controls_cell(config, task, x, rows, job["offline"])
    else:
        judged = pipeline_cell(config, x, rows, scratch)
    sizes = {"rows": len(task.test), "anomalous": int(task.is_anomalous.sum()), "trusted": len(task.trusted)}
    origin = {key: job[key] for key in ("name", "task", "seed", "pipeline", "config")}
    return origin | {"madpipe": __version__, "facts": task.facts} | sizes | judged


def pipeline_cell(config: PipelineConfig, x: NDArray[np.float32], rows: TestRows, scratch: Path) -> dict[str, Any]:
    """Fit as `madpipe fit` does, then judge the default score and every member."""
    wall, process = time.perf_counter(), time.process_time()
    fit(config, base=scratch, output=scratch / "pipeline", report=_say)
    seconds = {"fit_seconds": time.perf_counter() - wall, "fit_process_seconds": time.process_time() - process}
    loaded = Pipeline.load(scratch / "pipeline")
    scores = pipeline_scores(loaded, x)
    size = loaded.calibration_size
    judged = {name: task_metrics(*scores[name], rows, size) for name in scores}
    default = judged.pop("default") | {"auroc_interval": rows.auroc_interval(scores["default"][0])}
    cost = seconds | scoring_cost(loaded, x)
    crossed = bool(loaded.facts["crossed"])
    return {"calibration_size": size, "crossed": crossed, "default": default, "members": judged, "cost": cost}


def controls_cell(
    config: PipelineConfig, task: Task, x: NDArray[np.float32], rows: TestRows, offline: bool
) -> dict[str, Any]:
    """Judge every control, fitted on the trusted rows that a pipeline of this config is fitted on."""
    subject, trusted = control_subject(find_source(config, Path()), *method_of(config), resolved(config))
    scores = control_scores(subject, trusted, x, _say, task.untrusted if offline else None)
    size = len(trusted.calibration)
    controls = {}
    for name, (score, p_value, passes) in scores.items():
        known = CONTROLS.get(name)
        kind = {"patterns": known.patterns if known else UNION_PATTERNS, "offline": bool(known and known.offline)}
        controls[name] = task_metrics(score, p_value, rows, size) | kind | {"passes": passes}
    return {"calibration_size": size, "controls": controls}


def _test_rows(config: PipelineConfig, task: Task) -> tuple[NDArray[np.float32], TestRows]:
    """(test rows and, behind them, agree rows; what they are)."""
    named = task_of(config)
    assert named is not None
    agree = np.zeros((0, *task.test.shape[1:]), np.float32) if task.agree is None else task.agree
    shifted = getattr(named[0], "shifted_subsets", ())
    return np.concatenate([task.test, agree]), TestRows(task.is_anomalous, task.subsets, shifted)


@contextmanager
def _one_builds(path: Path) -> Iterator[None]:
    """Of several cells that need one task, one trains its target and the others read it from the cache."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave_with_parent() -> None:
    """A benchmark that is killed cannot end its cells: its end of their stdin is closed for it."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    job = json.loads(sys.stdin.readline())
    _leave_with_parent()
    path, scratch = Path(job["cell"]), Path(job["scratch"])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        save_json(run_cell(job), scratch / "cell.json")
    except MadpipeError as error:
        _say(str(error))
        return error.exit_code
    os.replace(scratch / "cell.json", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
