# Everything from a fresh clone: `make demo` and `make test` create .venv, install and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint bench man package coverage clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py demo

test: lint
	$(BIN)/python -m pytest tests -m "not long" -n 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pytest tests -n 2 --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=min,median,rounds

man: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python tools/man.py build/man

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Wheel and sdist, checked and installed in a fresh environment, where the tests run against the wheel.
package: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet build twine
	rm -rf dist build/package
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/check_package.py dist build/package

coverage: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[coverage]"
	$(BIN)/python -m coverage run -m pytest tests -m "not long" -q
	$(BIN)/python -m coverage combine
	$(BIN)/python -m coverage html -d build/coverage
	$(BIN)/python -m coverage report --skip-covered
