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

test: $(STAMP)  ## all tests but the slow ones
	@$(PY) -m pytest -m "not slow" -q

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

CAMVID := ../shared/data/camvid
measured: $(STAMP)  ## measure what README and docs state, and write their tables (hours on a busy machine)
	@rm -rf outputs/measured && mkdir -p outputs/measured
	measure="$(PY) -m benchmarks.measure"
	for set in test val; do awk 'NR % 6 == 1 {print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}' $(CAMVID)/$$set.txt > outputs/measured/$$set.txt; done
	$$measure demo -- segment demo --json -o outputs/measured/demo
	$$measure binning -- python -m benchmarks.binning
	$$measure networks --file outputs/measured/networks.json -- python -m benchmarks.networks
	for name in unet_lite0 enet; do
		bank=outputs/measured/$$name.safetensors scores=outputs/measured/$$name
		$$measure fit_$$name -- segment fit $${name}_camvid --images $(CAMVID)/train --batch 8 --draws 16 -o $$bank --json --no-cache
		$$measure evaluate_$$name --file $$scores/scores.json --file $$scores/comparisons.json --file $$scores/run.json -- \
			segment evaluate $${name}_camvid --images outputs/measured/test.txt --validation-images outputs/measured/val.txt --bank $$bank \
			--methods deterministic,temperature,mean_statistics,tta,mcbn,mcbn+tta,mcbn+temperature -o $$scores
	done
	cat $(CAMVID)/val.txt $(CAMVID)/test.txt | awk '{print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}' > outputs/measured/pooled.txt
	for name in unet_lite0 enet; do
		$(PY) -m segment evaluate $${name}_camvid --images outputs/measured/pooled.txt --bank outputs/measured/$$name.safetensors \
			--draws 8 --precision fp32 --methods mcbn --measures one_minus_max,predictive_entropy,mutual_information,margin \
			-o outputs/measured/pooled_$$name
	done
	$$measure triage -- python -m benchmarks.triage outputs/measured/pooled_unet_lite0 outputs/measured/pooled_enet
	$(PY) -m segment evaluate unet_lite0_camvid --images outputs/measured/pooled.txt --bank outputs/measured/unet_lite0.safetensors \
		--draws 8 --precision fp32 --methods mcbn+tta --measures one_minus_max,predictive_entropy,mutual_information,margin \
		-o outputs/measured/pooled_tta
	$$measure triage_tta -- python -m benchmarks.triage outputs/measured/pooled_tta
	for set in test val; do awk -v step=$$([ $$set = val ] && echo 2 || echo 1) 'NR % step == 0 {print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}' $(CAMVID)/$$set.txt > outputs/measured/one_pass_$$set.txt; done
	$$measure decisions_unet --file outputs/measured/one_pass/scores.json --file outputs/measured/one_pass/comparisons.json \
		--file outputs/measured/one_pass/ranking.json -- segment evaluate unet_lite0_camvid --images outputs/measured/one_pass_test.txt \
		--validation-images outputs/measured/one_pass_val.txt --precision fp32 --measures predictive_entropy,one_minus_max \
		--methods deterministic,temperature,vector_scaling -o outputs/measured/one_pass
	$$measure triage_scenes -- python -m benchmarks.triage --scenes 2000 --calibration 500
	$$measure fuzz -- python -m benchmarks.fuzz --cases 10000
	$$measure kills -- python -m benchmarks.kills --commands predict
	$$measure kills_others -- python -m benchmarks.kills --images 60 --kills 20 --others 6 --commands evaluate,sweep,fit,distill
	$(PY) -m benchmarks.tables

clean:  ## remove caches and build products, not .venv
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +

.PHONY: help setup demo test test-slow check docs bench measured clean
