# `make` lists what there is. PYTHON=python3.12 chooses the interpreter for a new environment.

VENV := .venv
BIN := $(VENV)/bin
export PYTHON ?=

# Options for pytest; without any, tests run in parallel.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help venv run test packages lint bench build clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/installed ## Make or update the virtual environment in .venv.

$(VENV)/installed: pyproject.toml constraints.txt tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@

run: venv ## Run the proxy on 127.0.0.1:2121, in front of a demo FTP server.
	@$(BIN)/fwproxy run

test: venv packages lint ## Check the code and run all tests; PYTEST_ARGS="-k name" for some.
	$(BIN)/python -m pytest $(PYTEST_ARGS)

packages: ## Install the servers and clients for the tests, as root on Debian or Ubuntu.
	@tests/install-packages

lint: venv ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv ## Run the benchmarks; BENCH_ARGS="--help" for their options.
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

build: venv ## Build the wheel and the source distribution in dist/.
	$(BIN)/python -m build

clean: ## Remove what was built, and caches; the virtual environment stays.
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
