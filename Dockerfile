# madpipe in a container: `docker build -t madpipe .`, then `docker run madpipe --help`.
#
#   CPU or GPU       TORCH_INDEX_URL is one more place where pip looks for torch. Empty: what the index serves, which on
#                    Linux is the CUDA build; for the small CPU image name the index of CPU builds that PyTorch publishes.
#                    The CUDA build brings its own CUDA: the host needs the driver, `docker run --gpus all`, and
#                    `--device cuda` or `--set trainer.accelerator=gpu` on the command line.
#   your network     /models: config, factory file, weights, trusted data; may be mounted read-only.
#   what it imports  --build-arg EXTRA_REQUIREMENTS="transformers pillow" installs it under the locked versions. Or without
#                    a build: `pip install --no-deps --target my_model/packages ...` beside it and `-e PYTHONPATH=/models/packages`.
#   results          /results, the working directory, holds pipelines, scores and, without MLFLOW_TRACKING_URI, the local
#                    MLflow store. It must be writable for user 10001.
#
#     docker run --read-only --tmpfs /tmp -v "$PWD/my_model:/models:ro" -v "$PWD/results:/results" \
#         madpipe fit /models/own_model.yaml -o /results/pipeline
#
# BASE_IMAGE is any Debian with Python 3.11 or newer as `python`, with venv. An index of your own, and its password, come
# from a pip.conf that is mounted while pip runs and never stored: `docker build --secret id=pip,src=pip.conf .`
ARG BASE_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS builder
ARG TORCH_INDEX_URL=""
ARG EXTRA_REQUIREMENTS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# pip stays behind with this stage: what runs holds neither it nor any other way to fetch code.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/madpipe
WORKDIR /build
COPY requirements.lock requirements.hashed.lock ./
# The dependencies, each with the digest of the lock, in a layer of their own: a change of the code does not fetch them again.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pip/bin/pip wheel --no-deps --require-hashes --wheel-dir /wheels -r requirements.hashed.lock \
    && /opt/pip/bin/pip wheel --wheel-dir /wheels --find-links /wheels --constraint requirements.lock \
        ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} torch ${EXTRA_REQUIREMENTS}
COPY pyproject.toml README.md LICENSE ./
COPY madpipe madpipe
# Headers, and the tests of other packages, are never read at run time.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pip/bin/pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/pip/bin/pip --python /opt/madpipe/bin/python install --no-index --find-links /wheels madpipe ${EXTRA_REQUIREMENTS} \
    && find /opt/madpipe -depth -type d \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' \
        -o -path '*/pyarrow/include' \) -exec rm -rf {} + \
    && find /opt/madpipe -path '*/torch/bin/*' ! -name torch_shm_manager -delete

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS runtime
ARG REVISION=""
LABEL org.opencontainers.image.title="madpipe" \
      org.opencontainers.image.description="Mechanistic anomaly detection by parameter decomposition" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 madpipe \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin madpipe \
    && install -d -o 10001 -g 10001 /models /results
COPY --from=builder /opt/madpipe /opt/madpipe
# With HOME in /tmp, the mounted volumes and /tmp are all that is written to: the root file system may be read-only.
ENV PATH=/opt/madpipe/bin:$PATH \
    HOME=/tmp \
    LOGNAME=madpipe \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_DISABLE_AGENT_HINT=true
USER 10001:10001
WORKDIR /results
ENTRYPOINT ["python", "-m", "madpipe"]
CMD ["--help"]
