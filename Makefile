# Each target does its own set-up: a virtual environment in .venv with the tested versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench clean

demo: .venv/ready
	$(BIN)/refinery run specs/lab.yaml

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow -o timeout=1800

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python tests/bench/distill_memory.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info runs
