"""A benchmark suite: tasks, seeds and pipelines whose every combination is fitted and judged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from madpipe.config.loading import read_document
from madpipe.config.resolving import check_plugins, plugin
from madpipe.config.schema import FileName, PipelineConfig, RunName, Section
from madpipe.config.validation import validated
from madpipe.registry import TASKS

Seed = Annotated[int, Field(ge=0)]


class PipelineSections(Section):
    """Sections of a pipeline's config, laid over the defaults; what they may hold stands in `madpipe config schema`."""

    decomposition: dict[str, Any] = {}
    clustering: dict[str, Any] = {}
    patterns: dict[str, Any] = {}
    detectors: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    scoring: dict[str, Any] = {}

    @field_validator("decomposition")
    @classmethod
    def _trained_on_each_task(cls, decomposition: dict[str, Any]) -> dict[str, Any]:
        if "from" in decomposition:
            raise ValueError("a suite trains on tasks of its own and takes no decomposition 'from' elsewhere.")
        return decomposition


class Suite(Section):
    """tasks: sections as in a config's `task`, without a seed. pipelines: name -> sections laid over the defaults.

    controls: fit them too, once for each task and seed. offline: also those that learn from the task's unlabelled mix.
    experiment: where runs go in MLflow; null logs nothing.
    """

    name: FileName
    tasks: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    pipelines: Annotated[dict[FileName, PipelineSections], Field(min_length=1)] = {"default": PipelineSections()}
    controls: bool = True
    offline: bool = False
    experiment: RunName | None = "benchmark"

    @field_validator("pipelines", mode="before")
    @classmethod
    def _bare_pipeline_means_defaults(cls, pipelines: Any) -> Any:
        if not isinstance(pipelines, dict):
            return pipelines
        return {name: {} if sections is None else sections for name, sections in pipelines.items()}

    @field_validator("tasks", "seeds")
    @classmethod
    def _none_twice(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [entry for k, entry in enumerate(entries) if entry in entries[:k]]
        if twice:
            raise ValueError(f"{twice[0]} is given twice.")
        return entries

    @field_validator("tasks")
    @classmethod
    def _named_and_without_seeds(cls, tasks: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for task in tasks:
            if not isinstance(task.get("name"), str):
                raise ValueError(f"{task} needs a 'name', like 'name: digits'.")
            if "seed" in task:
                raise ValueError(f"{task} has a 'seed'; name seeds once, in 'seeds'.")
        return tasks

    @model_validator(mode="after")
    def _offline_ones_are_controls(self) -> Self:
        if self.offline and not self.controls:
            raise ValueError("'offline: true' is about controls, and needs 'controls: true'.")
        return self


def load_suite(path: str | Path) -> Suite:
    """The suite in `path`, each task and pipeline checked; an error is one line that opens with the file's name."""
    document = read_document(Path(path), needed="'name' and 'tasks'")
    suite = validated(Suite, document, str(path))
    for k, task in enumerate(suite.tasks):
        options = {key: value for key, value in task.items() if key != "name"}
        plugin(TASKS, task["name"], options, str(path), f"tasks.{k}", "name")
    for name in suite.pipelines:
        check_plugins(pipeline_config(suite, name, suite.tasks[0], 0, str(path)), f"{path}: pipelines.{name}")
    return suite


def pipeline_config(
    suite: Suite, pipeline: str, task: Mapping[str, Any], seed: int, source: str = "suite"
) -> PipelineConfig:
    """The config of one cell: it logs nothing by itself and draws no bar."""
    sections = {key: value for key, value in suite.pipelines[pipeline].model_dump().items() if value}
    whole = {"task": {**task, "seed": seed}, "seed": seed, **sections}
    quiet = {"tracking": {"enabled": False}, "trainer": {"enable_progress_bar": False}}
    return validated(PipelineConfig, whole | quiet, source, f"pipelines.{pipeline}")
