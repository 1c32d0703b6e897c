# Every target does its own set-up on a fresh machine, into .venv, and reuses it when it is there.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench docs clean

demo: $(READY)  ## real engine data -> teacher -> student -> report
	$(BIN)/crossmodal run configs/doom/run.yaml
	@echo "open runs/doom/report/report.html"

test: check  ## lint, types, tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## long measurements, as ratios within one run
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

docs: $(READY)  ## the pages of docs/ as a site, in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

$(READY): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test]'
	touch $@

clean:
	rm -rf $(VENV) site build *.egg-info .pytest_cache .ruff_cache .mypy_cache
