"""The sections of a config file, in the order in which data flow; plug-in sections stay dictionaries here.

A plug-in's own keys (a method's, an extractor's, a task's, a detector's options) are checked by
`madpipe.config.resolving`, which asks the plug-in: this file imports none of them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Count = Annotated[int, Field(ge=1)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
# MLflow refuses "/" and ":" in a registered model's name, and the experiment's name is also the model's.
RunName = Annotated[str, Field(pattern=r"^[^/\\:@\s][^/\\:@]*$")]

DEFAULT_METHOD = "spd"
DEFAULT_COMBINER = "soft_maximum"
_RECONSTRUCTION: dict[str, Any] = {"detector": "standardised_mean", "patterns": "reconstruction"}
DEFAULT_MEMBERS: dict[str, dict[str, Any]] = {
    "output_divergence": {**_RECONSTRUCTION, "features": ["kl_forward_*"]},
    "output_residual": {**_RECONSTRUCTION, "features": ["output_max_*"]},
    "first_hidden_residual": {**_RECONSTRUCTION, "features": ["hidden_first_*"]},
    "last_hidden_residual": {**_RECONSTRUCTION, "features": ["hidden_last_*"]},
}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetConfig(Section):
    """`factory` is "my_model.py:build" (relative to the config file) or "package.module:build"."""

    factory: str
    kwargs: dict[str, Any] = {}
    weights: str | None = None
    output: Literal["categorical", "bernoulli", "regression"] = "categorical"
    sites: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)


class DataConfig(Section):
    """`trusted` is relative to the config file.

    `keep_trusted` stores those rows in the pipeline folder, for later controls and recalibration.
    """

    trusted: str
    key: str | None = None
    keep_trusted: bool = True


class TakenDecomposition(Section):
    """A decomposition that is there already, in place of one to train.

    `from`: a decomposition folder, relative to the config file, or its address in MLflow (runs:/RUN_ID/decomposition,
    models:/...). `select`: which of its seeds; None takes the one that it calls the best.
    """

    source: Annotated[str, Field(min_length=1, alias="from")]
    select: Annotated[int, Field(ge=0)] | None = None


class ClusteringConfig(Section):
    """How subcomponents become components; of no concern to methods whose components span sites.

    alpha: the larger, the finer the clusters. threshold: importance above which a subcomponent is active. restarts:
    random paths tried beside the greedy one. rows: how many of the fit rows are looked at. Without `enabled` there is
    no components view.
    """

    enabled: bool = True
    alpha: Annotated[float, Field(ge=0)] = 1.0
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.01
    restarts: Annotated[int, Field(ge=0)] = 0
    rows: Count = 10_000


class MemberConfig(Section):
    """One detector on the features of one extractor that match any of the globs in `features`.

    `combine: false` reports the member's score beside the others and leaves it out of the combined one.
    """

    detector: str
    patterns: str
    features: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    options: dict[str, Any] = {}
    combine: bool = True


class CombinerConfig(Section):
    detector: str = DEFAULT_COMBINER
    options: dict[str, Any] = {}


class DetectorsConfig(Section):
    """A `members` section in a file replaces the default members; it does not add to them."""

    members: dict[FileName, MemberConfig] = Field(default=DEFAULT_MEMBERS, validate_default=True)
    combiner: CombinerConfig = CombinerConfig()

    @field_validator("members")
    @classmethod
    def _one_is_combined(cls, members: dict[str, MemberConfig]) -> dict[str, MemberConfig]:
        if not any(member.combine for member in members.values()):
            raise ValueError("at least one member with combine: true is needed.")
        return members


class CalibrationConfig(Section):
    """folds: so many decompositions are trained, each without one part of the rows that are not for calibration; their
    scores are averaged, and each is brought to scale on the part it has not seen. 1: one decomposition, and
    `validation_size` rows held back. Below 200 trusted rows the folds also take turns at
    calibration, and there are at least two. Sizes of None follow the number of rows (`madpipe.data.splits`).
    """

    folds: Count = 4
    validation_size: Count | None = None
    calibration_size: Count | None = None

    @model_validator(mode="after")
    def _held_out_parts_have_one_size(self) -> Self:
        if self.validation_size is not None and self.folds > 1:
            raise ValueError("'validation_size' needs 'folds: 1'; each fold validates on the part it has not seen.")
        return self


class ScoringConfig(Section):
    """`top`: how many parts are named for each input. `view`: whether these are subcomponents or components.

    precision: `auto` is float32 for targets of 100,000 parameters or more, where arithmetic is what scoring costs.
    """

    batch_size: Count = 1024
    precision: Literal["auto", "float64", "float32"] = "auto"
    top: Annotated[int, Field(ge=0)] = 3
    view: Literal["subcomponents", "components"] = "subcomponents"


class TrackingConfig(Section):
    """`log_example: trusted` puts a real trusted input into the model in MLflow; "synthetic" puts noise there."""

    experiment: RunName = "madpipe"
    run_name: RunName | None = None
    tracking_uri: str | None = None
    register_model: bool = Field(default=True, alias="register")
    log_example: Literal["synthetic", "trusted"] = "synthetic"
    enabled: bool = True


class TrainerConfig(Section):
    """Lightning's own words for where and how long a decomposition trains.

    devices: -1 takes all. num_nodes: the same command on every node, with NODE_RANK, MASTER_ADDR and MASTER_PORT set,
    and -o on a file system that all of them see. strategy: `ddp` gives every process (devices times num_nodes) an equal
    share of each batch, and ends at the result of one process up to rounding; `auto` is ddp where there are several.
    precision: `bf16-mixed` runs passes in bfloat16; parameters, the optimiser's state and the target's clean pass stay
    float32. max_time: DD:HH:MM:SS for each fold's training; then a checkpoint is written and the command ends with exit
    code 5, to be continued by the same command.
    """

    accelerator: Literal["cpu", "cuda", "gpu", "mps", "tpu", "auto"] = "cpu"
    devices: Annotated[int, Field(ge=-1)] = 1
    num_nodes: Count = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    max_time: Annotated[str, Field(pattern=r"^\d{2}:\d{2}:\d{2}:\d{2}$")] | None = None
    enable_progress_bar: bool = True

    @property
    def several_processes(self) -> bool:
        """Whether there may be more than one; `devices: -1` is known only once they are counted."""
        return self.devices != 1 or self.num_nodes > 1

    @field_validator("devices")
    @classmethod
    def _there_is_a_device(cls, devices: int) -> int:
        if devices == 0:
            raise ValueError("should be at least 1, or -1 for all, and is 0.")
        return devices


class PipelineConfig(Section):
    """The whole config: either `task`, or `target` and `data`; everything else has a default.

    `patterns` holds every extractor that a member reads, with `{}` for those the file does not configure.
    """

    target: TargetConfig | None = None
    data: DataConfig | None = None
    task: dict[str, Any] | None = None
    decomposition: dict[str, Any] = Field(default={}, validate_default=True)
    clustering: ClusteringConfig = ClusteringConfig()
    patterns: dict[str, dict[str, Any]] = Field(default_factory=dict)
    detectors: DetectorsConfig = DetectorsConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    scoring: ScoringConfig = ScoringConfig()
    tracking: TrackingConfig = TrackingConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("task")
    @classmethod
    def _task_is_named(cls, task: dict[str, Any] | None) -> dict[str, Any] | None:
        return task if task is None else _opened_by("name", None, task)

    @field_validator("decomposition")
    @classmethod
    def _method_is_named_or_decomposition_taken(cls, decomposition: dict[str, Any]) -> dict[str, Any]:
        if "from" in decomposition:
            return _beside_from_only("select", decomposition)
        return _opened_by("method", DEFAULT_METHOD, decomposition)

    @field_validator("patterns", mode="before")
    @classmethod
    def _bare_extractor_means_defaults(cls, patterns: Any) -> Any:
        if not isinstance(patterns, dict):
            return patterns
        return {name: {} if options is None else options for name, options in patterns.items()}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        own = self.target is not None or self.data is not None
        if own and self.task is not None:
            raise ValueError("'task' brings its own target and data: keep either 'task', or 'target' and 'data'.")
        if self.task is None and (self.target is None or self.data is None):
            absent = " and ".join(f"'{key}'" for key in ("target", "data") if getattr(self, key) is None)
            raise ValueError(f"{absent} missing: a config needs either 'target' and 'data', or 'task'.")
        return self

    @model_validator(mode="after")
    def _members_bring_their_extractors(self) -> Self:
        for member in self.detectors.members.values():
            self.patterns.setdefault(member.patterns, {})
        return self

    @model_validator(mode="after")
    def _a_components_view_needs_clustering(self) -> Self:
        if self.clustering.enabled:
            return self
        views = {f"patterns.{name}.view": options.get("view") for name, options in self.patterns.items()}
        for key, view in (views | {"scoring.view": self.scoring.view}).items():
            if view == "components":
                raise ValueError(f"'{key}: components' needs 'clustering.enabled: true'.")
        return self


def _beside_from_only(allowed: str, section: dict[str, Any]) -> dict[str, Any]:
    settings = [key for key in section if key not in ("from", allowed)]
    if settings:
        raise ValueError(
            f"'from' takes a decomposition as it was trained, so '{settings[0]}' cannot stand beside it; only "
            f"'{allowed}' can."
        )
    return section


def _opened_by(key: str, default: str | None, section: dict[str, Any]) -> dict[str, Any]:
    """`section` with `key`, which names its plug-in, as first entry."""
    name = section.get(key, default)
    if not (isinstance(name, str) and name):
        raise ValueError(f"its '{key}' must be a name, like '{key}: {default or 'digits'}'.")
    return {key: name} | {k: v for k, v in section.items() if k != key}
