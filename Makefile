# Everything from a fresh clone: `make demo` and `make test` create .venv, install and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint bench history docs man package coverage clean

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

# What `make bench` measures, kept for a release: make history VERSION=0.2.0
history: $(VENV)/.installed
	test -n "$(VERSION)"
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	mkdir -p build
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-timer=time.process_time \
		--benchmark-json=build/benchmark.json -k "2.0 and not nilearn"
	$(BIN)/python tools/history.py build/benchmark.json bench/history/$(VERSION).json

# The site: warnings are errors; examples run, and commands print what pages show; links within it are followed. Tutorials
# run again if they have changed.
docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs/html
	$(BIN)/python -m sphinx -q -W -t doctest -b doctest docs build/docs/doctest
	$(BIN)/python tools/check_examples.py docs/*.md
	$(BIN)/python tools/check_site.py build/docs/html

man: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python tools/man.py build/man

clean:
	rm -rf docs/generated docs/tutorials docs/sg_execution_times.rst
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Wheel and sdist, checked and installed in fresh environments, where tests run against them. Of several interpreters:
# make package PYTHONS='python3.12 python3.13'
package: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet build twine
	rm -rf dist build/package
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/check_package.py dist build/package $(PYTHONS)

# Of all that tests start, workers and commands included. The last table is of the engine; compiled loops are not counted.
coverage: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[coverage]"
	$(BIN)/python -m coverage run -m pytest tests -m "not long" -n 2 --dist loadfile
	$(BIN)/python -m coverage combine
	$(BIN)/python -m coverage html -d build/coverage
	$(BIN)/python -m coverage report --skip-covered
	$(BIN)/python -m coverage report --include="$$($(BIN)/python tools/engine.py)"
