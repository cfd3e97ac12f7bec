# make          the environment, then every stage whose inputs changed (the default profile from nothing: see README.md)
# make test     the environment, then all tests
# make ci       the environment, then the test that runs the whole pipeline at tiny sizes in a temporary copy
# make lab      the environment, then JupyterLab at the overview of the notebooks
# All are safe to repeat. VENV=folder puts the environment elsewhere; PYTHON=program picks the Python that makes it.

VENV ?= .venv
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$python; break; }; done)

# Notebooks and stages must find this environment's programs first.
export PATH := $(abspath $(VENV))/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := reproduce
.PHONY: reproduce environment test ci lab

reproduce: environment
	@echo "== Pinned data out of the clone (dvc pull) and every stage that is not up to date (dvc repro)"
	dvc pull --quiet data.dvc
	dvc repro || { echo "== Not finished; the same command goes on from here" >&2; exit 1; }
	@echo "== Done: tables and figures in results/, the book in build/book/index.html"

test: environment
	@echo "== Pinned data out of the clone, then tests; the last ones run the whole pipeline at tiny sizes: some minutes"
	dvc pull --quiet data.dvc
	python -m pytest

ci: environment
	python -m pytest -s tests/test_pipeline.py

# notebooks/.lab shows Markdown as a page, and asks no network for news; your own settings stay as they are.
lab: environment
	jupyter lab --LabApp.app_settings_dir=notebooks/.lab --LabApp.default_url=/lab/tree/notebooks/README.md

environment: $(VENV)/installed.txt

# The stamp is the list that was installed; an interrupted installation leaves none.
$(VENV)/installed.txt: environment.yml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and neither python3.11 nor python3 is one;" \
		"install it or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "== Environment in $(VENV), by $(PYTHON), from the pins in environment.yml"
	@test -x "$(VENV)/bin/python" || "$(PYTHON)" -m venv "$(VENV)"
	@rm -f "$@"
	@sed -n 's/^ *- *\([A-Za-z0-9._-]*==.*\)$$/\1/p' environment.yml > "$(VENV)/requirements.txt"
	"$(VENV)/bin/python" -m pip install --requirement "$(VENV)/requirements.txt"
	@mv "$(VENV)/requirements.txt" "$@"
