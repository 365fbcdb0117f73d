# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  $$p -c 'import sys; sys.exit(not ((3,11) <= sys.version_info[:2] <= (3,13)))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo-out
TEST_WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo test test-slow test-all check docs format clean constraints

help:
	@echo "make demo       set up, make synthetic slides, extract, cross-validate, write report.html"
	@echo "make test       set up, check style, types and architecture, run the tests"
	@echo "make test-slow  run the slow tests"
	@echo "make check      ruff, mypy and import contracts alone"
	@echo "make docs       build the documentation's site into site/"
	@echo "make format     ruff format and fixes"

setup: $(VENV)/.ready

# The interpreter's minor version picks the pinned set; pip gets it as constraints, so extras stay one list.
$(VENV)/.ready: pyproject.toml $(wildcard constraints/*.txt)
	@test -n "$(PYTHON)" || { echo "pathotune needs Python 3.11, 3.12 or 3.13; none was found. Install one or give make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	minor=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	$(BIN)/python -m pip install --quiet -c constraints/python$$minor.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/pathotune demo --out $(DEMO_DIR)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(PYTEST) -m "not slow and not gpu and not network"

test-slow: setup
	$(PYTEST) -m "slow and not gpu and not network"

test-all: check
	$(PYTEST) -m "not gpu and not network"

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html is the start page; for the search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolve the pinned sets anew, one a Python minor; needs uv, names no host.
constraints:
	for v in 3.11 3.12 3.13; do uv pip compile pyproject.toml --extra dev --python-version $$v \
	  --no-header --no-annotate --no-emit-index-url --upgrade -o constraints/python$$v.txt; done

clean:
	rm -rf $(VENV) $(DEMO_DIR) site .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
