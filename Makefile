# Every target sets up what it needs. On a fresh machine: Python >= 3.11 with venv, and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench docs wheel clean distclean

help: ## what there is
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps make set-up run once, and again when the requirements change. pip 25.1 is the first that reads dependency groups.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "tnkit needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt pip
	$(PIP) install --quiet -c constraints.txt -e '.[all]' --group test --group lint
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	$(PIP) install --quiet -c constraints.txt --group docs
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready
	$(PIP) install --quiet -c constraints.txt --group bench
	@touch $@

setup: $(VENV)/.ready ## make .venv with the package, all extras and the tools

demo: $(VENV)/.ready ## decompose, complete and compress real data; write one HTML report
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.ready ## all tests and doctests, on two processes (ARGS="--slow" for all, ARGS="tests/formats -x" for some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

check: $(VENV)/.ready ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-bench ## measure against the other libraries; write out/bench.json
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.ready-docs ## build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/.ready ## build the wheel into dist/
	$(PIP) wheel --quiet --no-deps --no-build-isolation -w dist .

clean: ## remove what was built, measured or cached
	rm -rf build dist site out .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find tnkit tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment as well
	rm -rf $(VENV)
