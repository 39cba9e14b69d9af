# SPDX-License-Identifier: GPL-3.0-or-later
# Each target sets up all it needs on a fresh Debian 12 as root.
PYTHON ?= /usr/bin/python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp-
export DEBIAN_FRONTEND := noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup agent demo test test-all test-asan lint bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

setup: $(STAMP)install  ## what the other targets need, into .venv and by apt

$(STAMP)apt: packages.txt
	@test "$$(id -u)" = 0 || { echo "run as root: packages are installed with apt" >&2; exit 1; }
	@missing=; for p in $$(sed 's/#.*//' packages.txt); do \
	    dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	  if [ -n "$$missing" ]; then apt-get update -q && apt-get install -qy --no-install-recommends $$missing; fi
	@mkdir -p $(VENV) && touch $@

$(STAMP)install: $(STAMP)apt pyproject.toml setup.py requirements.lock $(wildcard native/*.pyx native/freeze/* native/kernels/* native/tracker/*)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --use-pep517 -r requirements.lock
	$(PY) -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

agent: setup  ## dist/p2v-agent: the agent as one file, for any x86-64 Linux since 3.10
	$(PY) agent/onefile/build.py dist/p2v-agent

demo: setup  ## the main job on a real disk; the second run takes under a minute
	@demo/run.sh

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
ISO := dist/p2v-$(VERSION)-amd64.iso
iso: setup  ## the live image that starts the machines to be migrated, in dist/
	@$(MAKE) -s $(ISO)

$(ISO): $(shell git ls-files agent iso native p2v setup.py pyproject.toml requirements.lock 2>/dev/null)
	@iso/build.sh

pxe: iso  ## the same for machines that start from the network, in dist/pxe/
	@iso/pxe.sh $(ISO) dist/pxe

PYTEST := $(PY) -m pytest -q
test: setup lint test-asan  ## everything but the full matrices; boots a migrated guest once
	$(PYTEST) -m "not slow"

test-all: setup lint test-asan  ## the full matrices too
	$(PYTEST)

lint: setup  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup  ## every figure of the README, side by side with its peers
	$(PY) -m bench

# The extension once more, instrumented, apart from the installed one. Python itself is not, hence:
# its objects come from malloc, so that a byte too far is seen, and leaks are not looked for.
ASAN := build/asan
ASAN_ENV = LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" PYTHONPATH=$(ASAN) PYTHONMALLOC=malloc \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
test-asan: setup  ## the native core's tests under ASan and UBSan
	rm -rf $(ASAN)
	CC="$(CC)" CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
	  $(PY) setup.py -q build_ext --force --build-lib $(ASAN) --build-temp $(ASAN)/temp
	cp native/*.py $(ASAN)/native/
	$(ASAN_ENV) $(PY) -P -c 'import native._core as core; assert "/$(ASAN)/" in core.__file__, core.__file__'
	$(ASAN_ENV) $(PY) -P -m pytest -q -p no:cacheprovider -p no:faulthandler --capture=sys tests/native

clean:  ## remove what was built; the cache of source disks stays
	rm -rf $(VENV) build dist *.egg-info native/_core.c native/_freeze.c native/_tracker.c native/*.so native/*.bpf.o
