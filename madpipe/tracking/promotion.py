"""Making a registered version the champion, once a fresh load of it has scored its stored example as it did before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import Model

from madpipe.errors import DamagedFileError, UsageError
from madpipe.tracking.addresses import store_uri
from madpipe.tracking.connection import border, connect, one_line, quiet
from madpipe.tracking.model_registry import local_model
from madpipe.tracking.packaging import EXAMPLE_SCORES, difference, predict_without_pickle

CHAMPION = "champion"
_KEPT = f"The {CHAMPION} stays as it was."
TOLERANCE = 1e-5  # relative, law 3: the same input scores the same to this, in whatever environment it is loaded


@dataclass(frozen=True)
class Promotion:
    """`version` of `name` is the champion; `previous` was it before (the same number where nothing changed)."""

    name: str
    version: int
    previous: int | None
    rows: int


def promote(name: str, version: str, trust_code: bool, tracking_uri: str | None = None) -> Promotion:
    """Points the alias `champion` of `name` at `version`: a number, or another alias as `@candidate`.

    DamagedFileError, and no alias is moved, where the version does not load here or scores its stored input example
    otherwise than when it was registered. UsageError and UnknownNameError as for `local_model`.
    """
    model_uri = f"models:/{name}{version}" if version.startswith("@") else f"models:/{name}/{version}"
    folder = local_model(model_uri, trust_code, tracking_uri)
    uri = store_uri(tracking_uri)
    client = connect(uri)
    with border(uri, f"cannot look up {model_uri} in"), quiet():
        number = (
            client.get_model_version_by_alias(name, version[1:]).version
            if version.startswith("@")
            else client.get_model_version(name, version).version
        )
        before = client.get_registered_model(name).aliases.get(CHAMPION)
    rows = _scored_as_before(folder, f"models:/{name}/{number}", uri)
    with border(uri, f"cannot move {CHAMPION} in"), quiet():
        client.set_registered_model_alias(name, CHAMPION, str(number))
    return Promotion(name, int(number), int(before) if before else None, rows)


def _scored_as_before(folder: Path, model_uri: str, uri: str) -> int:
    """The number of rows of the stored example, once their scores are those noted beside it."""
    try:
        with quiet():
            model = Model.load(str(folder))
            example: Any = model.load_input_example(str(folder))
        stored = (model.metadata or {}).get(EXAMPLE_SCORES)
        if stored is None or example is None:
            raise UsageError(f"{model_uri} has no example with scores beside it; fit it again to promote it.")
        rows = example if isinstance(example, pd.DataFrame) else np.asarray(example, dtype=np.float32)
        wrong = difference(stored, predict_without_pickle(folder, rows), TOLERANCE)
    except UsageError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error, uri)}"
        raise DamagedFileError(f"{model_uri} cannot be used here: {reason}. {_KEPT}") from error
    if wrong:
        raise DamagedFileError(
            f"{model_uri} scores its stored example otherwise than when it was registered: {wrong}. {_KEPT} "
            "Its requirements.txt names the versions it was registered with."
        )
    return len(rows)
