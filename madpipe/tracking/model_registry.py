"""Names for what is stored: registering a pipeline under aliases, and fetching the folder that a name stands for."""

import atexit
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import mlflow
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from madpipe.errors import UnknownNameError, UsageError, unknown
from madpipe.pipeline.folder import DECOMPOSITION
from madpipe.tracking.addresses import store_uri
from madpipe.tracking.connection import border, connect, environment, quiet
from madpipe.tracking.runs import Run

MODEL_NAME = "pipeline"
DECOMPOSITION_NAME = "decomposition"
FOLDER_IN_MODEL = "artifacts/pipeline"  # where MLflow puts the artifact that is called "pipeline"
_FORMS = (
    "Known forms: models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest, models:/m-ID, runs:/RUN_ID/pipeline."
)
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")  # the last: an id that cannot be one


@dataclass(frozen=True)
class ModelVersion:
    """What was registered; `aliases` are those that point at it now."""

    name: str
    version: int
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(run: Run, model_uri: str, name: str) -> ModelVersion:
    """A new version of `name` for `model_uri` (from `log_pipeline`), as `candidate`, and `champion` where none is."""
    client, model_id = run.store.client, model_uri.removeprefix("models:/")
    with border(run.store.uri, "cannot register in"), quiet(), _global_store(run.store.uri):
        with suppress(MlflowException):  # it is there already, or creating the version says what is wrong
            client.create_registered_model(name)
        made = client.create_model_version(name, model_uri, run_id=run.id, model_id=model_id)
        return _point_at(run, name, made.version, model_id)


def registered_before(run: Run, model_uri: str, name: str) -> ModelVersion | None:
    """The version of `name` that an earlier `register` made of this model, with the rest of it done; or None."""
    client, model_id = run.store.client, model_uri.removeprefix("models:/")
    with border(run.store.uri, "cannot register in"), quiet(), _global_store(run.store.uri):
        found = client.search_model_versions(f"run_id = '{run.id}'")
        # A server does not tell a version's model_id; its source is the address that it was made of.
        versions = [made.version for made in found if made.name == name and made.source == model_uri]
        return _point_at(run, name, versions[0], model_id) if versions else None


def _point_at(run: Run, name: str, version: int | str, model_id: str) -> ModelVersion:
    """Aliases and MLflow's link for a version, unless they are there, or a later version has taken `candidate` over."""
    client = run.store.client
    known = json.loads(client.get_logged_model(model_id).tags.get("mlflow.modelVersions", "[]"))
    standing = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    wanted = ("candidate",) if "champion" in standing else ("candidate", "champion")
    aliases = tuple(alias for alias in wanted if standing.get(alias, 0) < int(version))
    for alias in aliases:
        client.set_registered_model_alias(name, alias, str(version))
    link = {"name": name, "version": version}
    if link not in known:  # MLflow's pages read this tag to link a logged model to its registered versions.
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([*known, link])})
    return ModelVersion(name, int(version), aliases)


def local_folder(model_uri: str, trust_code: bool, tracking_uri: str | None = None) -> Path:
    """The pipeline folder behind `model_uri`, downloaded to a temporary folder that is removed at exit.

    Forms: models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest, models:/m-ID, runs:/RUN_ID/pipeline.
    UsageError without `trust_code`, since scoring runs the target's factory code that comes with the folder;
    UnknownNameError with the nearest known name, version or alias; TrackingError when the store cannot be reached.
    """
    return _fetch(model_uri, trust_code, tracking_uri, f"/{FOLDER_IN_MODEL}")


def local_model(model_uri: str, trust_code: bool, tracking_uri: str | None = None) -> Path:
    """The whole MLflow model behind `model_uri`, downloaded like `local_folder`, with the same errors."""
    return _fetch(model_uri, trust_code, tracking_uri, "")


def _fetch(model_uri: str, trust_code: bool, tracking_uri: str | None, part: str) -> Path:
    if not trust_code:
        raise UsageError(
            f"{model_uri} comes from a registry and brings the code of its target's own factory, which scoring "
            "would run. If you trust whoever registered it, give --trust-code."
        )
    uri = store_uri(tracking_uri)
    client = connect(uri)
    with border(uri, f"cannot read {model_uri} from"), quiet():
        location = _location(client, model_uri, MODEL_NAME)
        if Path(FOLDER_IN_MODEL).name not in _names_in(f"{location}/artifacts", uri):
            raise UsageError(f"{model_uri} holds no madpipe pipeline: something else logged it.")
        return _download(f"{location}{part}", uri)


def local_decomposition(model_uri: str, tracking_uri: str | None = None) -> Path:
    """The decomposition folder behind `model_uri` (runs:/RUN_ID/decomposition, models:/...), downloaded like one.

    Needs no trust: `fit` runs none of the code in it. Errors as for `local_folder`.
    """
    uri = store_uri(tracking_uri)
    client = connect(uri)
    with border(uri, f"cannot read {model_uri} from"), quiet():
        location = _location(client, model_uri, DECOMPOSITION_NAME)
        if DECOMPOSITION.manifest not in _names_in(location, uri):
            raise UsageError(
                f"{model_uri} holds no decomposition folder; 'madpipe decompose' logs one, 'madpipe fit' its pipeline."
            )
        return _download(location, uri)


def _names_in(location: str, uri: str) -> set[str]:
    return {Path(item.path).name for item in list_artifacts(location, tracking_uri=uri)}


def _download(location: str, uri: str) -> Path:
    folder = mkdtemp(prefix="madpipe-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(download_artifacts(location, dst_path=folder, tracking_uri=uri))


def _location(client: MlflowClient, model_uri: str, name_in_run: str) -> str:
    """Where the files of the model are, as an artifact address without a slash at its end.

    `name_in_run` is what the model is called where an address names its run alone.
    """
    return _address(client, model_uri, name_in_run).rstrip("/")


def _address(client: MlflowClient, model_uri: str, name_in_run: str) -> str:
    if found := re.fullmatch(r"runs:/+([^/]+)(?:/([^/]+))?/?", model_uri):
        return _output_of_run(client, found[1], found[2] or name_in_run)
    if found := re.fullmatch(r"models:/+(m-[^/@]+)/?", model_uri):
        with _absence(UnknownNameError(f"no logged model '{found[1]}' in this store. {_FORMS}")):
            return str(client.get_logged_model(found[1]).artifact_location)
    if found := re.fullmatch(r"models:/+([^/]+)@([^/@]+)/?", model_uri):
        model = _registered(client, found[1])
        if found[2] not in model.aliases:
            raise unknown(f"alias of '{model.name}'", found[2], model.aliases)
        return str(client.get_model_version_download_uri(model.name, str(model.aliases[found[2]])))
    if found := re.fullmatch(r"models:/+([^/@]+)/([^/]+)/?", model_uri):
        return _version(client, _registered(client, found[1]), found[2])
    if found := re.fullmatch(r"models:/+([^/@]+)/?", model_uri):
        model = _registered(client, found[1])
        raise UsageError(f"{model_uri} names no version. {_standing(client, model)}")
    raise UsageError(f"'{model_uri}' is no address of a model. {_FORMS}")


def _output_of_run(client: MlflowClient, run_id: str, name: str) -> str:
    with _absence(UnknownNameError(f"no run '{run_id}' in this store.")):
        outputs = client.get_run(run_id).outputs
    models = [client.get_logged_model(made.model_id) for made in (outputs.model_outputs if outputs else [])]
    locations = {model.name: str(model.artifact_location) for model in models}
    if name not in locations:
        raise unknown(f"model of run {run_id}", name, locations)
    return locations[name]


def _registered(client: MlflowClient, name: str) -> RegisteredModel:
    with suppress(MlflowException):
        return client.get_registered_model(name)
    raise unknown("registered model", name, [model.name for model in client.search_registered_models(max_results=1000)])


def _version(client: MlflowClient, model: RegisteredModel, asked: str) -> str:
    known = _versions(client, model)
    version = known[-1] if asked.lower() == "latest" and known else asked
    if version not in known:
        raise unknown(f"version of '{model.name}'", asked, known)
    return str(client.get_model_version_download_uri(model.name, version))


def _versions(client: MlflowClient, model: RegisteredModel) -> list[str]:
    quote = '"' if "'" in model.name else "'"
    found = client.search_model_versions(f"name = {quote}{model.name}{quote}", max_results=10000)
    return [str(number) for number in sorted(int(version.version) for version in found)]


def _standing(client: MlflowClient, model: RegisteredModel) -> str:
    aliases = ", ".join(f"@{alias} ({version})" for alias, version in sorted(model.aliases.items()))
    return f"'{model.name}' has versions {', '.join(_versions(client, model))}; aliases {aliases or 'none'}."


@contextmanager
def _absence(error: UnknownNameError) -> Iterator[None]:
    """Raises `error` where MLflow says that there is no such thing; other failures stay what they are."""
    try:
        yield
    except MlflowException as failure:
        if failure.error_code in _ABSENT:
            raise error from None
        raise


@contextmanager
def _global_store(uri: str) -> Iterator[None]:
    """MLflow's process-wide store is `uri` inside: a registry in a database looks for logged models only there."""
    with environment({"MLFLOW_TRACKING_URI": uri}):
        if mlflow.get_tracking_uri() == uri:
            yield
            return
        before = mlflow.get_tracking_uri()  # set by a program that uses MLflow itself
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
