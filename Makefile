# make demo | test | docs | setup | help.  No environment needs to be active; everything lives in .venv.
# PYTHON=/path/to/python overrides the choice of interpreter (3.10, 3.11 or 3.12).

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test docs

unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?=
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

help:
	@echo 'make demo    set up, run the digits experiment end to end, say where its report is'
	@echo 'make test    set up, lint, types, import contracts, all tests'
	@echo 'make docs    set up, build the documentation site (Python 3.11 or later)'
	@echo 'make setup   make .venv and install (skipped when nothing has changed)'
	@echo 'PYTHON=...   the interpreter to use: Python 3.10, 3.11 or 3.12'

setup: $(STAMP)

# Lava's two wheels declare less than Python 3.11 and caps that they do not need: they go in last and without their metadata.
$(STAMP): pyproject.toml constraints.txt Makefile
	@set -euo pipefail; \
	works() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }; \
	chosen=''; \
	for candidate in $(if $(PYTHON),'$(PYTHON)',python3 python3.12 python3.11 python3.10); do \
		if works "$$candidate"; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
		echo 'make: no usable Python found$(if $(PYTHON), at $(PYTHON)): Python 3.10, 3.11 or 3.12 with its venv module is needed' \
			'(Debian, Ubuntu: apt install python3-venv); name one with make PYTHON=/path/to/python.' >&2; \
		exit 1; \
	fi; \
	echo "Installing into $(VENV) with $$("$$chosen" --version) (a few minutes; skipped next time)"; \
	rm -f $(STAMP); \
	wanted=$$("$$chosen" -c 'import sys; print(sys.version_info[:2])'); \
	present=$$($(BIN)/python -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true); \
	if [ "$$wanted" != "$$present" ]; then "$$chosen" -m venv --clear $(VENV); fi; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[stack,fast,dev]'; \
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python -c constraints.txt lava-nc lava-dl; \
	touch $(STAMP)

demo: setup
	@$(BIN)/qpsnn run digits
	@echo 'The report: runs/digits/report.html'

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

# The tests build the site too, into a folder of their own.
docs: setup
	@$(BIN)/python -c 'import sphinx' 2>/dev/null || { echo 'make docs: needs Python 3.11 or later, as make docs PYTHON=/path/to/python' >&2; exit 1; }
	$(BIN)/python -m sphinx -W --keep-going -n -q -c docs . docs/_build
	@echo 'The site: docs/_build/index.html'
