# Everything that a person or a machine runs. Needs Debian (or alike), Python 3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help setup demo test lint format types imports check docs bench chaos fuzz lock clean distclean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with the pinned packages (about two minutes, once)

$(STAMP): pyproject.toml requirements/lock.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11 python3.11-venv" >&2; exit 1; }
	@echo "==> set-up: a Python environment in $(VENV) (once; about two minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> set-up: torch"
	@$(PIP) install -c requirements/lock.txt torch==2.13.0 2> >(grep -v '^WARNING' >&2)
	@echo "==> set-up: Ray, scikit-learn, MLflow, NATS and the rest"
	@$(PIP) install -c requirements/lock.txt -e '.[dev]' 2> >(grep -v '^WARNING' >&2)
	@touch $@
	@echo "==> set-up: done"

demo: $(STAMP) ## Run the main job: two pipelines over NATS on real data
	@echo "==> demo: an embedded stack, two pipeline requests, two registered models, one that answers"
	@$(BIN)/mlpm demo

test: $(STAMP) ## Run all the tests
	@echo "==> test: against a real nats-server, a real Ray, MLflow and databases"
	@$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## Check the format and the rules
	@echo "==> lint: ruff"
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .

format: $(STAMP) ## Rewrite the files in the project's format
	@$(BIN)/ruff format -q .
	@$(BIN)/ruff check -q --fix .

types: $(STAMP) ## Check the types of protocol/ and agent/, strictly
	@echo "==> types: mypy"
	@$(BIN)/mypy

imports: $(STAMP) ## Check who imports whom
	@echo "==> imports: import-linter"
	@$(BIN)/lint-imports --no-cache > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

check: lint types imports test ## Everything that has to pass before a change lands

docs: $(STAMP) ## Write the generated documents anew
	@echo "==> docs: schemas, AsyncAPI, stage pages, state diagrams"
	@for script in scripts/draw_*.py; do echo "    $$script"; $(BIN)/python "$$script"; done

bench: $(STAMP) ## Measure, and print every figure beside its floor
	@for script in scripts/bench/bench_*.py; do echo "==> bench: $$script"; $(BIN)/python "$$script"; done

chaos: $(STAMP) ## Break everything under load, and judge the journals (about 20 minutes)
	@$(BIN)/python scripts/chaos.py $(ARGS)

fuzz: $(STAMP) ## Send 100,000 malformed messages to a running agent
	@$(BIN)/python scripts/fuzz.py $(ARGS)

lock: ## Pin anew, from a fresh environment
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/pip install -q torch==2.13.0 && .venv-lock/bin/pip install -q -e '.[dev]'
	@{ sed -n '/^#/p' requirements/lock.txt; .venv-lock/bin/pip freeze --all --exclude pip --exclude-editable \
	  | sed -E 's/(==[^+]+)\+.*/\1/'; } > requirements/lock.new
	@mv requirements/lock.new requirements/lock.txt && rm -rf .venv-lock

clean: ## Remove what tools left behind; keeps .venv and .mlpm
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove the environment and the local data too
	@rm -rf $(VENV) .mlpm
