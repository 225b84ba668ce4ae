# RemoteGPU: two commands do everything, `make demo` and `make test`. `make help` lists the rest.

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The interpreter that .venv is made with; by default the first in PATH that is new enough.
export PYTHON
# What `make test` runs, and what else to tell pytest.
TESTS ?=
PYTEST_ARGS ?=

# How long each of the long tests takes, if not ten minutes.
export SOAK_SECONDS

PYTEST := .venv/bin/python -m pytest

.PHONY: help demo test check format lock soak bench clean

help: ## Say what there is
	@echo 'RemoteGPU. Needs Python 3.11 or newer, git and make; everything else is set up in .venv.'
	@echo
	@awk -F ': ## ' '/^[a-z]+: ## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'make demo:  PORT=8000  HOSTS=3 (simulated hosts)  DATA=.remotegpu (state)  ADMIN_PASSWORD=...'
	@echo 'make test:  TESTS=tests/protocol  PYTEST_ARGS="-k link -n 0"'
	@echo 'make bench: QUICK=1 (fewer peers, shorter)  WRITE=1 (its results to bench/RESULTS.md)'
	@echo 'make soak:  SOAK_SECONDS=600 (for each of the long tests)'
	@echo 'any:        PYTHON=python3.12 (to make .venv with)'

# PORT, HOSTS, DATA and ADMIN_PASSWORD reach the program through its environment: make exports what
# was given on its command line, and a password in the environment is in no process list. `exec`
# leaves nobody between the terminal and the program, so that Ctrl-C ends it cleanly.
demo: ## Run the whole system here: control plane, this host's agent, simulated hosts
	@scripts/setup_venv.sh run
	@exec .venv/bin/remotegpu demo

test: ## Run all tests, on real redis-server and PostgreSQL
	@scripts/test_packages.sh
	@scripts/setup_venv.sh dev
	@$(PYTEST) -n 3 --dist loadgroup -m 'not soak' $(PYTEST_ARGS) $(TESTS)

check: ## Check format, lint, layers, SDL and types
	@scripts/setup_venv.sh dev
	@scripts/check.sh

format: ## Format the code and mend what lint can mend
	@scripts/setup_venv.sh dev
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format --quiet .

lock: ## Resolve the dependencies anew (UPGRADE=1: to the newest versions)
	@scripts/setup_venv.sh dev
	@scripts/lock.sh

soak: ## Run the long tests: fuzzing, and a fleet with viewers (ten minutes each)
	@scripts/test_packages.sh
	@scripts/setup_venv.sh dev
	@$(PYTEST) -m soak --timeout 3600 $(PYTEST_ARGS) $(TESTS)

bench: ## Measure speed and memory beside other servers (QUICK=1: in two minutes)
	@scripts/test_packages.sh
	@scripts/setup_venv.sh dev
	@.venv/bin/python -m bench $(if $(QUICK),--quick) $(if $(WRITE),--write)

clean: ## Remove .venv and every cache (never the state in DATA)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage dist build tests/npm/node_modules tests/npm/.installed tests/npm/relay/node_modules tests/npm/relay/.installed
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
