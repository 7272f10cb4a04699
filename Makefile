# `make demo` trains COVR on cartpole from pixels. `make test` runs lint, types and the first tier of tests, `make test-all`
# the second tier too. All of them set up ./.venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 1
RUN_DIR ?= runs/demo/seed$(SEED)
# No window system is needed; MuJoCo would otherwise look for one.
export MUJOCO_GL ?= disable
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-slow test-all lint reliability docs install clean

demo: install
	$(BIN)/python experiments/train.py --preset demo --seed $(SEED) --run-dir $(RUN_DIR)

# Two tiers. The first one guards every promise that a change is likely to break; the second one adds long distributions,
# all nine tasks, fault matrices and learning runs. Tests that share compiled programs stay together in one process.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup --durations 10

test: install lint
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

test-all: test test-slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads 2 --pythonpath $(BIN)/python

# Breaks small runs on purpose; RUNS=200 FLIPS=300 for as many kills and flipped bits.
RUNS ?= 4
FLIPS ?= 100
reliability: install
	$(BIN)/python experiments/benchmark/reliability.py --kills $(RUNS) --flips $(FLIPS) --page docs/reliability.md

# Pages of docs/ and an API page per module, out of the sources: nothing is imported. A warning fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(VENV)/.installed

# Torch goes first and alone: its CPU build satisfies what the other packages ask for.
$(VENV)/.installed: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
