# fluxedge: `make` lists the verbs. Everything is installed into .venv; nothing else on the machine is touched, except
# Debian packages that are missing (python3-venv, and for the tests those that tools/setup lists), with root or sudo.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
DURATION ?=

.PHONY: help demo test quick lint format bench soak deb repo test-deb clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.demo ## run the gateway with simulated devices and a broker; DURATION=20 ends by itself
	@$(PYTHON) -m fluxedge.cli.main demo $(if $(DURATION),--duration $(DURATION))

test: .venv/.test ## check style, types and all tests
	@tools/test all

quick: .venv/.test ## the tests without the slow ones, under two minutes
	@tools/test quick

lint: .venv/.test ## check style and types
	@tools/test lint

format: .venv/.test ## format the sources
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

bench: .venv/.test ## measure against the floor and the budgets, a few minutes
	@$(PYTHON) -m bench $(BENCH)

soak: .venv/.test ## inject faults at length, write build/soak/report.md; SEED=N repeats, ONLY=EXPR chooses
	@tools/soak

deb: .venv/.demo ## build the Debian package into build/deb; SUITE=trixie and ARCH=arm64 choose others
	@tools/deb

repo: ## make a signed apt repository of the packages in build/deb; KEY=NAME signs with a key of your own
	@tools/deb-repo

test-deb: .venv/.test ## install the Debian package on a booted Debian and test its life
	@tools/deb-test

clean: ## remove what was built and installed here
	rm -rf .venv build bench/out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.demo: pyproject.toml tools/setup
	@tools/setup demo

.venv/.test: pyproject.toml tools/setup
	@tools/setup test
