# Two commands: `make book` and `make test`. Needs Python 3.11 to 3.13 and a package index; everything else is installed here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: help book test bench lab clean distclean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

book: $(READY) ## train five folds on phantoms, run every notebook, build _build/html/index.html
	@$(BIN)/python -m covidlib run --profile demo --book
	@echo "open _build/html/index.html"

test: $(READY) ## run the tests
	@$(BIN)/ruff check -q .
	@$(BIN)/python -m pytest

bench: $(READY) ## measure speed and memory, beside MIScnn where PEER_PYTHON names its Python (ROWS="prepare scan": these only)
	@$(BIN)/python bench/speed.py $(ROWS)

lab: $(READY) ## JupyterLab with the notebooks (LAB="--no-browser ..." for options of its own)
	@$(BIN)/jupyter lab --notebook-dir notebooks $(LAB)

clean: ## remove what can be made again in minutes: the built book and caches; data and runs stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find covidlib tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environment, data/ and runs/ as well: downloads and trained weights are lost
	rm -rf $(VENV) data runs

$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed, $$($(PYTHON) --version) found; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV) (about two minutes, 3 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -r requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@
