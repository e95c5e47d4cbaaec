"""The code that MLflow stores beside a pipeline folder and runs to serve it (models from code).

It holds no logic of its own: the installed madpipe reads and scores the folder, so a serving environment needs madpipe.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from madpipe.data.frames import frame_rows
from madpipe.data.inputs import check_rows
from madpipe.pipeline.scorer import Pipeline
from madpipe.scores import ScoreTable

DEFAULT_ALPHA = 0.01  # as in the signature, for callers that go round it


class PipelineModel(PythonModel):
    """Inputs in, one row of scores per input out."""

    def load_context(self, context: PythonModelContext) -> None:
        self._pipeline = Pipeline.load(Path(context.artifacts["pipeline"]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The columns of a score file, in the order of the inputs; flagged = p_value <= `params["alpha"]`.

        `model_input` is an array [B, *input_shape]. A table with one column per value, one column of lists, and nested
        lists are taken too, and any real type; a pipeline that was fitted on a table takes columns by their names. Over
        HTTP and in `load_model(...).predict` MLflow itself insists on the signature before.
        """
        given: Any = model_input  # MLflow takes a type hint for a promise, so a table may not be named in it
        if isinstance(given, pd.DataFrame):
            rows = frame_rows(given, self._pipeline.columns, "model_input")
        else:
            rows = np.asarray(given)
        x = check_rows(rows, self._pipeline.input_shape, "model_input")
        alpha = (params or {}).get("alpha", DEFAULT_ALPHA)
        size = self._pipeline.batch_size
        parts = [self._table(x[start : start + size], start, alpha) for start in range(0, max(len(x), 1), size)]
        return pd.concat(parts, ignore_index=True)

    def _table(self, x: np.ndarray, first: int, alpha: float) -> pd.DataFrame:
        """One batch; `first` is the number of its first row in the request."""
        scored = self._pipeline.score_flagging(x, alpha)
        table = ScoreTable(
            input_id=[str(first + row) for row in range(len(x))],
            anomaly_score=scored.anomaly_score,
            p_value=scored.p_value,
            flagged=scored.p_value <= alpha,
            top_components=["; ".join(names) for names in scored.top_components],
            members=scored.members,
        )
        return pd.DataFrame(table.columns())


set_model(PipelineModel())
