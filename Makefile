# make help lists what there is. Everything happens in .venv, which install_deps.sh fills.

PYTHON ?= python3
SAMPLE := data_tools/sample/reclamation.flac
BIN := .venv/bin
ENTER = @printf '\nEnter the environment with:  source .venv/bin/activate\n'

.PHONY: help demo app install test test-all lint types format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	$(ENTER)

demo: .venv/installed  ## the main job in some minutes: prepare a recording, train on it, score, play
	@echo "== 1 of 5: preparing the bundled recording (four minutes of music, its last minute held out)"
	$(BIN)/python -m data_tools.prepare $(SAMPLE) --out data/sample --held-out 30 --licence "CC BY-SA 3.0"
	@echo "== 2 of 5: training a 2-block model on it (some two minutes on 2 cores)"
	$(BIN)/python train.py experiment=demo
	@echo "== 3 of 5: scoring it on what was held out"
	$(BIN)/python evaluate.py experiment=demo
	@echo "== 4 of 5: playing on for ten seconds from the recording's held-out end, and ten by itself"
	$(BIN)/python generate.py experiment=demo n_samples=1 n_free=1 prompt=$(SAMPLE) prompt_start=237 \
		l_sample=208000 plots=true
	@echo "== 5 of 5: two clips of ten seconds by the shipped piano model"
	$(BIN)/python generate.py checkpoint_path=checkpoints/piano-2block.safetensors n_samples=2 plots=true
	$(ENTER)

app: .venv/installed  ## the band in the browser, at http://127.0.0.1:7860 (ARGS="--port 8000")
	$(BIN)/python -m app $(ARGS)

install: .venv/installed  ## make .venv and install everything into it (INSTALL="--cuda --extras dev,data,app,lyrics")
	$(ENTER)

# Runs again when what it installs has changed.
.venv/installed: pyproject.toml install_deps.sh
	@echo "== installing into .venv (some minutes the first time)"
	env -u VIRTUAL_ENV PYTHON=$(PYTHON) ./install_deps.sh $(INSTALL)
	@touch $@

test: .venv/installed  ## install if needed, then run the tests
	@echo "== running the tests, one process a core (some minutes; the first run also compiles PyKeOps kernels)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
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
