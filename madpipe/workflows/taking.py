"""`decomposition: {from: ...}`: a decomposition made before takes the place of one to train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madpipe.config.resolving import taken_of
from madpipe.config.schema import PipelineConfig
from madpipe.data.splits import Split
from madpipe.pipeline.decomposition_folder import DecompositionFolder
from madpipe.pipeline.fitting import Decomposed, best_of_seeds, chunks_of, grouped, one_split
from madpipe.pipeline.rehearsal import Start
from madpipe.pipeline.source import Source
from madpipe.registry import METHODS
from madpipe.tracking.runs import Store
from madpipe.workflows.decomposition_runs import DecompositionLink
from madpipe.workflows.starting import Report


@dataclass(frozen=True)
class Taken:
    """One seed of a decomposition folder. clustering: the section of the config that takes it."""

    folder: DecompositionFolder
    seed: int
    clustering: Mapping[str, Any]

    @property
    def regroups(self) -> bool:
        """Whether its subcomponents are to be clustered in another way than they were, or were not."""
        spans_sites: bool = METHODS.load(self.folder.settings["method"]).spans_sites
        return not spans_sites and self.folder.clustering != self.clustering

    def splits(self, source: Source, calibration: Mapping[str, Any], seed: int) -> list[Split]:
        """The recorded split where the trusted rows are the same: its calibration rows were not trained on. With other
        rows a new one.

        ContentError where the decomposition is of another target, or at other sites.
        """
        self.folder.refuse_other(source)
        if self.folder.trained_on(source):
            return [self.folder.split()]
        return [one_split(len(source.trusted), calibration, seed)]

    def announce(self, report: Report, source: Source) -> None:
        """What is taken, and what nobody knows where the trusted rows are others."""
        method, seeds = self.folder.settings["method"], self.folder.seeds
        which = f"seed {self.seed} of 0 to {seeds - 1}" if seeds > 1 else "its one seed"
        report(f"Taking the {method} decomposition {self.folder.address}, {which}; nothing is trained.")
        if self.regroups:
            had = "another 'clustering' section" if self.folder.clustering else "none: it is older than clustering"
            report(f"Its components are found anew, on these fit rows; {self.folder.address} has {had}.")
        if not self.folder.trained_on(source):
            report(
                f"Warning: {self.folder.address} was trained on other trusted rows than these. Its own rows are "
                "unknown here, so p-values hold only if none of them is a calibration row now."
            )

    def start(self, source: Source) -> Start:
        """For the rehearsal, which asks for a method with the features of the one to come."""
        return lambda x: self.folder.method(source.target.module, self.seed)

    def decomposed(self, source: Source, splits: Sequence[Split]) -> list[Decomposed]:
        """The same decomposition for every split, judged on its validation rows."""
        decomposed = []
        for split in splits:
            method = self.folder.method(source.target.module, self.seed)
            if self.regroups:
                method = grouped(method, source, split, self.clustering)
            decomposed.append(best_of_seeds(method, chunks_of(source, split.validation)))
        return decomposed

    def link(self, store: Store | None) -> DecompositionLink:
        """Its run, with the models that this store knows of."""
        run_id = self.folder.run_id
        models = store.models_of(run_id) if store and run_id else []
        return DecompositionLink(run_id, models, self.folder.digest)


def take(config: PipelineConfig, base: Path, tracking_uri: str | None) -> Taken | None:
    """What `from` names, verified; None where the config trains its own. A folder is relative to `base`."""
    asked = taken_of(config)
    if asked is None:
        return None
    folder = DecompositionFolder.open(_local(asked.source, config, base, tracking_uri), asked.source)
    return Taken(folder, folder.seed(asked.select), config.clustering.model_dump())


def _local(address: str, config: PipelineConfig, base: Path, tracking_uri: str | None) -> Path:
    if not address.startswith(("models:/", "runs:/")):
        return base / address
    from madpipe.tracking.model_registry import local_decomposition

    return local_decomposition(address, tracking_uri or config.tracking.tracking_uri)
