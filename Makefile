# What people and continuous integration run. `make` alone lists it.
VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
# The first of these that runs and is 3.11 or newer; `make setup PYTHON=...` names another.
PYTHON ?= $(shell for name in python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup test check lint format bench demo clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(INSTALLED) ## Make .venv with the locked packages and madpipe in it

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "madpipe needs Python 3.11 or newer. Name one: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PYTHON_IN_VENV) -m pip install -r requirements.lock
	$(PYTHON_IN_VENV) -m pip install --no-deps -e .
	@touch $@

test: check ## Set up, then everything that continuous integration checks

check: lint ## Format, lint, types and all tests
	$(PYTHON_IN_VENV) -m pytest -n $(WORKERS)

lint: setup ## Format, lint and types, without the tests
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m mypy

format: setup ## Format the code and mend what ruff can mend
	$(PYTHON_IN_VENV) -m ruff format .
	$(PYTHON_IN_VENV) -m ruff check --fix .

bench: setup ## Run every benchmark in benchmarks/
	@for script in benchmarks/*.py; do echo "== $$script"; $(PYTHON_IN_VENV) $$script || exit 1; done

demo: setup ## Fit, score and evaluate a backdoored digits network; results in demo/
	mkdir -p demo
	$(PYTHON_IN_VENV) -m madpipe fit configs/fit/digits_conj_mlp.yaml -o demo/pipeline --overwrite
	$(PYTHON_IN_VENV) -m madpipe tasks export digits-conj-mlp-0 demo/task --overwrite
	$(PYTHON_IN_VENV) -m madpipe score --pipeline demo/pipeline demo/task/test.npz -o demo/scores.parquet
	$(PYTHON_IN_VENV) -m madpipe evaluate --pipeline demo/pipeline demo/task/test.npz --label is_anomalous --controls --figure demo/evaluation.png

clean: ## Remove caches and the demo, keep .venv
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
