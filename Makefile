# The first run of any target builds the virtual environment; afterwards only what changed is done again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?= torch==2.13.0
# The Python that runs the benchmarks: another environment with the package and the peers may be named.
BENCH ?= $(BIN)/python

.PHONY: demo test test-slow lint format bench peers quality clean

demo: $(READY)  ## the main job on embedded phantom data: train, score, report
	$(BIN)/scantling demo -o demo-run --overwrite

test: $(READY)  ## the default tests, a file at a time in each of two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)  ## exhaustive counts, minutes each
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p scantling

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## ratios against named peers, equality checks beside them, into docs/benchmarks.md
	$(BENCH) benchmarks/speed/table.py

peers: $(READY)  ## what `make bench` compares with; without them it measures what needs no peer
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		'nnunetv2>=2.8' acvl-utils batchgenerators batchgeneratorsv2 dynamic-network-architectures

clean:
	rm -rf $(VENV) demo-run

# torch goes first and pinned: an unpinned one brings gigabytes of CUDA to machines without a GPU. Override with
# `make TORCH=torch` where a GPU build is wanted.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)
