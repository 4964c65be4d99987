# make demo: scene to map on this machine.  make test: the tests.  Both set up what they need first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint bench slow soak clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash infra/demo.sh demo

test: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: setup
	$(BIN)/pytest -m "slow and not soak"

soak: setup
	$(BIN)/pytest -m soak -s

bench: setup
	for bench in benchmarks/bench_*.py; do $(BIN)/python -W ignore $$bench || exit 1; done

clean:
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache
