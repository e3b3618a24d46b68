# Everything starts from Python 3.11 and a shell: each target makes .venv itself.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.rayloom-installed
SOURCES := platform envs pipelines
FAST := not learning and not gpu and not bench and not faults and not mutants
DEMO := demo-out
JOBS := 2

.DEFAULT_GOAL := help
.PHONY: help setup docs check format test pytest learn gpu bench faults mutants matrix demo ui clean

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install under constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

check: $(STAMP)  ## format, lint, types, layers, spelling
	$(BIN)/ruff format --check $(SOURCES) tests
	$(BIN)/ruff check $(SOURCES) tests
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs $(SOURCES) tests configs

format: $(STAMP)  ## let ruff format and fix
	$(BIN)/ruff format $(SOURCES) tests
	$(BIN)/ruff check --fix $(SOURCES) tests

test: check pytest  ## all checks, and every test that needs minutes at most

docs: $(STAMP)  ## write the pages that are made from the code
	$(BIN)/python -c "from rayloom.catalogue.declarations import metrics_page as page; print(page(), end=\"\")" > docs/metrics.md
	$(BIN)/python -m rayloom_pipelines.benchmarks.results

pytest: $(STAMP)
	$(BIN)/python -m pytest -q -m "$(FAST)" -n $(JOBS)

learn: $(STAMP)  ## train to scores (minutes to an hour)
	$(BIN)/python -m pytest -q -s -m learning

gpu: $(STAMP)  ## tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

bench: $(STAMP)  ## speed beside peers (installs them) and memory under a limit
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/rayloom bench --all
	$(BIN)/python -m pytest -q -s -m bench

faults: $(STAMP)  ## the full kill matrix
	$(BIN)/python -m pytest -q -m faults

mutants: $(STAMP)  ## plant errors, see the law tests catch them, write docs/planted-errors.md
	$(BIN)/python -m pytest -q -m mutants tests/mutants

matrix: $(STAMP)  ## every method through all that it must do, then docs/methods.md
	$(BIN)/rayloom bench methods

demo: $(STAMP)  ## train a VAE on pictures and a DQN on CartPole, and say what to open
	$(BIN)/python -m rayloom_pipelines.demo --out $(DEMO)

ui: $(STAMP)  ## the MLflow page of the runs in this folder
	$(BIN)/rayloom ui

clean:  ## caches and build outputs; runs, mlflow.db and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
