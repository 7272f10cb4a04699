# `make demo` trains COVR on cartpole from pixels; `make test` runs the checks. Both set up ./.venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 1
RUN_DIR ?= runs/demo/seed$(SEED)
# No window system is needed; MuJoCo would otherwise look for one.
export MUJOCO_GL ?= disable
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint docs install clean

demo: install
	$(BIN)/python experiments/train.py --preset demo --seed $(SEED) --run-dir $(RUN_DIR)

# As many processes as there are cores, four at most; the tests of one file stay together and share what they compile.
test: install lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/pyright

# pdoc imports every module; one of MuJoCo's asks a subprocess for the version of its window library.
docs: install
	PDOC_ALLOW_EXEC=1 $(BIN)/python -m pdoc --output-directory build/docs covr_jax

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
