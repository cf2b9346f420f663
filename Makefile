# make demo: everything from nothing to the ranked layers of a trained Mamba, and a page that shows them.
# make test: the tests. make check: style and types.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ssmlens needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/ssmlens demo

# One thread a worker: on tiny tensors, threads that wait for each other cost more than they do.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

clean:
	rm -rf .venv demo build dist
