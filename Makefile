# Works on a machine that has make and Python 3.11 or newer, nothing else.
# A CPU-only torch, which is much smaller:  make PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
INSTALLED := $(VENV)/.installed
WORKERS ?= 2

.PHONY: quickstart test test-all check environment browser-tools

quickstart: $(INSTALLED)
	$(VENV)/bin/loopwright quickstart --out runs/quickstart

# One thread a worker: tiny models gain nothing from more, and the workers would fight for the cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(INSTALLED)
	LOOPWRIGHT_EXAMPLES=new OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS)

check: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

environment: $(INSTALLED)

# What the tests of the app check pages with; asks npm once.
browser-tools: $(INSTALLED)
	$(VENV)/bin/python -m tests.feedback.web.axe

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) torch==2.13.0 -c constraints.txt
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -e ".[dev]" -c constraints.txt
	touch $@
