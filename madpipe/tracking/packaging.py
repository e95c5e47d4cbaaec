"""A pipeline folder as an MLflow model that anyone with madpipe installed can load, serve and register.

The model is code and data (`pyfunc_model.py` and the folder): nothing is pickled. It is marked READY only after it was
read back from the store and gave the folder's own scores.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from madpipe import __version__
from madpipe.errors import TrackingError
from madpipe.pipeline.scorer import Pipeline
from madpipe.scores import MEMBER_PREFIX
from madpipe.tracking.addresses import scrub
from madpipe.tracking.connection import border, environment, impatient, one_line, quiet
from madpipe.tracking.model_registry import MODEL_NAME
from madpipe.tracking.operations import record_output
from madpipe.tracking.runs import Run

DEFAULT_ALPHA = 0.01
EXAMPLE_SCORES = "example_scores"  # in the model's metadata: what the input example scored when it was stored
_TOLERANCE = 1e-6  # same code, machine and batch: what differs by more was not stored whole
_NEEDED_TO_SCORE = (
    *("torch", "numpy", "scikit-learn", "scipy", "pandas"),
    *("safetensors", "skops", "pydantic", "PyYAML", "mlflow"),
)


def log_pipeline(run: Run, folder: Path, example: np.ndarray, pip_requirements: Sequence[str] | None = None) -> str:
    """Stores the pipeline in `folder` as the run's model and returns its address, `models:/m-...`.

    `example` [B, *input_shape] is stored as the input example: pass data that may be seen. Trusted rows in the folder
    are left out. TrackingError when what was stored does not load, or scores `example` otherwise than the folder does.
    """
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    assert scrub(config) == config, f"{folder}/config.yaml holds an address with credentials"
    pipeline = Pipeline.load(folder)
    rows = np.asarray(example, dtype=np.float32)
    model = _create(run)
    try:
        with TemporaryDirectory(prefix="madpipe-") as scratch:
            packed = Path(scratch) / "model"
            write_model(packed, pipeline, folder, rows, record=_record(model), pip_requirements=pip_requirements)
            with border(run.store.uri, "cannot store the pipeline in"), quiet():
                run.store.client.log_model_artifacts(model.model_id, str(packed))
        _check_stored(run, model, pipeline, rows)
    except BaseException:
        with suppress(TrackingError), border(run.store.uri, "cannot write to"), quiet(), impatient():
            run.store.client.finalize_logged_model(model.model_id, "FAILED")
        raise
    _finish(run, model)
    return f"models:/{model.model_id}"


def requirements() -> list[str]:
    """`["madpipe==0.1.0", "torch==2.13.0", ...]`: what scoring needs, at the versions installed here.

    A local part (`+cpu`) is cut: it names a build that a package index does not have.
    """
    pinned = [f"madpipe=={__version__}"]
    for name in _NEEDED_TO_SCORE:
        with suppress(PackageNotFoundError):
            pinned.append(f"{name}=={version(name).partition('+')[0]}")
    return pinned


def signature(
    input_shape: tuple[int, ...], member_names: Sequence[str], columns: Sequence[str] | None = None
) -> ModelSignature:
    """float32 [-1, *input_shape], or the named `columns`, and the parameter alpha in; the columns of a score file out.

    By a signature of names MLflow orders a table's columns and misses none; by one of a shape it would take any table
    that is as wide.
    """
    outputs = {
        "input_id": "string",
        "anomaly_score": "double",
        "p_value": "double",
        "flagged": "boolean",
        "top_components": "string",
        **{f"{MEMBER_PREFIX}{name}": "double" for name in member_names},
    }
    return ModelSignature(
        inputs=Schema([ColSpec("double", name) for name in columns])
        if columns
        else Schema([TensorSpec(np.dtype("float32"), (-1, *input_shape))]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema([ParamSpec("alpha", "double", DEFAULT_ALPHA)]),
    )


def in_signature_form(x: np.ndarray, columns: Sequence[str] | None) -> np.ndarray | pd.DataFrame:
    """Rows x [B, ...] as the signature wants them: a table where columns have names."""
    return x if columns is None else pd.DataFrame(x.astype(np.float64), columns=list(columns))


def write_model(
    model_folder: Path,
    pipeline: Pipeline,
    folder: Path,
    example: np.ndarray | None = None,
    *,
    record: Model | None = None,
    pip_requirements: Sequence[str] | None = None,
) -> None:
    """The MLflow model around the pipeline in `folder`, as a new local folder; its trusted rows are left out.

    With an `example` [B, *input_shape] its scores are noted beside it, so that whoever loads the model can compare.
    """
    with quiet(), TemporaryDirectory(prefix="madpipe-") as scratch:
        from mlflow.pyfunc import save_model  # warns of MLflow's own type hints when it is first imported

        save_model(
            str(model_folder),
            mlflow_model=record,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"pipeline": str(_without_trusted_rows(folder, Path(scratch) / "pipeline"))},
            signature=signature(pipeline.input_shape, pipeline.member_names, pipeline.columns),
            input_example=None if example is None else in_signature_form(example, pipeline.columns),
            metadata=None if example is None else {EXAMPLE_SCORES: _scores(pipeline, example)},
            pip_requirements=list(pip_requirements or requirements()),
        )


def _scores(pipeline: Pipeline, x: np.ndarray) -> dict[str, list[float]]:
    scored = pipeline.score(x, named_below=0)
    return {"anomaly_score": scored.anomaly_score.tolist(), "p_value": scored.p_value.tolist()}


def difference(stored: Mapping[str, Sequence[float]], found: pd.DataFrame, tolerance: float) -> str | None:
    """`"anomaly_score differs by up to 0.2"` where scores are not the `stored` ones to `tolerance`, relative."""
    for column, values in stored.items():
        wanted, got = np.asarray(values), found[column].to_numpy()
        if wanted.shape != got.shape:
            return f"there are {len(wanted)} of {column} and {len(got)} inputs"
        if not np.allclose(wanted, got, rtol=tolerance, atol=tolerance * 1e-3):
            return f"{column} differs by up to {np.abs(wanted - got).max():.3g}"
    return None


def _create(run: Run) -> LoggedModel:
    client = run.store.client
    with border(run.store.uri, "cannot store the pipeline in"), quiet():
        params = client.get_run(run.id).data.params
        return client.create_logged_model(run.store.experiment_id, MODEL_NAME, source_run_id=run.id, params=params)


def _record(model: LoggedModel) -> Model:
    """What ties a local model folder to the logged model that it becomes."""
    return Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=model.source_run_id,
        model_id=model.model_id,
    )


def _without_trusted_rows(folder: Path, copy: Path) -> Path:
    def trusted(at: str, names: list[str]) -> set[str]:
        return {"trusted"} & set(names) if Path(at) == folder else set()

    return Path(shutil.copytree(folder, copy, ignore=trusted))


def _check_stored(run: Run, model: LoggedModel, pipeline: Pipeline, rows: np.ndarray) -> None:
    """Downloads the model, loads it as a server would, without pickle, and compares scores and p-values."""
    with TemporaryDirectory(prefix="madpipe-") as scratch:
        with border(run.store.uri, "cannot read the pipeline back from"), quiet():
            stored = download_artifacts(
                artifact_uri=model.artifact_location, dst_path=scratch, tracking_uri=run.store.uri
            )
        try:
            found = predict_without_pickle(Path(stored), in_signature_form(rows, pipeline.columns))
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error, run.store.uri)}"
            raise TrackingError(f"the pipeline stored as models:/{model.model_id} cannot be used: {reason}") from error
    wrong = difference(_scores(pipeline, rows), found, _TOLERANCE)
    if wrong:
        raise TrackingError(
            f"the pipeline stored as models:/{model.model_id} gives other scores than its folder: {wrong}. "
            "Do not use it."
        )


def predict_without_pickle(model_folder: Path, x: np.ndarray | pd.DataFrame) -> pd.DataFrame:
    """What a freshly loaded model in a local folder says of `x`; it runs the code stored there, and unpickles none."""
    with quiet(), environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}):
        from mlflow.pyfunc import load_model

        return pd.DataFrame(load_model(str(model_folder)).predict(x))


def _finish(run: Run, model: LoggedModel) -> None:
    """READY, linked to the run as its output, with the run's results beside it in the table of models.

    READY comes last: it is what says that nothing lacks.
    """
    client = run.store.client
    with border(run.store.uri, "cannot write to"), quiet():
        record_output(run.store, run.id, model.model_id)
        results = client.get_run(run.id).data.metrics
    run.metrics(
        {name: value for name, value in results.items() if not name.startswith("train/")}, model_id=model.model_id
    )
    with border(run.store.uri, "cannot write to"), quiet():
        client.finalize_logged_model(model.model_id, "READY")
