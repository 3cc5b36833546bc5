# `make demo` and `make test` do all the set-up they need; see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
PY := $(VENV)/bin/python
# The set-up hides a GPU for which mmcv could not be compiled.
RUN = env $$(cat $(VENV)/.setup/run_environment 2>/dev/null) $(PY)
OLDEST_VENV ?= .venv-oldest
OLDEST_PYTHON ?= python3.10
PYTEST_OPTIONS ?= -n 2 --dist loadfile --no-loadscope-reorder --durations=15

.PHONY: help setup demo base test test-oldest lint typecheck pytest pytest-there format doctor clean

help:
	@echo 'make demo       synthetic data, fine-tuning of the shipped base, test and pictures: work_dirs/demo'
	@echo 'make base       the long way: makes that base from nothing, in about two hours, under work_dirs/base'
	@echo 'make test       lint, type check and all tests (what .ci/run calls)'
	@echo 'make setup      only the set-up that both of these do by themselves: $(VENV)'
	@echo 'make lint typecheck pytest format doctor    the parts, each by itself'
	@echo 'make test-oldest  the tests with the oldest torch and Python, in $(OLDEST_VENV) (mmcv is compiled once more)'
	@echo 'make clean      remove caches and build leftovers (not $(VENV), data or work_dirs)'

setup:
	@VENV='$(abspath $(VENV))' bash tools/setup_environment.sh

demo: setup
	@$(RUN) tools/run_demo.py

base: setup
	@$(RUN) tools/run_demo.py base

# One after the other whatever -j says: the checks that take seconds come first.
test: setup
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory typecheck
	@$(MAKE) --no-print-directory pytest

# Not part of `test`: it downloads a few GB, since PyPI has this torch for CUDA alone.
test-oldest:
	@VENV='$(abspath $(OLDEST_VENV))' PYTHON='$(OLDEST_PYTHON)' TORCH='torch==2.1.2' bash tools/setup_environment.sh
	@$(MAKE) --no-print-directory pytest-there VENV='$(OLDEST_VENV)'

pytest-there:
	@OMP_NUM_THREADS=1 $(RUN) -m pytest $(PYTEST_OPTIONS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

typecheck: setup
	@$(PY) -m mypy

# Not a second prerequisite, which -j would start together with the set-up.
pytest: setup
	@$(MAKE) --no-print-directory pytest-there

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

doctor: setup
	@$(RUN) tools/doctor.py

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis projects/*.egg-info
	@find projects tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
