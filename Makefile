# Two commands do all the set-up on a bare machine (Python 3.11, pip, make): `make demo`, `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/canonical-digits

# The matrices here are small: a second thread per process costs more than it brings.
# Tests use the second core by running in two processes of one thread each.
export OMP_NUM_THREADS ?= 1
JOBS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-all lint docs bench clean

help:
	@echo "make demo      train on real data, test the laws, write $(DEMO)/report.html"
	@echo "make test      the test suite (make test-all: with the experiments that train for minutes)"
	@echo "make lint      ruff and mypy"
	@echo "make docs      write the pages of docs/ that are generated from the code"
	@echo "make bench     the cost of observing, measured here"
	@echo "make clean     remove $(VENV) and the demo's run"

# A stamp is touched after the last step only, so an interrupted install is taken up again.
$(VENV)/.demo: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: requirements-ci.txt $(VENV)/.demo
	$(BIN)/pip install --quiet -r requirements-ci.txt
	@touch $@

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	$(BIN)/lawful run canonical-digits --out $(DEMO)
	$(BIN)/lawful test $(DEMO)
	$(BIN)/lawful report $(DEMO) -o $(DEMO)/report.html
	@echo "Open $(DEMO)/report.html in a browser."

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-all: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "slow or not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.demo
	$(BIN)/python docs/build.py

bench: $(VENV)/.test
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) $(DEMO)
