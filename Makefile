PYTHON ?= python3
BIN = .venv/bin
TESTER = python -m pytest
LAUNCH = $(BIN)/accelerate launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: setup lint test test-all test-slow test-gpu demo docs bench soak reproduce-quick

setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# For a newcomer: what matters, with real ranks and every command once; the aim is five minutes.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/$(TESTER) -m "not slow"

# Everything, on a SLURM of two nodes where one is installed; every error that a user can meet.
test-all: TESTER = coverage run -m pytest
test-all: test test-slow

# What `test` leaves out, and with its coverage, where it was measured, all user errors.
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m slow
	$(BIN)/coverage combine --quiet
	$(BIN)/python tests/uncovered_user_errors.py

# On a machine with a GPU: trainings and distributed bodies on it. Without one it fails.
test-gpu: setup
	COTRAIN_TEST_DEVICE=cuda OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu

docs: setup
	$(BIN)/python docs/make_configuration.py

# Speed and memory against their targets, a quarter of an hour; DATA=PATH/TO/caltech101, or without
# it on generated images.
bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --write docs/performance.md \
	  $(if $(DATA),--data_root $(DATA))

# Kills ranks and launchers for SOAK_MINUTES (10), and compares every end; adds to runs/soak.
soak: setup
	$(BIN)/python benchmarks/soak.py runs/soak

demo: setup
	OMP_NUM_THREADS=1 $(LAUNCH) --num_processes 2 -m cotrain_dist train --config configs/digits.yaml \
	  --output_dir runs/demo-$$(date +%Y%m%d-%H%M%S)

reproduce-quick: setup
	OMP_NUM_THREADS=1 $(LAUNCH) --num_processes 2 -m cotrain_dist reproduce \
	  --config configs/digits_study.yaml --seeds 0 1 --output_dir runs/reproduce-quick
