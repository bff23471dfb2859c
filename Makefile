# A fresh checkout needs nothing but Python 3.10 or newer, make and a C++ compiler.
PYTHON ?= python3
# Which build of NVIDIA DALI: cuda13 or cuda12. Both also run on machines without a GPU.
DALI ?= cuda13
BIN := .venv/bin
INSTALLED := .venv/installed-$(DALI)
PARALLEL := --numprocesses=auto --maxprocesses=8 --dist=worksteal

.PHONY: help setup test test-slow demo experiment lint docs constraints clean

help:
	@echo "make setup      make .venv and install everything, in the versions of constraints.txt"
	@echo "make demo       make motion videos, pack, verify, train with DeepSpeed, evaluate, predict, draw"
	@echo "make experiment the controlled experiment of RESULTS.md: hours; stopped, it goes on"
	@echo "make lint       ruff (rules and format) and pyright (types)"
	@echo "make test       lint and tests"
	@echo "make test-slow  the tests that take minutes, and those of the studies"
	@echo "make docs       the site of docs/, into build/site; .venv/bin/mkdocs serve shows it while you write"
	@echo "make clean      remove .venv and build; data and runs stay"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -e $@ || rm -rf .venv  # neither what a killed installation left nor another build of DALI can be mended
	$(PYTHON) -m venv .venv
	@rm -f $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(DALI),test]' -c constraints.txt
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: setup lint
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: .venv/docs-installed
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow or studies'

docs: .venv/docs-installed
	$(BIN)/mkdocs build --strict

.venv/docs-installed: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]' -c constraints.txt
	@touch $@

demo: setup
	$(BIN)/python -m launch.demo

experiment: setup
	$(BIN)/python -m launch.studies.ablation

# Resolves the newest versions for every supported Python; commit the result.
constraints: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header --no-emit-index-url \
	    --upgrade --extra cuda13 --extra cuda12 --extra remote --extra benchmark --extra docs --extra test pyproject.toml -o constraints.txt

clean:
	rm -rf .venv build
