# Installs into .venv, and runs the demo, the tests and the checks there.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
STEPS ?=

.PHONY: demo test test-fast lint sanitize clean

demo: .venv/installed
	$(BIN)/matrixstate demo $(if $(STEPS),--steps $(STEPS))

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-fast: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

sanitize:
	scripts/sanitize.sh

.venv/installed: pyproject.toml CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e '.[demo,plots,dev]'
	touch $@

clean:
	rm -rf .venv build dist
