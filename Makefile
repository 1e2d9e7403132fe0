PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install lock lint format types audit test test-all coverage demo bench run migrate clean

help: ## what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Cabinet needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say: make PYTHON=python3.12 …") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(INSTALLED) ## a virtual environment in .venv with everything locked and hashed

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --upgrade

lock: $(INSTALLED) ## new lock files from pyproject.toml
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra examples -c requirements.lock pyproject.toml -o requirements-examples.lock
	$(COMPILE) --extra dev -c requirements-examples.lock pyproject.toml -o requirements-dev.lock
	echo "hatchling" | $(COMPILE) -c requirements-dev.lock - -o requirements-build.lock

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

audit: $(INSTALLED) ## the lock files: pinned, hashed, no known advisory; AUDIT="--advisories FOLDER" where no service answers
	$(BIN)/python .ci/dependency_audit.py $(AUDIT)

test: $(INSTALLED) ## every test that needs only Python packages, with branch coverage of app/
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n auto --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-all: $(INSTALLED) ## what needs system packages beside test: reverse proxies, containers; see tests/deploy
	$(BIN)/pytest tests/deploy

demo: $(INSTALLED) ## the main job on real data, with a SIGKILL in the middle and a checker at the end
	$(BIN)/python -m examples.demo

bench: $(INSTALLED) ## creates a second, against an empty route and a bare sqlite3 loop
	$(BIN)/python -m benchmarks

run: $(INSTALLED) ## server and worker on the example pipeline; prints what to paste next
	$(BIN)/python -m examples.dev_server

migrate: $(INSTALLED) ## apply the migrations to DB_PATH; without it to the database of make run
	@mkdir -p -m 700 .cabinet/dev
	APP_ENV=$${APP_ENV:-dev} DB_PATH=$${DB_PATH:-.cabinet/dev/cabinet.db} $(BIN)/cabinet migrate

clean: ## remove what this Makefile made
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .cabinet
