"""`recalibrate`: the same score, ranked against new trusted rows."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from madpipe.data.inputs import check_rows, read_array
from madpipe.data.splits import MINIMUM_ROWS
from madpipe.errors import MissingFileError, TooFewRowsError, UsageError
from madpipe.pipeline.ensemble import save_calibration
from madpipe.pipeline.fitting import as_rows
from madpipe.pipeline.folder import publish, read_facts, seal, staging
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import FILE, keep_rows, kept_rows, refuse_known_rows


def recalibrate(
    pipeline: Path, trusted: Path, *, key: str | None = None, report: Callable[[str], None]
) -> dict[str, Any]:
    """Replace the calibration of `pipeline` by scores of the rows in `trusted`, which nothing may have been fitted on.

    The decomposition, detectors and scales stay as they are; the folder is replaced whole or not at all.
    """
    if not pipeline.is_dir():
        raise MissingFileError(f"no pipeline folder {pipeline}; a model in MLflow cannot be recalibrated in its place.")
    loaded = Pipeline.load(pipeline)
    if loaded.facts["crossed"]:
        raise UsageError(
            f"{pipeline} is cross-fitted, so its calibration belongs to its folds; fit again with the new rows."
        )
    x = check_rows(read_array(trusted, key or loaded.key, loaded.columns), loaded.input_shape, str(trusted))
    if len(x) < MINIMUM_ROWS:
        raise TooFewRowsError(f"{trusted}: {len(x)} rows; at least {MINIMUM_ROWS} trusted rows are needed.")
    kept = kept_rows(pipeline) if (pipeline / FILE).is_file() else None
    if kept:
        refuse_known_rows(x, kept, str(trusted))
    before = loaded.calibration_size
    loaded.ensemble.calibrate(as_rows(x), loaded.batch_size)
    facts = read_facts(pipeline)
    with staging(pipeline.absolute()) as staged:
        shutil.copytree(pipeline, staged, dirs_exist_ok=True)
        save_calibration(loaded.ensemble.calibration, staged / "ensemble")
        if kept:
            keep_rows(staged, replace(kept, calibration=x))
        seal(staged, facts | {"calibration_size": len(x), "recalibrated_on": trusted.name})
        publish(staged, pipeline.absolute())
    report(f"Calibration rows: {before:,} before, {len(x):,} now; smallest p-value {1 / (len(x) + 1):.3g}.")
    return {"pipeline": str(pipeline), "calibration_size": len(x), "calibration_size_before": before}
