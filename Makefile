# The conductor: each stage writes files that the next one depends on, so that make redoes only what is stale.
# `make help` lists the targets; the variables of a stage stand at the head of its recipe.mk.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# Any Python from 3.11 on. An environment of your own instead of .venv: make BIN=/its/bin READY= demo
PYTHON ?= python3
VENV ?= .venv
BIN ?= $(VENV)/bin
READY ?= $(VENV)/.ready
SPEECHSSL := $(BIN)/python -m speechssl

include recipes/pretrain/recipe.mk
include recipes/demo/recipe.mk
include recipes/emotion/recipe.mk
include recipes/asr/recipe.mk
include recipes/judge/recipe.mk
include recipes/objectives/recipe.mk

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## make the environment in .venv, or renew it when pyproject.toml or constraints.txt changed

OLD = needs Python 3.11 or newer; name one that is: make PYTHON=python3.12 $(or $(MAKECMDGOALS),setup)
USABLE := -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
# A timeout of five minutes: one wheel alone is half a gigabyte. Compiled now, or every start compiles torch and scipy
# anew where Python may not write its bytecode (PYTHONDONTWRITEBYTECODE, a folder that is read-only).
INSTALL = UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode \
	--constraint constraints.txt --editable
# kenlm is built from source. Without it everything but beam search works, so that setup goes on.
NO_LM = WARNING: no beam search: kenlm could not be built (needs a C++ compiler). When there is one: $(BIN)/uv pip install -e '.[lm]'
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(BIN)/python $(USABLE) || $(PYTHON) $(USABLE) || { echo "speechssl $(OLD)" >&2; exit 2; }
	@echo "Setting up $(VENV); the first time this downloads about 3 GB." >&2
	@$(BIN)/python $(USABLE) || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt uv
	@$(INSTALL) '.[dev]'
	@$(INSTALL) '.[dev,lm]' || echo "$(NO_LM)" >&2
	@touch $@

# Bytecode is kept wherever that is possible: each of the suite's processes would compile the package anew.
.PHONY: test
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY) ## run the test suite (ARGS="-k name" passes through)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

.PHONY: lint
lint: $(READY) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(READY) ## check types
	$(BIN)/pyright

.PHONY: hooks
hooks: $(READY) ## check style, spelling and file sizes before each commit (.pre-commit-config.yaml)
	$(BIN)/pre-commit install

# Without --quiet, which would hide warnings from --strict.
.PHONY: docs
docs: $(READY) ## build the site of docs/ into build/site
	$(BIN)/python -m mkdocs build --strict
	@echo "Look at build/site/index.html; for the search field: $(BIN)/python -m mkdocs serve" >&2

# For maintainers, see CONTRIBUTING.md: make bundle MODEL=runs/tiny NAME=tiny VERSION=1 DATA=data.md RESULTS="a.json b.json"
.PHONY: bundle
bundle: $(READY) ## make the bundled model (speechssl/assets/bundled) of the pretrained MODEL
	$(BIN)/python -m speechssl.experiments.bundle $(MODEL) --name $(NAME) --version $(VERSION) --data $(DATA) \
	  $(addprefix --results ,$(RESULTS)) $(if $(LIMITS),--limits $(LIMITS))

.PHONY: clean
clean: ## remove the demo's run and all caches; corpora, other runs and .venv stay
	rm -rf runs/demo build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
