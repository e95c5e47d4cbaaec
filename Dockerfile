# madpipe in a container: `docker build -t madpipe .`, then `docker run madpipe --help`.
#
# A network of yours goes to /models (config, factory file, weights, trusted data; read-only will do). Results are written
# to /results, the working directory, which also holds the local MLflow store:
#     docker run -v "$PWD/my_model:/models:ro" -v "$PWD/results:/results" madpipe fit /models/own_model.yaml -o /results/pipeline
# The process is user 10001, so a mounted results folder must be writable for that user.
#
# BASE_IMAGE is any Debian with Python 3.11 or newer as `python`. TORCH_INDEX_URL is one more place for pip to look for
# torch, for a CPU or CUDA build other than the default one.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
ARG TORCH_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY madpipe/__init__.py madpipe/__init__.py
# The dependencies, at the versions of the lock, in a layer of their own: a change of the code does not fetch them again.
RUN PIP_EXTRA_INDEX_URL="${TORCH_INDEX_URL}" pip wheel --constraint requirements.lock --wheel-dir /wheels .
COPY madpipe madpipe
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/madpipe \
    && /opt/madpipe/bin/pip install --no-index --find-links=/wheels madpipe

FROM ${BASE_IMAGE} AS runtime
LABEL org.opencontainers.image.title="madpipe" \
      org.opencontainers.image.description="Mechanistic anomaly detection by parameter decomposition" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 madpipe \
    && useradd --uid 10001 --gid 10001 --create-home madpipe \
    && install -d -o 10001 -g 10001 /models /results
COPY --from=builder /opt/madpipe /opt/madpipe
ENV PATH=/opt/madpipe/bin:$PATH \
    HOME=/home/madpipe \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_DISABLE_AGENT_HINT=true
USER 10001:10001
WORKDIR /results
ENTRYPOINT ["python", "-m", "madpipe"]
CMD ["--help"]
