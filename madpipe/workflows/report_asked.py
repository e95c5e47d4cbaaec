"""What a report was asked for, what it opens with, and how it says that all of it can be made again."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madpipe.pipeline.folder import folder_digest
from madpipe.pipeline.scorer import Pipeline
from madpipe.reporting import pipeline_page
from madpipe.scores import ScoreTable


@dataclass(frozen=True)
class Asked:
    """What the report is of, in the user's own words: the commands it tells are made of them."""

    pipeline: str
    output: Path
    scores: Path | None = None
    inputs: Path | None = None
    label: str | None = None
    alpha: float = 0.01
    explain: int = 5
    controls: bool = True
    trusted: Path | None = None
    image: tuple[int, int] | None = None
    key: str | None = None


def facts_of(loaded: Pipeline, table: ScoreTable | None) -> dict[str, object]:
    facts = loaded.facts
    rows = facts["trusted"]["rows"]
    shape = " x ".join(map(str, loaded.input_shape))
    return {
        "trusted data": f"{facts['trusted']['name']}, {rows:,} inputs of shape {shape}",
        "network": f"{facts['target']['factory']}, output {facts['target']['output']}",
        "decomposed weights": ", ".join(facts["sites"]),
        "method": f"{loaded.method.name}, {len(loaded.ensemble.folds)} decompositions",
        "calibration rows": f"{loaded.calibration_size:,}"
        + (f", brought later in {facts['recalibrated_on']}" if "recalibrated_on" in facts else ""),
        **({} if table is None else {"inputs scored": f"{len(table):,}, {int(table.flagged.sum()):,} flagged"}),
    }


def findings(figures: Mapping[str, Any]) -> list[str]:
    """The page in a few sentences."""
    found = []
    for variant, share in list(figures["decomposition"].get(pipeline_page.AGREEMENT, {}).items())[:1]:
        found.append(
            f"Trusted components alone decide as the network does on {share:.1%} of trusted rows (view: {variant})."
        )
    if "scores" in figures:
        found.append(f"{figures['scores']['flagged']:,} of {figures['scores']['rows']:,} inputs are flagged.")
    if "evaluation" in figures:
        default = figures["evaluation"]["default"]
        found.append(
            f"On labelled inputs the AUROC is {default['auroc']:.3f}; p ≤ 1 % catches "
            f"{default['recall_at_nominal_1']:.1%} of anomalies and {default['fpr_at_nominal_1']:.1%} of normal inputs."
        )
    return found


def about_making(asked: Asked, loaded: Pipeline, folder: Path) -> str:
    facts = loaded.facts
    versions = {
        "pipeline folder": folder,
        "digest of its manifest": folder_digest(folder),
        "madpipe": facts["madpipe"],
        "torch": facts["torch"],
        "Python of this report": sys.version.split()[0],
        "precision": facts["precision"],
        "seed": facts["seed"],
    }
    return pipeline_page.making_section(
        (folder / "config.yaml").read_text(encoding="utf-8"), versions, _commands(asked)
    )


def _commands(asked: Asked) -> dict[str, str]:
    """What to type, by what it does."""
    own: list[object] = ["--pipeline", asked.pipeline]
    key = _option("--key", asked.key)
    image = _option("--image", asked.image and f"{asked.image[0]}x{asked.image[1]}")
    data = asked.inputs or "new.npz"
    label = ["--label", asked.label or "is_anomalous"]
    again = [
        *own,
        *_option("--scores", asked.scores),
        *_option("--inputs", asked.inputs),
        *_option("--label", asked.label),
        *_option("--alpha", None if asked.scores or asked.alpha == Asked.alpha else f"{asked.alpha:g}"),
        *_option("--explain", None if asked.explain == Asked.explain else asked.explain),
        *([] if asked.controls else ["--no-controls"]),
        *_option("--trusted", asked.trusted),
    ]
    configured = "fit the pipeline from the configuration below, saved as config.yaml beside the files it names"
    commands: dict[str, list[object]] = {
        configured: ["fit", "config.yaml", "-o", "pipeline-again"],
        "score inputs": ["score", *own, *key, data, "-o", asked.scores or "scores.parquet"],
        "compare with labels, and with simpler detectors": ["evaluate", *own, *key, data, *label, "--controls"],
        "explain flagged inputs": ["explain", *own, *key, *image, data],
        "make this page": ["report", *again, *image, *key, "-o", asked.output],
    }
    return {what: shlex.join(map(str, ["madpipe", *words])) for what, words in commands.items()}


def _option(name: str, value: object) -> list[object]:
    """Words of an option that was given a value."""
    return [] if value is None else [name, value]
