# make demo           set up, run the quickstart sweep, show its report   (the README's first command)
# make test           lint, types, import contracts, doctests, tests      (what CI runs)
# make test-mlflow    crowds of mirrors, kills, attacks on the UI         (PostgreSQL from Debian for some of them)
# make test-long      a killed worker on a Ray cluster, a bucket from run to compare, soak and scale in short
# make test-cluster   several hosts made of network namespaces            (root, iproute2; ssh, PostgreSQL, Slurm for some)
# make chaos          a hundred kills at random moments, each judged: an hour
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.PHONY: demo test chaos test-mlflow test-long test-cluster lint types contracts tests format clean

demo: $(STAMP)
	$(BIN)/bnsweep run sweeps/quickstart.yaml

test: lint types contracts tests

# uv installs in a minute what takes pip three; pip alone does as well.
$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): a few minutes and some 6 GB, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]' \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

tests: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not mlflow and not long"

test-mlflow: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m mlflow tests/tracking tests/deploy

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos --points 100 --seed 0

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Figures of the last run stand in docs/cluster.md.
test-cluster: $(STAMP)
	BNSWEEP_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster -x -s
