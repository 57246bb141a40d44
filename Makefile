# Everything sets itself up on a machine that has Python >= 3.11, make and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH_VENV ?= .venv-bench
BENCH := $(BENCH_VENV)/bin/python
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test check soak bench format clean

demo: $(VENV)/.installed
	$(BIN)/lrat demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not soak"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m soak

# Other libraries want other versions, so they get an environment of their own.
bench: $(BENCH_VENV)/.installed
	$(BENCH) benchmarks/pgd_step.py
	$(BENCH) benchmarks/peers.py --out results/benchmarks/peers.md

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("lrat needs Python >= 3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	touch $@

$(BENCH_VENV)/.installed: pyproject.toml constraints.txt $(wildcard benchmarks/requirements*.txt)
	$(PYTHON) -c 'import sys; sys.exit("lrat needs Python >= 3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH) -m pip install --disable-pip-version-check -q -c constraints.txt -e . -r benchmarks/requirements.txt
	$(BENCH) -m pip install --disable-pip-version-check -q --no-deps -r benchmarks/requirements-alone.txt
	touch $@
