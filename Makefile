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

CAMVID := ../shared/data/camvid
measured: $(STAMP)  ## measure what README and docs state, and write their tables (hours on a busy machine)
	@rm -rf outputs/measured && mkdir -p outputs/measured
	measure="$(PY) -m benchmarks.measure"
	$$measure demo -- segment demo --json -o outputs/measured/demo
	$$measure binning -- python -m benchmarks.binning
	$$measure networks --file outputs/measured/networks.json -- python -m benchmarks.networks
	for name in unet_lite0 enet; do
		$$measure fit_$$name -- segment fit $${name}_camvid --images $(CAMVID)/train --batch 8 --draws 16 \
			-o outputs/measured/$$name.safetensors --json --no-cache
	done
	listed='{print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}'
	awk "NR % 2 == 1 $$listed" $(CAMVID)/val.txt > outputs/measured/half_val.txt
	awk "NR % 17 == 2 $$listed" $(CAMVID)/val.txt > outputs/measured/some_val.txt
	awk "NR % 12 == 1 $$listed" $(CAMVID)/test.txt > outputs/measured/twelfth_test.txt
	awk "NR % 24 == 1 $$listed" $(CAMVID)/test.txt > outputs/measured/some_test.txt
	awk "$$listed" $(CAMVID)/test.txt > outputs/measured/all_test.txt
	some=deterministic,temperature,mean_statistics,tta,tta+temperature,mcbn,mcbn+temperature,mcbn+tta,mcbn+tta+temperature
	for name in unet_lite0 enet; do
		scores=outputs/measured/tuned_$${name}_scores
		$$measure tune_$$name --file outputs/measured/tuned_$$name/tuned.json -- segment tune $${name}_camvid --train $(CAMVID)/train \
			--images outputs/measured/half_val.txt --passes 16 --batches 4,8,16 -o outputs/measured/tuned_$$name
		$$measure tuned_$$name --file $$scores/scores.json --file $$scores/comparisons.json --file $$scores/run.json --file $$scores/ranking.json -- \
			segment evaluate $${name}_camvid --images outputs/measured/all_test.txt --validation-images outputs/measured/some_val.txt \
			--tuned outputs/measured/tuned_$$name --methods $$some --measures predictive_entropy,one_minus_max,margin -o $$scores
		$$measure sweep_$$name --file outputs/measured/sweep_$$name/scores.json -- segment sweep $${name}_camvid \
			--images outputs/measured/$$([ $$name = enet ] && echo twelfth || echo some)_test.txt --train $(CAMVID)/train --validation-images outputs/measured/some_val.txt \
			--batches 8 --draws 1,2,4,8,16,32 --seeds 0,1,2 --methods $$some,dropout $$([ $$name = enet ] || echo --insert-dropout 0.1) \
			--precision fp32 -o outputs/measured/sweep_$$name
	done
	$$measure crops_unet_lite0 --file outputs/measured/crops_unet_lite0/scores.json -- segment sweep unet_lite0_camvid \
		--images outputs/measured/twelfth_test.txt --train $(CAMVID)/train --transforms training,crop:320x320 --batches 8 --draws 8 \
		--methods deterministic,mcbn --precision fp32 -o outputs/measured/crops_unet_lite0
	$$measure passes --file outputs/bench/passes.json -- python -m benchmarks outputs/bench --rounds 3
	$$measure distill_k16 --file outputs/bench/distill/distill.json -- python -m benchmarks.distill --train $(CAMVID)/train \
		--test $(CAMVID)/test --draws 16,8 --views 256 --count 20 --sizes 8,16 --threads 2
	$$measure small_l2 -- python -m benchmarks.small_l2 ../shared/data
	$$measure head --file outputs/bench/head/head.json -- python -m benchmarks.head
	$$measure head_told --file outputs/bench/head/head.json -- python -m benchmarks.head --told 4
	cifar=outputs/measured/cifar
	$(PY) -m benchmarks.cifar_files ../shared/data $$cifar
	for set in test validation; do ls $$cifar/$$set/images | awk -v set=$$set 'NR % 3 == 1 {print set "/images/" $$1, set "/labels/" $$1}' > $$cifar/some_$$set.txt; done
	$$measure sweep_cifar --file outputs/measured/sweep_cifar/scores.json -- segment sweep $$cifar/resnet32.yaml --trust --images $$cifar/some_test.txt \
		--train $$cifar/train/images --validation-images $$cifar/some_validation.txt --batches 128 --draws 1,2,4,8,16,32 --seeds 0,1,2 \
		--methods $$some --batch auto --precision fp32 -o outputs/measured/sweep_cifar
	all="deterministic,temperature,vector_scaling,mean_statistics,tta,mcbn,mcbn+temperature,mcbn+tta,mcbn+tta+temperature"
	measures=predictive_entropy,one_minus_max,mutual_information
	$(PY) -m benchmarks.scene_files outputs/measured/scenes
	scenes=outputs/measured/scenes scores=outputs/measured/scenes_scores
	$$measure tune_scenes --file outputs/measured/tuned_scenes/tuned.json -- segment tune scenes --train $$scenes/train/images \
		--images $$scenes/validation/images --labels $$scenes/validation/labels --passes 16 -o outputs/measured/tuned_scenes
	$$measure evaluate_scenes --file $$scores/scores.json --file $$scores/comparisons.json --file $$scores/run.json --file $$scores/ranking.json -- \
		segment evaluate scenes --images $$scenes/test/images --labels $$scenes/test/labels --validation-images $$scenes/validation/images \
		--validation-labels $$scenes/validation/labels --tuned outputs/measured/tuned_scenes --methods $$all,dropout --insert-dropout 0.1 \
		--measures $$measures -o $$scores
	ls $$scenes/validation/images | awk 'NR % 4 == 1 {print "validation/images/" $$1, "validation/labels/" $$1}' > $$scenes/quarter_validation.txt
	scores=outputs/measured/views_scenes
	$$measure views_scenes --file $$scores/scores.json --file $$scores/comparisons.json --file $$scores/run.json -- \
		segment evaluate scenes --images $$scenes/test/images --labels $$scenes/test/labels --validation-images $$scenes/quarter_validation.txt \
		--tuned outputs/measured/tuned_scenes --methods deterministic,tta,tta+temperature --measures predictive_entropy,one_minus_max -o $$scores
	members=
	for seed in 1 2 3 4; do
		$(PY) -m segment experiment train-scenes --seed $$seed --threads 1 -o outputs/measured/member_$$seed
		members="$$members --ensemble outputs/measured/member_$$seed/scenes.safetensors"
	done
	$(PY) -m segment fit scenes --images $$scenes/train/images --batch 32 --draws 16 -o outputs/measured/scenes_m32.safetensors --no-cache
	scores=outputs/measured/ensemble_scenes
	$$measure ensemble_scenes --file $$scores/scores.json --file $$scores/comparisons.json --file $$scores/run.json -- \
		segment evaluate scenes --images $$scenes/unseen/images --labels $$scenes/unseen/labels --validation-images $$scenes/validation/images \
		--validation-labels $$scenes/validation/labels --bank outputs/measured/scenes_m32.safetensors $$members --measures $$measures \
		--methods deterministic,temperature,tta,tta+temperature,ensemble,ensemble+temperature,ensemble+tta,ensemble+tta+temperature,mcbn,mcbn+temperature,mcbn+tta,mcbn+tta+temperature \
		-o $$scores
	for set in test validation; do ls $$scenes/$$set/images | awk -v set=$$set 'NR % 10 == 1 {print set "/images/" $$1, set "/labels/" $$1}' > $$scenes/some_$$set.txt; done
	$$measure sweep_scenes --file outputs/measured/sweep_scenes/scores.json -- segment sweep scenes --images $$scenes/some_test.txt \
		--train $$scenes/train/images --validation-images $$scenes/some_validation.txt --batches 8 --draws 1,2,4,8,16,32 --seeds 0,1,2 \
		--methods deterministic,temperature,vector_scaling,mean_statistics,tta,tta+temperature,dropout,mcbn,mcbn+temperature,mcbn+tta,mcbn+tta+temperature \
		--insert-dropout 0.1 --precision fp32 -o outputs/measured/sweep_scenes
	compared=outputs/measured/compare
	$(PY) -m segment fit scenes --images $$scenes/train/images --draws 8 -o $$compared/scenes.safetensors --no-cache
	for set in test unseen; do
		$(PY) -m segment evaluate scenes --images $$scenes/$$set/images --labels $$scenes/$$set/labels --bank $$compared/scenes.safetensors \
			--methods mcbn --measures $$measures -o $$compared/scenes_$$set
	done
	{ awk 'NR % 2 == 1' $(CAMVID)/test.txt; awk 'NR % 2 == 0' $(CAMVID)/test.txt; } | awk 'NR % 6 == 1 {print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}' > outputs/measured/sixth_test.txt
	for run in clean again fog; do
		$(PY) -m segment evaluate unet_lite0_camvid --images outputs/measured/sixth_test.txt --bank outputs/measured/unet_lite0.safetensors --draws 4 \
			--methods mcbn --measures $$measures $$([ $$run = fog ] && echo --shift fog:3) -o $$compared/$$run
	done
	$$measure compare_again -- segment compare $$compared/clean $$compared/again --json
	$$measure compare_fog -- segment compare $$compared/clean $$compared/fog --json -o $$compared/page_fog
	$$measure compare_scenes -- segment compare $$compared/scenes_test $$compared/scenes_unseen --json
	$$measure compare_unpaired -- segment compare $$compared/scenes_test $$compared/scenes_unseen --no-pair --json -o $$compared/page_unpaired
	cat $(CAMVID)/val.txt $(CAMVID)/test.txt | awk '{print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}' > outputs/measured/pooled.txt
	for name in unet_lite0 enet; do
		$(PY) -m segment evaluate $${name}_camvid --images outputs/measured/pooled.txt --bank outputs/measured/$$name.safetensors \
			--draws 8 --precision fp32 --methods mcbn --measures one_minus_max,predictive_entropy,mutual_information,margin \
			-o outputs/measured/pooled_$$name
	done
	$$measure triage -- python -m benchmarks.triage outputs/measured/pooled_unet_lite0 outputs/measured/pooled_enet
	awk "$$listed" $(CAMVID)/val.txt > outputs/measured/all_val.txt
	awk 'NR % 10 == 1' outputs/measured/all_val.txt > outputs/measured/tenth_val.txt
	{ awk 'NR % 10 != 1' outputs/measured/all_val.txt; cat outputs/measured/all_test.txt; } > outputs/measured/held_pool.txt
	$(PY) -m segment evaluate unet_lite0_camvid --images outputs/measured/held_pool.txt --validation-images outputs/measured/tenth_val.txt \
		--bank outputs/measured/unet_lite0.safetensors --draws 16 --precision fp32 --methods mcbn+tta+temperature \
		--measures one_minus_max,predictive_entropy,mutual_information,margin -o outputs/measured/pooled_tta_temperature
	$$measure triage_tta -- python -m benchmarks.triage outputs/measured/pooled_tta_temperature
	for name in unet_lite0 enet; do
		scores=outputs/measured/ranking_$$name
		$$measure ranking_$$name --file $$scores/scores.json --file $$scores/ranking.json -- segment evaluate $${name}_camvid \
			--images outputs/measured/all_test.txt --validation-images outputs/measured/all_val.txt --bank outputs/measured/$$name.safetensors \
			--draws 16 --methods deterministic,mcbn --measures predictive_entropy,one_minus_max,mutual_information,variance -o $$scores
	done
	for set in test val; do awk -v step=$$([ $$set = val ] && echo 2 || echo 1) 'NR % step == 0 {print "../../$(CAMVID)/" $$1, "../../$(CAMVID)/" $$2}' $(CAMVID)/$$set.txt > outputs/measured/$$set.txt; done
	$$measure decisions_unet --file outputs/measured/one_pass/scores.json --file outputs/measured/one_pass/comparisons.json \
		--file outputs/measured/one_pass/ranking.json -- segment evaluate unet_lite0_camvid --images outputs/measured/test.txt \
		--validation-images outputs/measured/val.txt --precision fp32 --measures predictive_entropy,one_minus_max \
		--methods deterministic,temperature,vector_scaling -o outputs/measured/one_pass
	$$measure triage_scenes -- python -m benchmarks.triage --scenes 2000 --calibration 500
	$$measure fuzz -- python -m benchmarks.fuzz --cases 10000
	$$measure kills -- python -m benchmarks.kills --commands predict
	$$measure kills_fit_evaluate -- python -m benchmarks.kills --commands fit,evaluate
	$$measure kills_sweep -- python -m benchmarks.kills --images 50 --commands sweep
	$$measure kills_long -- python -m benchmarks.kills --images 80 --kills 6 --others 2 --commands distill,tune,experiment --data ../shared/data
	$$measure endurance -- python -m benchmarks.endurance --images 10000
	awk 'NR <= 30 {print "../../$(CAMVID)/" $$1}' $(CAMVID)/test.txt > outputs/measured/first_test.txt
	$(PY) -m segment distill outputs/measured/unet_lite0.safetensors unet_lite0_camvid --images $(CAMVID)/train --draws 8 --steps 20 \
		-o outputs/measured/unet_lite0_k8.safetensors
	busy=outputs/measured/busy
	$$measure busy_t16 --file $${busy}_t16/run.json -- segment predict unet_lite0_camvid outputs/measured/first_test.txt \
		--bank outputs/measured/unet_lite0.safetensors -o $${busy}_t16
	$$measure busy_k8 --file $${busy}_k8/run.json -- segment predict unet_lite0_camvid outputs/measured/first_test.txt \
		--bank outputs/measured/unet_lite0_k8.safetensors -o $${busy}_k8
	$$measure large_raster -- python -m benchmarks.large_raster outputs/measured/large_raster --side 20000 --memory 2GiB
	$$measure shared_raster -- python -m benchmarks.shared_raster --side 20000 --tile 1024 --s3
	graphs="-- python -m benchmarks.graphs --train $(CAMVID)/train --images $(CAMVID)/test --rounds 3 --networks"
	$$measure graphs_unet_lite0 $$graphs unet_lite0_camvid
	$$measure graphs_unet_lite0_one_thread -- python -m benchmarks.graphs --train $(CAMVID)/train --images $(CAMVID)/test --rounds 3 --threads 1 \
		--networks unet_lite0_camvid
	$$measure graphs_enet $$graphs enet_camvid
	$$measure graphs_resnet34 $$graphs "smp:Unet?encoder=resnet34&classes=11"
	$$measure graphs_deeplab $$graphs "smp:DeepLabV3Plus?encoder=resnet34&classes=11"
	of_unet="unet_lite0_camvid --bank outputs/measured/unet_lite0.safetensors --images outputs/measured/all_test.txt"
	$$measure runners_pairs -- python -m benchmarks.runners $$of_unet --count 233 --pairs 5
	$$measure scoring -- python -m benchmarks.scoring
	$$measure start -- python -m benchmarks.start
	$$measure sizing_workers -- python -m benchmarks.runners $$of_unet --count 40 --scored 2
	$$measure sizing_costs -- python -m benchmarks.sizing.costs $$of_unet --count 10
	$$measure sizing -- python -m benchmarks.sizing
	$(PY) -m benchmarks.tables

clean:  ## remove caches and build products, not .venv
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +

.PHONY: help setup demo test test-slow check docs bench measured clean
