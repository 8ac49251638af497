# make demo    trains a detector on the embedded data and shows what it found
# make test    the tests that take seconds each; make test-all adds the slow ones, as CI does
# make lint, make types   check the source
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint types

demo: .venv/ready
	$(BIN)/python tools/train.py task=detection

PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --durations 25

test: .venv/ready
	$(PYTEST) -m "not slow"

test-all: .venv/ready
	$(PYTEST)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/basedpyright

# Remade when the packages to install change. Exact versions, so that a fresh clone is what was tested.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
