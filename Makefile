# `make` lists the targets. Needs GNU make and Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
ARGS ?=
SECONDS ?= 120
SEED ?=
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore
UV_COMPILE := pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11
SUDO = $(if $(filter 0,$(shell id -u)),,sudo -n)
APT = $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300

.DEFAULT_GOAL := help
.PHONY: help run test fuzz crash bench microbench image check sbom secrets audit lint format-check ruff-check types format services dev lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: .venv/.run-stamp ## Start the gateway; ARGS are passed on to `gateway run`
	@exec $(BIN)/gateway run $(ARGS)

test: dev services ## Run the tests; ARGS are passed on to pytest: make test ARGS='-x tests/test_journal.py'
	@$(BIN)/python -m pytest $(ARGS)

fuzz: dev ## Bad input for SECONDS=120; SEED=7 repeats what seed 7 did
	@SEED=$(SEED) FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest -s -k by_structure tests/fuzz $(ARGS)

crash: dev services ## Break everything under load and count what arrives; ARGS='--short', '--only broker', '--list'
	@$(BIN)/python -m tests.crash $(ARGS)

bench: dev services ## How fast, beside peers (needs wrk; Node and mq-bridge where they can be had); ARGS='--rounds 3'
	@command -v wrk >/dev/null || $(APT) install wrk >/dev/null || { echo "Needs wrk: apt-get install wrk" >&2; exit 1; }
	@$(BIN)/python -m tests.bench $(ARGS)

# Why the seed: the order of sets is part of what is counted.
microbench: dev ## What each stage of a callback costs, beside what was recorded; ARGS=--record writes it down
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -o python_files='bench_*.py' \
		--benchmark-columns=min,median,rounds --benchmark-sort=name tests/microbench $(ARGS)

image: dev ## Try the steps of the Dockerfile in a bare Debian root, and the gateway in it (root, debootstrap)
	@$(BIN)/python -m tests.image $(ARGS)

check: lint test ## What must hold before a commit: lint and tests

lint: format-check ruff-check types ## Formatting, lint rules and types, without the tests

format-check: dev
	@$(BIN)/ruff format --check

ruff-check: dev
	@$(BIN)/ruff check

types: dev
	@$(BIN)/mypy

format: dev ## Format the code, and fix what ruff can fix
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format

sbom: dev ## What an installation consists of, in sbom.json (CycloneDX; without network)
	@$(BIN)/python -m tests.hygiene.sbom $(or $(ARGS),sbom.json)

secrets: dev ## Fail where a file under version control holds a secret
	@$(BIN)/python -m tests.hygiene.secrets

audit: ## Ask the advisory database for known faults of what is locked (needs the network)
	@audit=$$(mktemp -d) && trap 'rm -rf "$$audit"' EXIT && $(PYTHON) -m venv "$$audit" && \
	"$$audit/bin/pip" install --quiet --disable-pip-version-check pip-audit && \
	"$$audit/bin/pip-audit" --strict --disable-pip --require-hashes -r requirements.lock $(ARGS)

services: dev ## Install the servers that tests use (RabbitMQ, PostgreSQL, MariaDB, Redis, Prometheus, Chromium), where apt-get may be used
	@$(BIN)/python -m tests.services install || true # without them their tests skip; with CI=true they fail

dev: .venv/.dev-stamp

lock: ## Write both locks from pyproject.toml; ARGS=--upgrade takes newer versions
	@uv=$$(mktemp -d) && trap 'rm -rf "$$uv"' EXIT && $(PYTHON) -m venv "$$uv" && \
	"$$uv/bin/pip" install --quiet --disable-pip-version-check uv && \
	"$$uv/bin/uv" $(UV_COMPILE) $(ARGS) --extra mysql --extra otel --extra postgres --extra redis --extra build pyproject.toml -o requirements.lock && \
	"$$uv/bin/uv" $(UV_COMPILE) $(ARGS) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

docs: dev ## Build docs/ as a site into var/site; a broken link is an error
	@$(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

clean: ## Remove .venv and all caches; data under var/ stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -type d -name __pycache__ -prune -exec rm -rf {} +

.venv/.run-stamp: requirements.lock
.venv/.dev-stamp: requirements-dev.lock
.venv/.%-stamp: pyproject.toml | $(BIN)/pip
	@echo "Setting up .venv (the first time, and when its locks have changed) ..."
	@$(PIP_INSTALL) --require-hashes $(patsubst %,-r %,$(filter %.lock,$^))
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Needs Python 3.11 or newer; name it with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(APT) update && $(APT) install python3-venv; } >/dev/null 2>&1 || \
	{ echo "Python cannot make a .venv. On Debian, an administrator runs: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
