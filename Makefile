# Two commands are all a new machine needs: `make run` and `make test`. Both set up `.venv` from the lock file first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TYPES := build/types
IMPORTS := build/imports
ROOMS := benchmark datasets leaderboards recommenders tokenizers

.PHONY: setup run test lint types imports unit docs speed lock clean

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

# The checker of import contracts wants the rooms in a namespace without the root's __init__.py.
imports: setup
	mkdir -p $(IMPORTS)/sidbench
	for room in $(ROOMS); do ln -sfn "$(CURDIR)/$$room" $(IMPORTS)/sidbench/$$room; done
	cd $(IMPORTS) && "$(CURDIR)/$(BIN)/lint-imports" --config "$(CURDIR)/pyproject.toml"

types: setup
	cd $(TYPES) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -m sidbench -p sidbench.benchmark -p sidbench.datasets -p sidbench.tokenizers -p sidbench.recommenders -p sidbench.leaderboards

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: lint imports types unit

# One page per tokenizer and recommender, from its source; a test fails when they are out of date.
docs: setup
	$(BIN)/bench plugin docs

speed: setup
	$(BIN)/python -m pytest tests/speed -p no:xdist --benchmark-columns=min,median,max,rounds

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet "torch==2.13.0" ".[text,vision,test,ray,slurm,dashboard,postgresql,mysql]" setuptools
	(head -1 requirements.lock; build/lock/bin/python -m pip freeze --all --exclude sidbench --exclude pip | sed 's/^torch==\([0-9.]*\).*/torch==\1/' | sort -f) > build/lock.txt
	cp build/lock.txt requirements.lock

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
