# Two commands do everything, each making .venv if it is not there: `make demo` and `make test`.
.DEFAULT_GOAL := help
.ONESHELL:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
STAMP := .venv/.installed
export NO_ALBUMENTATIONS_UPDATE := 1

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml .ci/constraints.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set BASE_PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(BASE_PYTHON) -m venv .venv
	echo "Installing into .venv (torch is large: some minutes the first time) ..."
	$(PY) -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	touch $(STAMP)

setup: $(STAMP)  ## make .venv with everything that development needs

demo: $(STAMP)  ## the whole way on generated scenes, offline, into outputs/demo
	@rm -rf outputs/demo
	.venv/bin/segment demo -o outputs/demo

test: $(STAMP)  ## all tests but the slow ones, in two processes of one thread each
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -q -n 2 --dist loadfile

test-slow: $(STAMP)  ## the slow tests: minutes on the full data
	@$(PY) -m pytest -m slow -q

check: $(STAMP)  ## style, types, import layers, doctests
	@.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy segment tests benchmarks
	$(PY) -m pytest -q --doctest-modules segment tests/test_layers.py

docs: $(STAMP)  ## the documentation site into build/site, warnings as errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench: $(STAMP)  ## compare side by side and print ratios (needs the extra `bench`)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[bench]'
	$(PY) -m benchmarks

measured: $(STAMP)  ## measure what README and docs state, and write their tables (hours on a busy machine)
	@rm -rf outputs/measured
	$(PY) -m benchmarks.measure
	$(PY) -m benchmarks.tables

clean:  ## remove caches and build products, not .venv
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +

.PHONY: help setup demo test test-slow check docs bench measured clean
