# Every target makes what it needs: `make search` and `make test` work on a fresh machine with Python 3.11 or newer.
#
#   make search ARGS="--trials 16"        flags of `mobo-mpq search`
#   make test PYTEST_ARGS="-k space"      flags of pytest
#   make search PIP_ARGS="..."            flags of pip, such as --index-url for another build of torch

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
HOME_DIR := $(or $(MOBO_MPQ_HOME),mobo-mpq-home)
STUDY := $(HOME_DIR)/studies/digits-mpic/journal.jsonl
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.PHONY: search test check docs wheel clean

# A finished study is shown again and an interrupted one goes on, unless flags ask for something else.
search: $(VENV)/.installed
	@if [ -z '$(ARGS)' ] && [ -s '$(STUDY)' ]; then $(BIN)/mobo-mpq resume digits-mpic; \
	else $(BIN)/mobo-mpq search $(ARGS); fi

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Types are checked over the installed wheel: that is what users import.
check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/typecheck.py

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/.installed-test
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version: a looser request may fetch another build of several gigabytes
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --upgrade pip
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	@touch $@
