# `make run` and `make test` need only Python 3.11 or 3.12, pip and a package index.
PYTHON ?= python3
BIN := .venv/bin
ROOMS := flows tasks reports models kernels data core

.PHONY: run test gpu mutants mutants-twenty lint docs recording linked

run: .venv/installed
	$(BIN)/athanor run quickstart

test: .venv/installed
	$(BIN)/pytest --numprocesses 2 --dist loadfile

# Breaks one mechanism after the other, to see that a test notices. ONLY="huginn norm" takes those of that name.
mutants: .venv/installed
	$(BIN)/python tests/mutants/run.py $(ONLY)

# Twenty of the quick ones, by the date: DAY=2026-01-31 takes those of another one.
mutants-twenty: .venv/installed
	$(BIN)/python tests/mutants/run.py --twenty $(DAY)

# What the first hour on a GPU runs: docs/gpu-day.md.
gpu: .venv/installed
	$(BIN)/python -m athanor.reports.benchmarks.gpu_day $(ARGS)

lint: .venv/installed linked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/installed linked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# The picture in the README of what the commands print; as long as the quickstart takes.
recording: .venv/installed
	$(BIN)/python docs/recording.py

# A folder `athanor/` for tools that read the source without importing it.
linked:
	mkdir -p build/linked/athanor && ln -sfn $(foreach room,$(ROOMS),$(CURDIR)/$(room)) -t build/linked/athanor

.venv/installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 12) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	@echo 'installing the pinned packages into .venv: about 3 GB, some minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
