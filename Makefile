# Two commands do all the set-up: `make quickstart` and `make test`. Every path is relative, so that a clone in a folder
# with a space in its name works.
PYTHON ?= python3
BIN := .venv/bin
OUT := quickstart
SIZE := full
LIMIT := $(if $(shell command -v timeout),timeout 900)
BENCHMARKS := $(filter-out benchmarks/sidebyside.py,$(sort $(shell grep -l "^if __name__ == '__main__'" benchmarks/*.py)))

.PHONY: help install quickstart real-data notebooks test lint format bench peers clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## make the environment (.venv) with the CPU set

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/installed-test: .venv/installed requirements-test.txt
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@

quickstart: .venv/installed ## the main job end to end on SyntheticEarth: corpus to report.html
	PATH="$$PWD/$(BIN):$$PATH" bash launch/quickstart.sh "$(OUT)" $(SIZE)

real-data: .venv/installed ## the main job on the real samples in DEEPSENTINEL_DATA
	PATH="$$PWD/$(BIN):$$PATH" bash launch/real_data.sh runs/real_data

notebooks: .venv/installed-test ## run the notebooks and store what they show
	$(BIN)/python launch/notebooks.py

test: .venv/installed-test lint ## everything CI checks
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: .venv/installed-test ## PyTorch (CPU), which some tests and benchmarks compare with
	$(BIN)/python -m pip install --quiet torch==2.13.0

.venv/installed-bench: .venv/installed-test requirements-bench.txt
	$(BIN)/python -m pip install --quiet -r requirements-bench.txt
	touch $@

bench: .venv/installed-bench ## the benchmarks, each beside its peer, and benchmarks/RESULTS.md (half an hour)
	@failed=; for script in $(BENCHMARKS); do \
	  echo "== $$script"; $(LIMIT) $(BIN)/python $$script || failed="$$failed $$script"; \
	done; \
	$(BIN)/python benchmarks/sidebyside.py || failed="$$failed benchmarks/sidebyside.py"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

clean: ## remove what the quickstart and the tests made (not the environment)
	rm -rf "$(OUT)" .cache .pytest_cache .ruff_cache .mypy_cache
