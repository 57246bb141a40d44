# Everything sets itself up on a machine that has Python >= 3.11, make and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH_VENV ?= .venv-bench
BENCH := $(BENCH_VENV)/bin/python
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
CALL_WITH = \`make $(or $(MAKECMDGOALS),demo) PYTHON=/usr/bin/python3.12\`

.PHONY: demo test check docs docs-serve soak bench format clean

demo: $(VENV)/.installed
	$(BIN)/lrat demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not soak"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) build --strict --quiet

# The site, in site/: its pages open from the disk too, its search wants docs-serve.
docs: $(VENV)/.installed-dev
	$(MKDOCS) build --strict

docs-serve: $(VENV)/.installed-dev
	$(MKDOCS) serve --strict

soak: $(VENV)/.installed-dev
	LRAT_SOAK_RECORD=results/soak.md $(BIN)/python -m pytest -m soak

# Other libraries want other versions, so they get an environment of their own.
bench: $(BENCH_VENV)/.installed
	$(BENCH) benchmarks/pgd_step.py
	$(BENCH) benchmarks/peers.py --out results/benchmarks/peers.md

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(BENCH_VENV) site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# An environment is whole or not there: half of one, as Python without ensurepip leaves it, would
# break every later call. Its pip is the last thing that is made. A folder that was there stays.
$(VENV)/bin/pip $(BENCH_VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "lrat: '$(PYTHON)' is no Python >= 3.11: name one, as $(CALL_WITH)" >&2; exit 1; }
	@test -e $(@:/bin/pip=) && kept=yes || kept=; \
	$(PYTHON) -m venv $(@:/bin/pip=) && test -e $@ || { \
	  test -n "$$kept" || rm -rf $(@:/bin/pip=); \
	  echo "lrat: '$(PYTHON)' cannot make a virtual environment with pip: on Debian and Ubuntu" \
	    "install python3-venv, or name another Python, as $(CALL_WITH)" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	touch $@

$(BENCH_VENV)/.installed: pyproject.toml constraints.txt $(wildcard benchmarks/requirements*.txt) | $(BENCH_VENV)/bin/pip
	$(BENCH) -m pip install --disable-pip-version-check -q -c constraints.txt -e . -r benchmarks/requirements.txt
	$(BENCH) -m pip install --disable-pip-version-check -q --no-deps -r benchmarks/requirements-alone.txt
	touch $@
