# Everything runs in .venv. The first target that needs it makes it (with uv if that is on the path,
# else with venv and pip); it is updated when pyproject.toml or requirements.lock has changed.
#
# requirements.lock pins every package, the extras' too, for all platforms and Python versions. After
# a change of dependencies in pyproject.toml, or to move to newer versions, renew it with `make lock`,
# run `make check test`, and commit both files.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
CHAOS_SEEDS ?= 1000
FAULT_ROUNDS ?= 11
LIMIT_SECONDS ?= 120
LIMIT_DAEMONS ?= 8
QUICK ?=
# More than there are cores, because tests mostly wait, for servers and for rescues. The files run in
# order.
TEST_PROCESSES ?= 4
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo debian-packages browser browser-test test hostile installed check bench chaos faults limits docs screenshots faketime lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## play a shipped conversation, with a daemon killed half-way (ARGS="--model offline")
	$(VENV)/bin/jobsworth demo $(ARGS)

# Tests that need what is missing are skipped, and the end of the run says so.
debian-packages: ## install what the tests need from Debian: PgBouncer (as root, or with sudo)
	@PATH="$$PATH:/usr/sbin"; command -v pgbouncer >/dev/null || { \
	    sudo=$$(test "$$(id -u)" = 0 || echo sudo); $$sudo apt-get update -qq && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq --yes --no-install-recommends pgbouncer; }

browser: ## install what the browser tests need from Debian: Chromium (as root, or with sudo)
	@command -v chromium >/dev/null || { \
	    sudo=$$(test "$$(id -u)" = 0 || echo sudo); $$sudo apt-get update -qq && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq --yes --no-install-recommends chromium; }

browser-test: export PYTHONDONTWRITEBYTECODE =
browser-test: $(STAMP) ## drive every page of the dashboard in Chromium, against real daemons
	$(VENV)/bin/python -m pytest --numprocesses 2 tests/browser $(ARGS)

# The processes that tests start share compiled modules, even if the shell forbids to write them.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP) ## run the tests, on real PostgreSQL (ARGS=… is passed to pytest)
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	    --ignore tests/test_installed.py --ignore tests/faults/test_faults.py --ignore tests/faults/test_schedules.py \
	    --ignore tests/hostile/suite --ignore tests/chaos --ignore tests/browser $(ARGS)

hostile: export PYTHONDONTWRITEBYTECODE =
hostile: $(STAMP) ## run thousands of hostile rows, values, handlers and settings against real daemons
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist load tests/hostile $(ARGS)

installed: $(STAMP) ## install the wheel in empty environments, on each Python of this machine, and run it
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadgroup tests/test_installed.py $(ARGS)

check: $(STAMP) ## check lint, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright

bench: $(STAMP) ## measure against other job queues and pgbench, write docs/benchmarks.md (QUICK=1: a short run)
	$(VENV)/bin/python -m bench $(if $(QUICK),--quick) $(ARGS)

chaos: export PYTHONDONTWRITEBYTECODE =
chaos: $(STAMP) ## kill, freeze and cut off daemons, by seed (CHAOS_SEEDS=1000)
	JOBSWORTH_CHAOS_SEEDS=$(CHAOS_SEEDS) $(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) \
	    --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=0 tests/chaos $(ARGS)

faults: export PYTHONDONTWRITEBYTECODE =
faults: $(STAMP) ## hurt daemons, network, locks and clock, and measure each rescue (FAULT_ROUNDS=11)
	JOBSWORTH_FAULT_ROUNDS=$(FAULT_ROUNDS) $(VENV)/bin/python -m pytest -s -o faulthandler_timeout=0 tests/faults $(ARGS)

limits: export PYTHONDONTWRITEBYTECODE =
limits: $(STAMP) ## count what limits let through while daemons are killed and frozen (LIMIT_SECONDS=120)
	JOBSWORTH_FAULT_LIMIT_SECONDS=$(LIMIT_SECONDS) JOBSWORTH_FAULT_LIMIT_DAEMONS=$(LIMIT_DAEMONS) \
	    JOBSWORTH_TEST_LIMIT_EXAMPLES=40 $(VENV)/bin/python -m pytest -s -o faulthandler_timeout=0 \
	    tests/faults/test_limits.py tests/db/limits/test_limits_model.py $(ARGS)

docs: $(STAMP) ## write the pages of docs/ that are made of the code
	$(VENV)/bin/python -m tests.docs.write

screenshots: $(STAMP) ## take the pictures of the dashboard that README shows (docs/dashboard-*.png)
	$(VENV)/bin/python -m tests.browser.screenshots docs

faketime: ## install what sets the clock of a server in the fault tests, from Debian (as root, or with sudo)
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || { \
	    sudo=$$(test "$$(id -u)" = 0 || echo sudo); $$sudo apt-get update -qq && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq --yes --no-install-recommends libfaketime; }

lock: $(STAMP) ## renew requirements.lock with the newest versions that fit
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --group dev \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --output-file requirements.lock pyproject.toml

clean: ## remove .venv, caches and builds
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-build-isolation: the lock pins the build backend, too.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Jobsworth needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	    echo "Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing Jobsworth and its dependencies in $(VENV); this takes about a minute, once"
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
