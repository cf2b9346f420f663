# make demo: everything from nothing to the ranked layers of a trained Mamba, a page that shows them, and the dashboard
# on the layer that copies, until Ctrl-C; where the output is no terminal it ends with the page.
# make test: the tests. make check: style and types.
# make test-slow: what takes longer. make test-gpu: what needs a GPU.
# make dist: the sdist and the wheel. make release-notes VERSION=0.1.0: that section of CHANGELOG.md.
# make test-transformers-5.14: what depends on transformers, with an older version of it in an environment of its own.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow test-gpu check dist release-notes clean
.PRECIOUS: .venv-transformers-%/installed

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

# Minutes each: more kills, rounds of writers at once, damaged files and clients than every run of the tests has; then
# the tests marked slow, which install the wheel into bare environments (15 GB of disk for a while).
test-slow: setup
	SSMLENS_KILLS=200 SSMLENS_ROUNDS=60 SSMLENS_DAMAGED=2000 SSMLENS_CLIENT_SECONDS=60 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n auto tests/reliability tests/dashboard/test_load.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow

# On a machine with a GPU. GPU_PYTHON may name a python that has the tests' packages already, WORKERS their processes.
test-gpu: $(if $(GPU_PYTHON),,setup)
	OMP_NUM_THREADS=1 $(or $(GPU_PYTHON),$(BIN)/python) -m analyses.gpu_tests.run --workers $(or $(WORKERS),14)

test-transformers-%: .venv-transformers-%/installed
	OMP_NUM_THREADS=1 .venv-transformers-$*/bin/python -m pytest -n auto tests/contracts tests/adapters tests/recorder tests/models

# An older transformers wants older relatives: everything else is as in the checkout's own environment.
.venv-transformers-%/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-transformers-$*
	grep -vE '^(transformers|huggingface_hub|tokenizers)=' constraints.txt > .venv-transformers-$*/constraints.txt
	.venv-transformers-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		-c .venv-transformers-$*/constraints.txt -e '.[dev]' 'transformers==$*.*'
	touch $@

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

dist: setup
	rm -rf dist
	$(BIN)/python -m build --outdir dist

release-notes:
	@$(PYTHON) .ci/release_notes.py "$(VERSION)"

clean:
	rm -rf .venv demo build dist
