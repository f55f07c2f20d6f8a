# make demo    the quickstart study on this machine: set up, train, fit, report (minutes on two CPU cores)
# make test    the default tests            make test-slow   also the slow ones
# make lint    ruff, pyright, density     make test-hf     against transformers (installs torch)
# make test-executors   the slow tests of buckets, Slurm, Ray, slices, several hosts (installs ray)
# make setup   only the virtual environment
# make notebooks          run the notebooks again and store them with their outputs
# Each sets up what it needs. PYTHON=python3.12 picks an interpreter (3.11, 3.12 or 3.13).

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
WORKDIR ?= demo
STUDY := sweeps/studies/quickstart.py
EXECUTOR_TESTS := tests/sweeps/executors $(addprefix tests/experiments/test_, hosts.py object_store.py) \
  $(addprefix tests/system/test_, relaunch.py random_faults.py)
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-hf test-executors notebooks lint clean

help:
	@sed -n 's/^# //p' Makefile | head -7

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-lab.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(None if ok else "error: Python 3.11, 3.12 or 3.13 is needed; PYTHON=python3.11 make ... picks one")'
	@echo "setting up $(VENV): a few minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-lab.txt
	@$(RUN) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "lossgrid.pth").write_text("$(CURDIR)\n")'
	@touch $@

demo: setup
	@$(RUN) -m sweeps.launch --study=$(STUDY) --workdir=$(WORKDIR)
	@$(MAKE) --no-print-directory --silent $(WORKDIR)/report.html
	@echo "the law and its pictures: $(WORKDIR)/report.html   numbers: $(WORKDIR)/report.numbers.json   runs: $(WORKDIR)/grid.parquet"

$(WORKDIR)/grid.parquet: $(wildcard $(WORKDIR)/runs/*/record.json)
	@$(RUN) -m sweeps.collect --workdir=$(WORKDIR) --out=$@

$(WORKDIR)/report.html: $(WORKDIR)/grid.parquet
	@$(RUN) -m analysis.report $(WORKDIR)/grid.parquet --out=$@

test: setup
	@$(RUN) -m pytest -n 2 --dist=worksteal

test-slow: setup
	@$(RUN) -m pytest -n 2 --dist=worksteal -m "not gpu"

test-hf: $(VENV)/.installed-hf
	@$(RUN) -m pytest -n 2 --dist=worksteal -m hf

test-executors: $(VENV)/.installed-executors
	@$(RUN) -m pytest -n 2 --dist=loadgroup -m slow $(EXECUTOR_TESTS)

.venv-launchers: requirements-launchers.txt
	@echo "setting up $@: SkyPilot and xpk, a minute, once"
	@$(PYTHON) -m venv $@
	@$@/bin/python -m pip install --quiet --quiet --disable-pip-version-check -r requirements-launchers.txt
	@touch $@

$(VENV)/.installed-executors: requirements-ray.txt $(VENV)/.installed
	@echo "adding ray to $(VENV): a minute, once"
	@$(RUN) -m pip install --quiet --quiet --disable-pip-version-check -r requirements-ray.txt
	@touch $@

$(VENV)/.installed-hf: requirements-hf.txt $(VENV)/.installed
	@echo "adding transformers and torch to $(VENV): a few minutes, once"
	@$(RUN) -m pip install --quiet --quiet --disable-pip-version-check -r requirements-hf.txt
	@touch $@

notebooks: setup
	@$(RUN) -m analysis.notebooks

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright -p .pyrightconfig.json
	@$(RUN) .ci/density.py

clean:
	rm -rf $(WORKDIR)
