# Everything a newcomer or CI needs, on a machine that has only Python 3.11+ and make. Set-up happens by itself, once.
.DEFAULT_GOAL := help
.PHONY: help run test quick lint types bench leak conformance soak collide clean

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8001
SEEDS ?= 10000
FIRST ?= 1
CALLS ?= 10000000
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c '$(NEW_ENOUGH)' 2> /dev/null && echo "$$p" && break; done)
# pip talks about where it looks; what a reader needs is only what went wrong.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/run.stamp  ## the proxy on port 8001 (PORT=...) in front of two small demo servers; Ctrl-C stops everything
	@$(BIN)/python -m examples.demo --port $(PORT)

test: $(VENV)/dev.stamp  ## all tests (T='-k name -x' is handed to pytest)
	$(BIN)/python -m tests $(T)

quick: $(VENV)/dev.stamp  ## the tests that take no more than a few seconds each
	$(BIN)/python -m pytest -m 'not slow' $(T)

lint: $(VENV)/dev.stamp  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp  ## static types, strict
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/dev.stamp  ## the benchmarks (B='...' is handed to them)
	$(BIN)/python -m benchmarks $(B)

leak: $(VENV)/dev.stamp  ## 10,000 clients and hundreds of killed processes: is anything left; about three minutes
	$(BIN)/python -m benchmarks leak --check
	ORPHAN_ROUNDS=100 $(BIN)/python -m pytest tests/process/test_orphans.py

conformance: $(VENV)/dev.stamp  ## the official conformance suite through the proxy: every revision, every kind of server
	$(BIN)/python -m tests.conformance

soak: $(VENV)/dev.stamp  ## the simulator on all cores: SEEDS=10000 runs, beginning with seed FIRST=1
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --first $(FIRST)

collide: $(VENV)/dev.stamp  ## CALLS=10000000 calls with colliding ids through fronts and workers, on all cores: is any misdelivered
	$(BIN)/python -m tests.collide --calls $(CALLS)

clean:  ## remove everything that was made here
	rm -rf $(VENV) .cache .ruff_cache .hypothesis .pytest_cache build dist results *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed, and none was found. Install it, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'Python could not make a virtual environment (Debian and Ubuntu: install python3-venv).' >&2; exit 1; }

# A stamp is younger than pyproject.toml only if what pyproject.toml asks for has been installed.
$(VENV)/run.stamp: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing the proxy ...'
	@$(PIP) install --editable .
	@touch $@

# Dependency groups (PEP 735) are read here because pip knows them only from 25.1 on.
$(VENV)/dev.stamp: pyproject.toml $(VENV)/run.stamp
	@echo 'Installing what the tests need ...'
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	@$(PIP) install --requirement $(VENV)/dev.txt
	@touch $@
