# Everything runs in .venv, which is made on first use (by uv where it is on the path, by venv and
# pip otherwise) and made again when pyproject.toml or requirements.lock changes.
#
# requirements.lock pins every package, for all platforms and Python versions. After a change of
# dependencies in pyproject.toml, or to move to newer versions, renew it with `make lock`
# (which needs uv), run `make check test`, and commit both files.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
CHAOS_SEEDS ?= 1000
QUICK ?=
# Tests wait more than they compute: for servers, for killed workers to be rescued. In the order of
# their files: the fault tests, which take longest, begin first.
TEST_PROCESSES ?= 4
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check bench chaos lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## run the whole flow on a shipped conversation, with a killed daemon (ARGS="--model offline" …)
	$(VENV)/bin/jobsworth demo $(ARGS)

# The many processes that tests start do not each compile every module, whatever the shell says.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP) ## run every test, on real PostgreSQL (ARGS=... is passed to pytest)
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## lint, format check, strict types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright

bench: $(STAMP) ## measure against other job queues and pgbench, write docs/benchmarks.md (QUICK=1 for a glance)
	$(VENV)/bin/python -m bench $(if $(QUICK),--quick) $(ARGS)

chaos: $(STAMP) ## the fault tests with many more seeds (CHAOS_SEEDS=1000)
	JOBSWORTH_CHAOS_SEEDS=$(CHAOS_SEEDS) $(VENV)/bin/python -m pytest tests/chaos $(ARGS)

lock: ## renew requirements.lock with the newest versions that fit
	@test -n "$(UV)" || { echo "make lock needs uv on the path: pip install uv" >&2; exit 1; }
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --group dev \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --output-file requirements.lock pyproject.toml

clean: ## remove .venv, caches and builds
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-build-isolation: the build backend is in the lock too.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Jobsworth needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	    echo "Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing Jobsworth and what it needs into $(VENV): about a minute, once"
ifneq ($(UV),)
	@$(VENV)/bin/python --version >/dev/null 2>&1 || { rm -rf $(VENV); uv venv --quiet --python "$(PYTHON)" $(VENV); }
	@uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python -r requirements.lock
	@uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
else
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $@
