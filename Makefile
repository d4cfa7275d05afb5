# Developer commands. A fresh clone needs only Python 3.10 - 3.12: the first target that needs the
# environment creates it (.venv, pinned by requirements.txt).
#
#   make test PYTHON=/path/to/python3.11        choose the interpreter
#   make test PYTEST_ARGS='-k vocabulary -x'    choose the tests

VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile
CANDIDATES = $(or $(PYTHON),python3.12 python3.11 python3.10 python3)
READY = $(VENV)/.ready

.PHONY: help demo web test lint format docs hooks check gpu clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## train and evaluate a miniature ESC-Net on drawn scenes (three minutes)
	$(VENV)/bin/python tools/toyworld/demo.py

web: $(READY) ## serve the toy model to your browser, no download
	$(VENV)/bin/python tools/web_demo.py

test: lint ## linters and all tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --durations=10 $(PYTEST_ARGS)

lint: $(READY) ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(READY) ## apply ruff's fixes and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(READY) ## build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

hooks: $(READY) ## run make lint before every commit
	$(VENV)/bin/pre-commit install

check: $(READY) ## versions, devices, and what is missing
	$(VENV)/bin/python -m mmseg_escnet.check

gpu: $(READY) ## try and measure everything on a GPU (eight minutes at most)
	$(VENV)/bin/python tools/analysis/gpu_report.py

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache
	find mmseg_escnet tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +

# A candidate must run (pyenv leaves shims that do not), have a supported version, and be able to
# create an environment (Debian's python3 cannot without python3-venv). An environment whose pip does
# not run is left over from an interrupted call and is created again.
$(READY): requirements.txt setup.cfg setup.py pyproject.toml
	@set -e; \
	if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	    for candidate in $(CANDIDATES); do \
	        if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; then \
	            found="$$candidate"; break; \
	        fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then \
	        echo "make: no Python 3.10, 3.11 or 3.12 with the venv module found (tried: $(CANDIDATES)); name one with PYTHON=/path/to/python" >&2; \
	        exit 1; \
	    fi; \
	    echo "Creating $(VENV) with $$($$found --version)"; \
	    "$$found" -m venv --clear $(VENV); \
	fi
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
