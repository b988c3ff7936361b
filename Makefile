# Every target does its own set-up in .venv; none needs another to have run. `make` alone lists them.
#
# A set-up is a stamp file in .venv, older than pyproject.toml when the set-up is out of date, so a second call is instant.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-warn-conflicts
# One worker process a core; more than eight would mostly compile the same kernels again.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses auto --maxprocesses 8
STAMPS := $(VENV)/stamps
RUNS := runs
# The vowels ship in aeon; its own dependencies are large, and nothing of its code is run.
VOWELS := aeon==1.6.0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test parity lint types format bench clean

help:
	@echo "make demo     train on handwritten digits and on spoken vowels, and show the result"
	@echo "make test     everything but the comparison with PyTorch"
	@echo "make parity   the comparison with PyTorch, installed for it"
	@echo "make lint     ruff: rules and format        make format   mend both"
	@echo "make types    mypy"
	@echo "make bench    the speed of layers and networks beside other libraries, in benchmarks/results/CPU (BENCH_ARGS=--help)"
	@echo "make setup    all that developing needs     make clean    forget every set-up and result"

demo: $(STAMPS)/demo
	$(BIN)/lucid train digits --out $(RUNS)/digits
	$(BIN)/lucid predict $(RUNS)/digits/checkpoint.safetensors
	$(BIN)/lucid train vowels --out $(RUNS)/vowels
	$(BIN)/lucid predict $(RUNS)/vowels/checkpoint.safetensors
	@echo
	@echo "Look at $(RUNS)/digits/report.png and $(RUNS)/vowels/report.png."

test: $(STAMPS)/demo $(STAMPS)/test
	$(PYTEST) --ignore=tests/parity --durations=10

parity: $(STAMPS)/parity
	$(PYTEST) tests/parity

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMPS)/dev
	$(BIN)/mypy

bench: $(STAMPS)/bench
ifdef BENCH_ARGS
	$(BIN)/lucid bench $(BENCH_ARGS)
else
	@set -ex; folder=benchmarks/results/$$($(BIN)/python -c "from lucid.kernels import target; print(target.cpu().name)"); \
	mkdir -p $$folder; \
	for suite in layers heldout drawn; do $(BIN)/lucid bench --threads 2 --suite $$suite --out $$folder/$$suite; done; \
	$(BIN)/lucid bench --threads 2 --isa avx2 --peers torch,torch-pages --out $$folder/avx2; \
	$(BIN)/python -m benchmarks.train_step --out $$folder/programs; \
	$(BIN)/python -m benchmarks.train_step --networks --out $$folder/networks
endif

setup: $(STAMPS)/demo $(STAMPS)/dev

clean:
	rm -rf $(VENV) $(RUNS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependency groups want pip 25.1; the one that Python or Debian brings may be older. Debian keeps venv in a package of
# its own, which only root can install.
$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Lucid needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) \
	  || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y python3-venv \
	    && $(PYTHON) -m venv --clear $(VENV); } \
	  || { rm -rf $(VENV); echo "no virtual environment: install one with: apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS)
	$(PIP) --upgrade "pip>=25.1"
	@touch $@

$(STAMPS)/base: pyproject.toml | $(STAMPS)/venv
	$(PIP) --editable .
	@touch $@

$(STAMPS)/demo: pyproject.toml | $(STAMPS)/base
	$(PIP) --editable ".[demo]"
	$(PIP) --no-deps $(VOWELS)
	@touch $@

$(STAMPS)/test $(STAMPS)/dev $(STAMPS)/parity $(STAMPS)/bench: $(STAMPS)/%: pyproject.toml | $(STAMPS)/base
	$(PIP) --group $*
	@touch $@
