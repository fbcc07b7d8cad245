# Everything on a fresh machine with Python 3.11+: `make demo`, `make test`. Set up once, in .venv.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
SCALE ?= small
OUT ?= runs/demo
# the CPU build of torch, unless one is importable already; a folder or index in PIP_* settings is honoured by pip itself
TORCH ?= torch==2.13.0

.PHONY: setup pages demo test test-slow lint docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml hatch_build.py $(shell find ui -name node_modules -prune -o -type f -print 2>/dev/null)
	@if [ -z "$(PYTHON)" ]; then echo "Strobe needs Python 3.11 or newer on the PATH (Debian: apt-get install python3 python3-venv)"; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || \
	  { echo "python -m venv failed; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python scripts/install_torch.py "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

pages: setup  # .ready depends on what is in ui/

demo: setup
	$(BIN)/strobe demo --scale $(SCALE) --out $(OUT)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/zensical build --clean

clean:
	rm -rf $(VENV) ui/node_modules strobe/app/static site .pytest_cache .ruff_cache .mypy_cache .hypothesis
