# make demo: scene to map on this machine.  make test: the tests.  Both set up what they need first.
PYTHON ?= python3
BIN := .venv/bin
# Test processes at once; a file's tests stay in one of them.
JOBS ?= 2

.PHONY: setup demo test lint bench slow soak clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash infra/demo.sh demo

test: setup
	$(BIN)/pytest -n $(JOBS) --dist loadfile

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
