"""`score` on a schedule: one score file for every input file; what is done is told by the score files themselves.

A score file is `<output>/<first 12 digits of the pipeline's digest>/<input name>.parquet` and says of which content of
which input it was made. A file is done when that and the rule are what is asked for now: nothing else is kept that
could disagree. Another pipeline has another folder, so that nothing is overwritten by a new version.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from madpipe.data.inputs import ARRAYS, TABLES, open_inputs
from madpipe.errors import ContentError, MadpipeError, MissingFileError, UsageError
from madpipe.pipeline.drift import DriftReport, DriftWatch
from madpipe.pipeline.folder import folder_digest
from madpipe.pipeline.locking import locked
from madpipe.pipeline.scorer import Pipeline
from madpipe.score_files import Stamp, read_stamp
from madpipe.scores import FORMATS, PARTIAL
from madpipe.workflows.score import (
    Report,
    open_watch,
    pipeline_folder,
    run_stamp,
    show_drift,
    tell_of_memory,
    warn_of_level,
    write_scores,
)
from madpipe.workflows.score_runs import log_scores

DIGITS = 12  # of the pipeline's digest in its folder's name
FAILED = ".failed"
Since = int | Literal["last"] | None


@dataclass
class FolderResult:
    """scored, skipped: names of input files; failed: name -> why. rows and flagged are of those scored now."""

    output: str
    calibration_size: int
    scored: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    flagged: int = 0
    seconds: float = 0.0
    drift: DriftReport | None = None


def score_folder(
    pipeline: str,
    inputs: Sequence[Path],
    *,
    output: Path,
    suffix: str = ".parquet",
    alpha: float = 0.01,
    since: Since = None,
    monitor: Path | None = None,
    monitor_level: float | None = None,
    key: str | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    log: bool = False,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> FolderResult:
    """Score each file among `inputs`, and in the folders among them, that is not done; oldest first.

    since: only files changed at or after this time (ns since 1970), or "last": the newest file scored before, by
    whichever pipeline. A file that cannot be scored leaves `<output>/<name>.failed`, stops no other, and is tried again
    by every run, whatever `since` says.
    """
    started = time.monotonic()
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder, device)
    warn_of_level(alpha, loaded.calibration_size, report)
    place = output / folder_digest(folder)[:DIGITS]
    place.mkdir(parents=True, exist_ok=True)
    result = FolderResult(str(place), loaded.calibration_size)
    size = batch_size or loaded.batch_size
    busy = f"another process is scoring into {output} now; wait for it, or choose another -o."
    with locked(output / ".lock", busy), open_watch(monitor, monitor_level, folder, loaded, key) as watch:
        _clear_away(output, place)
        for file in _since(_input_files(inputs), since, output):
            try:
                with watch.whole_or_not() if watch else nullcontext():
                    done = _score_file(folder, loaded, file, place, suffix, alpha, key, size, watch)
            except (ContentError, UsageError) as error:
                result.failed[file.name] = str(error)
                _mark(output, file).write_text(f"{file.absolute()}\n{error}\n", encoding="utf-8")
                report(f"{file.name} could not be scored: {error}")
                continue
            _mark(output, file).unlink(missing_ok=True)
            if done is None:
                result.skipped.append(file.name)
                continue
            result.scored.append(file.name)
            result.rows, result.flagged = result.rows + done[0], result.flagged + done[1]
        result.drift = watch.report() if watch else None
    tell_of_memory(loaded, size, report)
    if monitor and result.drift:
        show_drift(result.drift, monitor, report)
    result.seconds = time.monotonic() - started
    if log and result.scored:
        figures = {"rows": result.rows, "flagged": result.flagged, "flagged_share": result.flagged / result.rows}
        figures |= {"seconds": result.seconds, "files": len(result.scored), "failed": len(result.failed)}
        names = [Path(name) for name in result.scored]
        log_scores(folder, loaded, names, None, {"score.alpha": alpha}, figures, result.drift, tracking_uri)
    return result


def _score_file(
    folder: Path,
    pipeline: Pipeline,
    file: Path,
    place: Path,
    suffix: str,
    alpha: float,
    key: str | None,
    batch_size: int,
    watch: DriftWatch | None,
) -> tuple[int, int] | None:
    """(rows, flagged) of a file that was not done; None of one that is."""
    modified = _changed(file)  # before it is read: what is written later is newer than this
    stream = open_inputs(
        [file], key or pipeline.key, batch_size, shape=pipeline.input_shape, columns=pipeline.columns
    ).part(0, 1)
    stamp = replace(run_stamp(folder, pipeline, stream, key, {"alpha": alpha}), modified=modified)
    table = place / f"{file.name}{suffix}"
    if _is_done(table, stamp):
        return None
    return write_scores(pipeline, stream, str(table), alpha, stamp=stamp, watch=watch)


def _is_done(table: Path, wanted: Stamp) -> bool:
    with suppress(MissingFileError, ContentError):  # absent, cut short or altered: not done
        return read_stamp(table).run() == wanted.run()
    return False


def _input_files(inputs: Sequence[Path]) -> list[Path]:
    """Every file named, and of folders those directly in them whose ending is an input's; oldest first."""
    endings = {*ARRAYS, *TABLES}
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = (inner for inner in path.iterdir() if inner.is_file() and inner.suffix.lower() in endings)
            files += [inner for inner in inside if not inner.name.startswith(".")]
        elif path.is_file():
            files.append(path)
        else:
            raise MissingFileError(f"no file or folder {path}")
    places: dict[str, Path] = {}
    for file in files:
        if places.setdefault(file.name, file).resolve() != file.resolve():
            raise UsageError(f"{places[file.name]} and {file} have one name, and would share a score file; rename one.")
    return sorted(places.values(), key=lambda file: (_changed(file), file.name))


def _since(files: list[Path], since: Since, output: Path) -> list[Path]:
    """Files changed at or after the time: one of the very same time may have come after the last run."""
    if since == "last":
        since = _newest_scored(output)
    if since is None:
        return files
    return [file for file in files if _changed(file) >= since or _mark(output, file).exists()]


def _newest_scored(output: Path) -> int | None:
    times = []
    for path in output.glob("*/*"):
        if path.suffix.lower() in FORMATS:
            with suppress(MadpipeError):
                times.append(read_stamp(path).modified)
    return max(times, default=None)


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        raise MissingFileError(f"{file} was taken away while it was to be scored") from None


def _mark(output: Path, file: Path) -> Path:
    return output / f"{file.name}{FAILED}"


def _clear_away(output: Path, place: Path) -> None:
    """What a killed process left (the lock says that no other is writing), and marks of inputs that are gone."""
    for path in place.glob(f"*{PARTIAL}"):
        path.unlink()
    for mark in output.glob(f"*{FAILED}"):
        if not Path(mark.read_text(encoding="utf-8").partition("\n")[0]).is_file():
            mark.unlink()
