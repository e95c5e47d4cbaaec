"""What a run says about an array it used: name, context, shape and a digest; never the rows."""

import hashlib
import json

import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Dataset, DatasetInput, InputTag

_ROWS_AT_A_TIME = 4096  # bounds the memory when `x` is a memory map


def array_digest(x: np.ndarray) -> str:
    """32 hex digits of a sha256 over type, shape and every value.

    MLflow's own digest looks at the first 10,000 numbers only, which is 156 images of 8 x 8: two data sets that differ
    later would be called the same.
    """
    digest = hashlib.sha256(json.dumps([str(x.dtype), x.shape]).encode())
    for start in range(0, len(x), _ROWS_AT_A_TIME):
        digest.update(np.ascontiguousarray(x[start : start + _ROWS_AT_A_TIME]).tobytes())
    return digest.hexdigest()[:32]  # MLflow stores 36 characters at most


def dataset_input(x: np.ndarray, name: str, context: str) -> DatasetInput:
    """MLflow's record of `x` [n, ...] used as `context` ("fit", "calibration", ...)."""
    source = CodeDatasetSource(tags={"mlflow.source.name": "madpipe"})
    facts = from_numpy(x, source=source, name=name, digest=array_digest(x)).to_dict()
    entity = Dataset(
        name=facts["name"],
        digest=facts["digest"],
        source_type=facts["source_type"],
        source=facts["source"],
        schema=facts["schema"],
        profile=facts["profile"],
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", context)])
