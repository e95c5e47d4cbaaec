"""The own model's pipeline with an explainer: its trusted inputs never use the last feature, anomalous ones do."""

import numpy as np
import pytest

from madpipe.editing.explaining import Explainer
from madpipe.pipeline.numbered_rows import numbered_rows
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.explain import make_explainer


@pytest.fixture(scope="session")
def loaded(fitted) -> Pipeline:
    return Pipeline.load(fitted.pipeline)


@pytest.fixture(scope="session")
def explainer(loaded, fitted) -> Explainer:
    return make_explainer(loaded, numbered_rows(fitted.pipeline))


@pytest.fixture(scope="session")
def anomalous(loaded, own_rows) -> np.ndarray:
    """Inputs whose decision the explained networks do not give."""
    rows = own_rows(60, 3, anomalous=True)
    explained = make_explainer(loaded, None)
    return np.stack([row for row in rows if explained.explain("", row, 0.01).changed])
