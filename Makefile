# The first run of any target builds the virtual environment; afterwards only what changed is done again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?= torch==2.13.0

.PHONY: demo test test-slow lint format bench quality clean

demo: $(READY)  ## the main job on embedded phantom data: train, score, report
	$(BIN)/scantling demo -o demo-run --overwrite

test: $(READY)  ## the default tests
	$(BIN)/python -m pytest

test-slow: $(READY)  ## exhaustive counts, minutes each
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p scantling

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## ratios against named peers, equality checks beside them
	for bench in benchmarks/speed/*.py; do $(BIN)/python $$bench; done

clean:
	rm -rf $(VENV) demo-run

# torch goes first and pinned: an unpinned one brings gigabytes of CUDA to machines without a GPU. Override with
# `make TORCH=torch` where a GPU build is wanted.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)
