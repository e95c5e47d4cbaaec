"""What a decomposition leaves in MLflow: one run with its params, its quality, and its components as a logged model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from madpipe.data.splits import Split
from madpipe.decomposition.assessment import Assessment
from madpipe.pipeline.fitting import Decomposed
from madpipe.pipeline.folder import DECOMPOSITION, folder_digest
from madpipe.pipeline.source import Source
from madpipe.pipeline.workspace import Workspace
from madpipe.tracking.model_registry import DECOMPOSITION_NAME
from madpipe.tracking.operations import is_local
from madpipe.tracking.runs import Run, Store

NOTED = (
    "l0",
    "alive",
    "faithfulness",
    "reconstruction_importance",
    "reconstruction_adversarial",
    "mmcs",
    "matched",
    "mechanisms",
)


@dataclass(frozen=True)
class DecompositionLink:
    """Where the decomposition of a pipeline is logged: its run, and the models that run made.

    digest: of its folder, where it was taken from one.
    """

    run_id: str | None
    model_ids: Sequence[str] = ()
    digest: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        tags = {"decomposition_run_id": self.run_id, "decomposition_digest": self.digest}
        return {name: value for name, value in tags.items() if value is not None}


@dataclass(frozen=True)
class DecompositionRecord:
    """Where one decomposition is logged; nowhere, when tracking is disabled (`store` is None).

    settings: the resolved config. decomposition: the method's own settings, with its name as `method`.
    """

    store: Store | None
    name: str
    settings: Mapping[str, Any]
    decomposition: Mapping[str, Any]
    source: Source
    splits: Sequence[Split]
    workspace: Workspace

    @contextmanager
    def decomposition_run(self) -> Iterator[Run | None]:
        """Open while the decomposition trains; a resumed one continues its own run."""
        if self.store is None:
            yield None
            return
        earlier = self.workspace.notes.get("decomposition_run_id")
        resume = earlier if earlier and self.store.has_run(earlier) else None
        key = f"{self.workspace.token}-decomposition"
        with self.store.run(f"{self.name} decomposition", "decomposition", resume=resume, key=key) as run:
            self.workspace.note(decomposition_run_id=run.id)
            if resume is None:
                run.params(self.shared_params())
                run.text(self.config_text(), "config/resolved.yaml")
                run.dataset(self.source.trusted[self.splits[0].fit], self.source.name, "fit")
            yield run

    def log_chosen(self, run: Run | None, folds: Sequence[Decomposed]) -> DecompositionLink:
        """Quality of the seed that each fold uses, and a logged model that stands for the components."""
        if run is None:
            return DecompositionLink(None)
        quality = folds[0].quality
        run.metrics({f"quality/{name}": value for name, value in quality.items()})
        for k, fold in enumerate(folds):
            self._log_choice(run, fold.seed, fold.lengths, k)
        run.note(
            markdown_table(
                ["quality on held-back trusted rows", ""], [[name, value] for name, value in quality.items()]
            )
        )
        return DecompositionLink(run.id, [run.model(DECOMPOSITION_NAME, self.shared_params())])

    def log_seeds(self, run: Run | None, folder: Path, seeds: Sequence[Assessment], best: int) -> str | None:
        """Quality of the best seed and of every other, pictures, the folder as a logged model: its address, if sent."""
        if run is None:
            return None
        run.metrics(_metrics("quality", seeds[best]))
        if len(seeds) > 1:
            for assessment in seeds:
                run.metrics(_metrics(f"seed{assessment.seed}", assessment))
        self._log_choice(run, best, [assessment.description_length for assessment in seeds])
        run.tags({"decomposition_digest": folder_digest(folder, DECOMPOSITION)})
        run.artifact(folder / "splits.npz", "splits")
        run.artifact(folder / "quality.json", "quality")
        run.artifact(folder / "figures")
        run.note(_seeds_note(seeds, best))
        made = run.model(DECOMPOSITION_NAME, self.shared_params(), folder)
        return None if is_local(made) else f"models:/{made}"

    def shared_params(self) -> dict[str, Any]:
        params = decomposition_params(self.decomposition)
        return {"data.name": self.source.name} | params | {"seed": self.settings["seed"]}

    def config_text(self) -> str:
        return yaml.safe_dump(dict(self.settings), sort_keys=False)

    def _log_choice(self, run: Run, seed: int, lengths: Sequence[float], fold: int = 0) -> None:
        """Which of several seeds is used, and the criterion of all; the step is the fold."""
        if len(lengths) > 1:
            values = {f"selection/description_length/seed{s}": length for s, length in enumerate(lengths)}
            run.metrics({"selection/seed": float(seed)} | values, step=fold)


def decomposition_params(decomposition: Mapping[str, Any]) -> dict[str, Any]:
    """What is logged of a method's own settings."""
    return {
        "decomposition.method": decomposition["method"],
        "decomposition.C": decomposition.get("components") or "auto",
        "decomposition.steps": decomposition["steps"],
        "decomposition.seeds": decomposition["seeds"],
    }


def _metrics(group: str, assessment: Assessment) -> dict[str, float]:
    return {
        f"{group}/{figure}/{variant}": value
        for variant, figures in assessment.figures.items()
        for figure, value in figures.items()
    }


def _seeds_note(seeds: Sequence[Assessment], best: int) -> str:
    """The first variant's figures, a row per seed."""
    variant, figures = next(iter(seeds[0].figures.items()))
    shown = [name for name in NOTED if name in figures]
    rows = [
        [f"{s.seed}{' (best)' if s.seed == best else ''}", s.description_length]
        + [s.figures[variant][name] for name in shown]
        for s in seeds
    ]
    return f"Variant {variant}, on held-back trusted rows.\n\n" + markdown_table(
        ["seed", "description length", *shown], rows
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table for a note; floats get four digits."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [list(header), ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
