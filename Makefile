# make help lists what there is. Everything happens in .venv, which install_deps.sh fills.

PYTHON ?= python3
BIN := .venv/bin
ENTER = @printf '\nEnter the environment with:  source .venv/bin/activate\n'

.PHONY: help install test test-all lint types format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	$(ENTER)

install: .venv/installed  ## make .venv and install everything into it (INSTALL="--cuda --extras dev,data,app,lyrics")
	$(ENTER)

# Runs again when what it installs has changed.
.venv/installed: pyproject.toml install_deps.sh
	@echo "== installing into .venv (some minutes the first time)"
	env -u VIRTUAL_ENV PYTHON=$(PYTHON) ./install_deps.sh $(INSTALL)
	@touch $@

test: .venv/installed  ## install if needed, then run the tests
	@echo "== running the tests (some minutes; the first run also compiles PyKeOps kernels)"
	$(BIN)/python -m pytest
	$(ENTER)

test-all: .venv/installed  ## the tests, slow ones included
	@echo "== running all tests that need no GPU"
	$(BIN)/python -m pytest -m "not gpu"
	$(ENTER)

lint: .venv/installed  ## check style
	@echo "== checking style"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(ENTER)

types: .venv/installed  ## check types
	@echo "== checking types"
	$(BIN)/mypy
	$(ENTER)

format: .venv/installed  ## rewrite the code in the project's style
	@echo "== formatting"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(ENTER)

clean:  ## remove .venv and caches; data, runs and samples stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "make install builds .venv again; then:  source .venv/bin/activate"
