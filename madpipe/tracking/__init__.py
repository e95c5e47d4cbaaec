"""What MLflow remembers of a fit: runs, their lineage, the packaged pipeline and the registry."""

import os

# MLflow reads these when it is first imported or used: no telemetry, no advice to coding agents, no progress bar,
# no address (which may hold a password) printed on stdout, no complaint about a missing git.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)
