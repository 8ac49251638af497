# make demo    trains a detector on the embedded data and shows what it found
# make test    the tests that take seconds each; make test-all adds the slow ones, as CI does
# make test-oldest   the quick ones with the oldest versions that pyproject.toml allows, in an environment of its own
# make lint, make types   check the source
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-oldest lint types

demo: .venv/ready
	$(BIN)/python tools/train.py task=detection

PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --durations 25

test: .venv/ready
	$(PYTEST) -m "not slow"

test-all: .venv/ready
	$(PYTEST)

# Old packages warn of what the newer ones that they bring along have renamed.
test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m "not slow" -W ignore::DeprecationWarning $(TESTS)

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

# The first series of each package that is named there; what these bring along is as new as they take.
.venv-oldest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	sed -nE 's/^ *"([A-Za-z0-9-]+)>=([0-9.]+).*/\1==\2.*/p' pyproject.toml > .venv-oldest/constraints.txt
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check -c .venv-oldest/constraints.txt -e ".[dev]"
	touch $@
