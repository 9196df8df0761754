# VENV=/path/to/environment shares one environment between clones; PYTHON=/path/to/python3.10 names the interpreter.
SHELL := bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup setup-311 demo test test-all test-311 check docs bench fuzz constraints clean

VENV ?= .venv
VENV_311 ?= .venv-3.11
WORKERS ?= 2
FUZZ_SECONDS ?= 1200
MARKS ?= not slow
PYTEST_OPTIONS = -n $(WORKERS) --dist loadgroup -m "$(MARKS)"

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## the environment in .venv (Python 3.10 with Lava); at once where it already fits
	@tools/environment 3.10 $(VENV) lava,dev "the first time 3.2 GB to fetch and 6 GB of disk: lava-dl 0.6.0 needs torch 2.3.1, whose wheel brings CUDA"

setup-311:
	@tools/environment 3.11 $(VENV_311) dev "without Lava"

demo: setup ## train a small network, deploy it, compare it with Lava
	@$(VENV)/bin/snn2chip demo

test: setup ## the tests on Python 3.10, then the core's on Python 3.11
	@$(VENV)/bin/pytest $(PYTEST_OPTIONS)
	@$(MAKE) test-311

test-all: ## the same with the slow proofs
	@$(MAKE) test MARKS=

test-311: ## the core's tests on Python 3.11, numpy 2 and current torch; without Lava
	@tools/find-python 3.11 "its tests are skipped" >/dev/null || { [ "$${CI:-}" = true ] && exit 1 || exit 0; }; \
	$(MAKE) setup-311 && \
	$(VENV_311)/bin/pytest $(PYTEST_OPTIONS)

check: setup ## style, types, and the packages that would be published
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(VENV)/bin/python -m build --no-isolation --outdir "$$folder" . >"$$folder/log" 2>&1 || { cat "$$folder/log"; exit 1; }; \
	$(VENV)/bin/check-wheel-contents "$$folder"/*.whl
	@$(MAKE) docs
	@echo "check: style, types and packages are fine"

docs: setup ## the documentation as a site in site/; a warning is an error
	@log=$$(NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir site 2>&1) || { echo "$$log"; exit 1; }
	@echo "docs: site/index.html"

bench: setup ## the benchmarks, one after the other
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(VENV)/bin/python "$$script" || exit 1; done

fuzz: setup ## every reader of files against hostile ones, on both cores; FUZZ_SECONDS=1200
	@$(VENV)/bin/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --jobs $(WORKERS)

constraints: setup setup-311 ## write constraints.txt anew from both environments
	@$(VENV)/bin/python tools/constraints.py $(VENV)/bin/python $(VENV_311)/bin/python

clean: ## remove what builds and tools left; the environments stay
	@rm -rf build dist site *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find snn2chip exporters simulators tests examples benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
