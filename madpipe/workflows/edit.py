"""`edit`: the target without some of its mechanisms, as weights that the user's own factory loads."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from madpipe.components.checkpoint import save_json, save_tensors
from madpipe.editing.comparison import compare
from madpipe.editing.explaining import Explainer
from madpipe.editing.removal import Removal, edited_module, removal_shown_by, whole_removal
from madpipe.errors import MissingFileError, UsageError
from madpipe.pipeline.numbered_rows import numbered_rows
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.stored_target import load_written_target
from madpipe.workflows.explain import brought_rows, choose, make_explainer
from madpipe.workflows.score import pipeline_folder

MOST_SHOWN = 200  # inputs that show what to remove, where none is named by number: the most anomalous of the flagged


def edit(
    pipeline: str,
    *,
    output: Path,
    remove: Sequence[str] | None = None,
    named_by: Path | None = None,
    index: Sequence[int] | None = None,
    trusted: Path | None = None,
    check: Path | None = None,
    overwrite: bool = False,
    key: str | None = None,
    alpha: float = 0.01,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write the target's state dict without the parts `remove`, or without what the inputs `named_by` show.

    Beside `output` a .json of the same name keeps what was removed and measured: divergence and decisions on trusted
    rows (those of `trusted`, else the pipeline's calibration rows), and decisions on the rows of `check`.
    """
    _refuse_existing(output, overwrite)
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder)
    judged = brought_rows(loaded, trusted, key) if trusted else numbered_rows(folder, ("calibration",))
    checked = brought_rows(loaded, check, key) if check else None
    known = numbered_rows(folder, ("fit", "validation"))
    explainer = make_explainer(loaded, judged if known is None else known)
    if named_by is not None:
        removal = _shown(loaded, explainer, named_by, index, key, alpha)
    else:
        explainer.of_outputs.check(remove or (), "--remove: ")
        removal = whole_removal(explainer.of_outputs, remove or ())
    before = load_written_target(folder / "target", loaded.facts["target"]).module
    after = edited_module(before, removal.removed)
    document: dict[str, Any] = {"removed": list(removal.names), "share": removal.share, "pipeline": pipeline}
    if judged is None:
        report("The pipeline keeps no trusted rows: what the removal costs is not measured. Give --trusted FILE.")
    for name, rows in (("trusted", judged), ("checked", checked)):
        if rows is not None:
            document[name] = asdict(compare(before, after, rows[0], explainer.metric, loaded.batch_size))
    _write(output, after.state_dict(), document)
    return document | {"output": str(output)}


def _shown(
    pipeline: Pipeline, explainer: Explainer, path: Path, index: Sequence[int] | None, key: str | None, alpha: float
) -> Removal:
    chosen = choose(pipeline, path, index, key, alpha, most=MOST_SHOWN)
    if not len(chosen.ids):
        raise UsageError(
            f"{path}: nothing is flagged at p <= {alpha:g}, so nothing shows what to remove; give --index."
        )
    return removal_shown_by(explainer, chosen.x)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if not output.absolute().parent.is_dir():
        raise MissingFileError(f"cannot write {output}: there is no folder {output.parent}; make it first.")
    for path in (output, output.with_suffix(".json")):
        if path.exists() and not overwrite:
            raise MissingFileError(f"{path} exists already; choose another -o, or give --overwrite.")


def _write(output: Path, weights: Mapping[str, Any], document: dict[str, Any]) -> None:
    """Both files beside, then renamed: the weights last, so that they are never without their account."""
    account = output.with_suffix(".json")
    staged = {path: path.with_name(f"{path.name}.partial") for path in (account, output)}
    try:
        save_json(document, staged[account])
        save_tensors(weights, staged[output])
        for path, partial in staged.items():
            os.replace(partial, path)
    finally:
        for partial in staged.values():
            partial.unlink(missing_ok=True)
