# `make demo` runs a sweep on real digits, `make test` the tests. All targets but clean set up .venv first if it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all chaos lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/ambient-sweep run search_spaces/digits.yaml

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# With the tests marked slow: all kills, long fuzzing.
test-all: setup
	$(BIN)/python -m pytest -m "slow or not slow"

# A hundred kills and five stops on a cluster of two nodes, against an undisturbed run: more than half an hour on 2 cores.
chaos: setup
	$(BIN)/python tests/sweep/running/chaos.py --kills 100 --stops 5

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv
