# `make demo` and `make test` need Python 3.11 or later and make; both are quick the second time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n auto

.PHONY: demo test faults golden pictures audit lint types clean help

help:
	@echo "make demo   set up and train the digits recipe (no download)"
	@echo "make test   set up with development tools and run the tests"
	@echo "make faults  let each file operation fail or end a command, kill trainings, change bytes (hours)"
	@echo "make golden  write the losses of every recipe's first steps anew"
	@echo "make pictures  make the README's pictures anew (needs Chromium)"
	@echo "make audit  look up known vulnerabilities of the libraries (needs the network)"
	@echo "make lint   ruff: lint and format check"
	@echo "make types  mypy --strict"

demo: $(VENV)/.installed
	@$(BIN)/resight train --recipe digits

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

faults: $(VENV)/.installed-dev
	@RESIGHT_FAULTS=all RESIGHT_FAULTS_KILLS=1000 RESIGHT_FAULTS_MINUTES=60 $(BIN)/python -m pytest $(PYTEST_ARGS) tests/faults

golden: $(VENV)/.installed-dev
	@PYTHONPATH=tests $(BIN)/python tests/golden.py

pictures: $(VENV)/.installed-dev
	@$(BIN)/python docs/pictures/make.py

audit: $(VENV)/.installed
	@$(BIN)/python -m pip install -q --disable-pip-version-check pip-audit
	@$(BIN)/pip-audit --skip-editable

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Resight needs Python 3.11 or later; this is $$($(PYTHON) --version). Try make PYTHON=python3.11"; exit 2; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing Resight and what it needs (the first time takes a minute or more)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing Resight with its development tools (the first time takes a minute or more)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
