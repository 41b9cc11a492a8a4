# Three entrances for a newcomer: `make demo`, `make live` and `make test`. Each works alone on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a red sphere left of a blue cube

.PHONY: demo live test test-browser test-slow lint benchmark wheel clean

demo: $(VENV)/.models
	$(BIN)/latentcast compare "$(PROMPT)" --snr-db 0 --out demo

live: $(VENV)/.live
	$(BIN)/latentcast serve --emulate-links

# One process a core: threads of PyTorch and OpenBLAS beside them would wait for each other in busy loops.
test: $(VENV)/.dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-browser: $(VENV)/.dev
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { echo "the page's tests need Chromium; on Debian: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest --hypothesis-profile explore $$(grep -l "import given" tests/test_*.py)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/.dev
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) dist demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "latentcast needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.models: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[models]'
	@touch $@

$(VENV)/.live: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[serve]'
	@touch $@ $(VENV)/.models

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.models $(VENV)/.live
