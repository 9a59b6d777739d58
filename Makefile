# Two commands are all a new machine needs: `make run` and `make test`. Both set up `.venv` from the lock file first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TYPES := build/types
IMPORTS := build/imports
ROOMS := benchmark datasets leaderboards recommenders tokenizers

.PHONY: setup run test lint types imports unit nightly docs speed lowest lock clean

setup: $(VENV)/.ready $(TYPES)/sidbench

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Type checkers find the namespace `sidbench` (the repository root) through this link.
$(TYPES)/sidbench:
	mkdir -p $(TYPES)
	ln -sfn "$(CURDIR)" $@

# Fewer tokenizer steps than the budget's 2,000, so that a first look takes under three minutes on two cores.
run: setup
	$(BIN)/bench run --tokenizer adasid --dataset synthetic --budget quick tokenizer.steps=800
	$(BIN)/bench leaderboard --dataset synthetic

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The checker of import contracts wants the rooms in a namespace without the root's __init__.py.
imports: setup
	mkdir -p $(IMPORTS)/sidbench
	for room in $(ROOMS); do ln -sfn "$(CURDIR)/$$room" $(IMPORTS)/sidbench/$$room; done
	cd $(IMPORTS) && "$(CURDIR)/$(BIN)/lint-imports" --config "$(CURDIR)/pyproject.toml"

types: setup
	cd $(TYPES) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -m sidbench -p sidbench.benchmark -p sidbench.datasets -p sidbench.tokenizers -p sidbench.recommenders -p sidbench.leaderboards

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: lint imports types unit

# The long forms of checks whose short forms `make test` runs; one at a time, as several of them time what they kill.
nightly: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly

# One page per tokenizer and recommender, from its source; a test fails when they are out of date.
docs: setup
	$(BIN)/bench plugin docs

speed: setup
	$(BIN)/python -m pytest tests/speed -p no:xdist --benchmark-columns=min,median,max,rounds

# Nightly: a run, a table and a part of the tests with the oldest versions that pyproject.toml allows. Torch comes first
# and as the lock file pins it, so that no other requirement draws in another build of it.
LOWEST := build/lowest
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tests/lowest.py > build/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet "$$(head -1 build/lowest.txt)"
	$(LOWEST)/bin/python -m pip install --quiet -r build/lowest.txt "setuptools>=77"
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	SIDBENCH_HOME=$(LOWEST)/home $(LOWEST)/bin/bench run --tokenizer opq,rqvae --dataset synthetic --budget smoke --rerun always
	SIDBENCH_HOME=$(LOWEST)/home $(LOWEST)/bin/bench leaderboard --dataset synthetic --format html --out $(LOWEST)/table.html
	$(LOWEST)/bin/python -m pytest tests/test_dependencies.py tests/benchmark/config tests/benchmark/runtime/test_local.py \
	    tests/benchmark/store tests/benchmark/sweeps/test_space.py tests/datasets/test_reading.py \
	    tests/datasets/test_features_text.py tests/datasets/test_features_pictures.py tests/leaderboards/board \
	    tests/leaderboards/statistics

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet "torch==2.13.0" ".[text,vision,test,ray,slurm,dashboard,postgresql,mysql]" setuptools
	(head -1 requirements.lock; build/lock/bin/python -m pip freeze --all --exclude sidbench --exclude pip | sed 's/^torch==\([0-9.]*\).*/torch==\1/' | sort -f) > build/lock.txt
	cp build/lock.txt requirements.lock

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
