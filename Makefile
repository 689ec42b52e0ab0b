# make demo   search, prune and fuse a network on real images, then print a table
# make test   run the test suite
# make lint   ruff and mypy, check only
# make coverage     the test suite, and how much of the package it runs; half as long again
# make docs     run what the pages show, and build them as a site in site/
# make stress       all cases of the fuzz tests, faults, kills and resumes of searches, and a long one; an hour
# make gpu          what needs a GPU, measured within eight minutes; results in docs/results/gpu
# make gpu-wheels   gather in wheels/ what `make gpu` installs, for a machine without network
# make test-onedl   the suite's core on the maintained forks of the OpenMMLab packages
# make test-downstream   stock models of mmseg, mmpose, mmyolo, mmaction2, mmrotate and mmocr, searched and fused
# Each first makes the environment in .venv if it is missing; nothing else on the machine is changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check
TESTED := requirements/tested.txt
SETUPTOOLS := setuptools<81
pin = $(shell grep -E '^(onedl-)?$(1)==' $(TESTED))

.PHONY: env demo test test-onedl test-downstream stress gpu gpu-wheels coverage docs lint
.DELETE_ON_ERROR:

demo: env
	$(PY) demo/search_demo.py

# `make docs` runs the pages' commands and snippets, which takes two minutes
TESTS := tests --ignore tests/docs/test_blocks_run.py
test: env
	$(PY) -m pytest -n auto $(TESTS)

# not in `test`: before Python 3.12 counting lines costs half the time of the tests again
coverage: env
	$(PY) -m pytest -n auto --cov=repnas_mm --cov-report= $(TESTS)
	@echo "covered: $$($(PY) -m coverage report --format=total) % of the lines of repnas_mm"

stress: env
	FUZZ=all $(PY) -m pytest -n auto tests/fuzz
	$(PY) -m pytest -n auto tests/stress/faults.py
	$(PY) tests/stress/kill_and_resume.py
	$(PY) tests/stress/long_run.py

# The forks install the stock packages' modules, hence an environment of their own. onedl-mmcv names its license as
# setuptools before 77 cannot read. Left out: tests of our wheel and of mim, which knows the stock packages only, and of
# what is the same on any stack.
CORE := $(addprefix tests/,models search engine configs datasets visualization utils fuzz tools test_versions.py)
test-onedl:
	$(MAKE) VENV=.venv-onedl TESTED=requirements/onedl.txt SETUPTOOLS='setuptools>=77,<81' env
	.venv-onedl/bin/python -m pytest -n auto $(CORE)

# The machine's Python brings torch. Wheels that were gathered with `make gpu-wheels GPU_PYTHON_VERSION=...` are used if
# they are there. GPU_CHECK=--tiny tries everything small, on a CPU too.
GPU_PYTHON ?= python3
GPU_PYTHON_VERSION ?= 3.12
gpu:
	test -x .venv-gpu/bin/python || $(GPU_PYTHON) -m venv --system-site-packages .venv-gpu
	.venv-gpu/bin/python -m pip install --disable-pip-version-check -q --no-deps \
		$(if $(wildcard wheels/*.whl),--no-index --find-links wheels) -r requirements/gpu.txt
	PYTHONPATH=.:$$PYTHONPATH .venv-gpu/bin/python tools/gpu_check.py $(GPU_CHECK)

gpu-wheels:
	$(PYTHON) -m pip download --disable-pip-version-check -q --no-deps --only-binary=:all: -d wheels \
		--python-version $(GPU_PYTHON_VERSION) $(addprefix --platform manylinux,2014_x86_64 _2_27_x86_64 _2_28_x86_64) \
		-r requirements/gpu.txt

# They need older versions of what the stack takes along, hence an environment of their own.
test-downstream:
	$(MAKE) VENV=.venv-downstream env
	.venv-downstream/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements/downstream.txt
	.venv-downstream/bin/python -m pytest tests/downstream/stock_configs.py

# The site reads docstrings without importing the package, so a small environment of its own will do.
docs: env
	$(PY) -m pytest tests/docs
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --disable-pip-version-check -q -r requirements/docs.txt
	.venv-docs/bin/python -m mkdocs build --strict

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

env: $(VENV)/.package

# 1. torch first: mmcv compiles against it. pkg_resources, which mmcv's setup.py imports, left setuptools in 81.
$(VENV)/.torch: $(TESTED)
	@echo '[1/4] torch and torchvision'
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), f"Python 3.11 is needed, {sys.executable} is {sys.version}: run make PYTHON=/path/to/python3.11"'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) 'pip==24.3.*' '$(SETUPTOOLS)' wheel ninja psutil
	$(PIP) $(call pin,torch) $(call pin,torchvision)
	touch $@

# 2. mmcv with its C++ ops: about ten minutes on two cores the first time, then pip keeps the wheel. A kept wheel that
#    was built against another torch does not load, and is built anew.
MMCV_BUILD = set -o pipefail; MMCV_WITH_OPS=1 FORCE_CUDA=0 MAX_JOBS=$(JOBS) CFLAGS='-g0 -O2' PATH="$(CURDIR)/$(VENV)/bin:$$PATH" \
	$(PIP) -v --no-build-isolation $(call pin,mmcv)
MMCV_SHOW = tee $(VENV)/mmcv-build.log | awk 'match($$0, /\[[0-9]+\/[0-9]+\]/) {print "mmcv ops " substr($$0, RSTART, RLENGTH); fflush()}'
$(VENV)/.mmcv: SHELL := /bin/bash
$(VENV)/.mmcv: $(VENV)/.torch
	@echo '[2/4] mmcv with ops, built from source (log: $(VENV)/mmcv-build.log)'
	@$(MMCV_BUILD) 2>&1 | $(MMCV_SHOW) || { tail -n 30 $(VENV)/mmcv-build.log; exit 1; }
	@$(PY) -c 'import mmcv.ops' 2>/dev/null || \
	  { $(MMCV_BUILD) --force-reinstall --no-deps --no-cache-dir 2>&1 | $(MMCV_SHOW); } || { tail -n 30 $(VENV)/mmcv-build.log; exit 1; }
	$(PY) -c 'import mmcv.ops'
	touch $@

# 3. openmim last: its dependencies pin old versions that the others accept but would not be resolved together. It is
#    left out where it is not pinned, beside the forks.
$(VENV)/.stack: $(VENV)/.mmcv requirements/tests.txt requirements/runtime.txt
	@echo '[3/4] the OpenMMLab stack and the test tools'
	$(PIP) $(call pin,mmengine) $(call pin,mmdet(ection)?) $(call pin,mmpretrain) -c $(TESTED) -r requirements/runtime.txt -r requirements/tests.txt
	$(if $(call pin,openmim),$(PIP) $(call pin,openmim) -c $(TESTED))
	touch $@

# 4. this package, editable
$(VENV)/.package: $(VENV)/.stack setup.py
	@echo '[4/4] repnas_mm'
	$(PIP) --no-deps -e .
	touch $@
