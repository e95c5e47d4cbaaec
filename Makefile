# What people and continuous integration run. `make` alone lists it.
VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
# Tools that look at the project from outside, and Airflow, which cannot share an environment with MLflow.
TOOLS := build/tools
AIRFLOW ?= apache-airflow==3.3.2
# The coverage-guided fuzzer: a compiled package that nothing but benchmarks/fuzz.py imports.
FUZZER := build/atheris
# The first of these that runs and is 3.11 or newer; `make setup PYTHON=...` names another.
PYTHON ?= $(shell for name in python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup test check lint format bench demo image-test airflow-test soak lock sbom clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## Make .venv with the locked packages and madpipe in it

$(INSTALLED): requirements.lock requirements.hashed.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "madpipe needs Python 3.11 or newer. Name one: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PYTHON_IN_VENV) -m pip install --no-deps --require-hashes -r requirements.hashed.lock
	$(PYTHON_IN_VENV) -m pip install --constraint requirements.lock torch
	$(PYTHON_IN_VENV) -m pip install --no-deps -e .
	@touch $@

test: check ## Set up, then everything that continuous integration checks

check: lint ## Format, lint, types and all tests but those marked soak
	$(PYTHON_IN_VENV) -m pytest -n $(WORKERS) -m 'not soak'

lint: setup ## Format, lint and types, without the tests
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m mypy

format: setup ## Format the code and mend what ruff can mend
	$(PYTHON_IN_VENV) -m ruff format .
	$(PYTHON_IN_VENV) -m ruff check --fix .

bench: setup $(FUZZER) ## Run every benchmark in benchmarks/
	@for script in benchmarks/*.py; do echo "== $$script"; $(PYTHON_IN_VENV) $$script || exit 1; done

demo: setup ## Fit, score and evaluate a backdoored digits network; results in demo/
	mkdir -p demo
	$(PYTHON_IN_VENV) -m madpipe fit configs/fit/digits_conj_mlp.yaml -o demo/pipeline --overwrite
	$(PYTHON_IN_VENV) -m madpipe tasks export digits-conj-mlp-0 demo/task --overwrite
	$(PYTHON_IN_VENV) -m madpipe score --pipeline demo/pipeline demo/task/test.npz -o demo/scores.parquet
	$(PYTHON_IN_VENV) -m madpipe evaluate --pipeline demo/pipeline demo/task/test.npz --label is_anomalous --controls --figure demo/evaluation.png

image-test: setup ## Build the container image without an engine, and run it (Debian, root, about 15 minutes)
	MADPIPE_IMAGE_TEST=build/image $(PYTHON_IN_VENV) -m pytest -rs tests/containers

airflow-test: setup ## Import and run the DAG in a real Airflow, in an environment of its own
	@test -x build/airflow/bin/airflow || { $(PYTHON_IN_VENV) -m venv build/airflow && build/airflow/bin/pip install $(AIRFLOW); }
	MADPIPE_AIRFLOW_PYTHON=$(CURDIR)/build/airflow/bin/python $(PYTHON_IN_VENV) -m pytest -rs tests/pipelines/test_airflow.py

soak: setup $(FUZZER) ## The long forms: tests marked soak, every fuzzing target for ten minutes, every fault, the image, Airflow (hours)
	$(PYTHON_IN_VENV) -m pytest -rs -m soak
	$(PYTHON_IN_VENV) benchmarks/fuzz.py --seconds 600
	$(PYTHON_IN_VENV) benchmarks/faults.py
	$(MAKE) image-test
	$(MAKE) airflow-test

$(FUZZER):
	$(PYTHON_IN_VENV) -m pip install --no-deps --target $(FUZZER) atheris==3.0.0

lock: $(TOOLS) ## Write requirements.hashed.lock anew from requirements.lock
	$(TOOLS)/bin/uv pip compile requirements.lock --quiet --no-deps --generate-hashes --no-annotate --no-header \
		--no-emit-package torch --native-tls --output-file build/hashed.lock
	{ grep '^#' requirements.hashed.lock; cat build/hashed.lock; } > build/hashed.new && mv build/hashed.new requirements.hashed.lock

sbom: setup $(TOOLS) ## Write build/sbom.json: every installed package with version, licence and source (CycloneDX)
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(PYTHON_IN_VENV)

$(TOOLS):
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install uv cyclonedx-bom

clean: ## Remove caches and the demo, keep .venv
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
