# Each target does all its own set-up, once: .venv is made with the constraints file.
VENV := .venv
BIN := $(VENV)/bin
CELL_EVAL := .venv-cell-eval
INTEROP := .venv-interop
LOWEST := .venv-lowest
PYTHON ?= python3

LOWEST_PYTHON ?= python3.11
LOWEST_TORCH ?= pinned
DATA ?= ../shared/data/papalexi2021.h5ad

.PHONY: demo test test-long test-docs test-browser test-cell-eval test-interop test-lowest test-cluster \
	soak soak-short docs tutorials lint build bench bench-quick bench-discoveries regimes regimes-quick \
	clean

demo: $(VENV)/.ready
	$(BIN)/samsvae demo --out runs/demo --overwrite

# Without those that need longer, and have a target of their own.
test: $(VENV)/.ready
	$(BIN)/pytest -n 2 --dist worksteal -m "not long" --ignore tests/runs/test_clusters.py \
		--ignore tests/docs --ignore tests/soak --ignore tests/browser --ignore tests/interop

# Tests that train to the end, or try very much.
test-long: $(VENV)/.ready
	$(BIN)/pytest -n 2 -m long tests

# The code of every page of the documentation, and of the README.
test-docs: $(VENV)/.ready
	$(BIN)/pytest -n 2 --dist worksteal tests/docs

# The report in a browser: a Chromium that is there, or the one that apt-get has. Without one these
# tests are skipped, and say so.
test-browser: $(VENV)/.browser
	$(BIN)/pytest tests/browser

# Our scores against those of the package cell-eval, which brings much along: a venv of its own.
test-cell-eval: $(CELL_EVAL)/.ready
	$(CELL_EVAL)/bin/pytest tests/export/test_cell_eval.py

# What models write, in scanpy and pertpy, which bring much along: a venv of its own, too.
test-interop: $(INTEROP)/.ready
	$(INTEROP)/bin/pytest tests/interop

# The fast tests with the lowest versions that pyproject.toml states, on the oldest Python. torch is
# the pinned one, unless LOWEST_TORCH is "lowest": older ones bring gigabytes of CUDA along, but where
# pip is told of an index without. What old versions warn of beside newer ones is not looked at.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python .ci/lowest.py installed
	$(LOWEST)/bin/pytest -n 2 --dist loadfile -m "not slow" --ignore tests/docs --ignore tests/soak \
		-W ignore::DeprecationWarning -W ignore::FutureWarning \
		-W "ignore:Transforming to str index"

# A comparison on a Ray and on a Dask cluster of this machine, of which a worker is killed.
test-cluster: $(VENV)/.cluster
	$(BIN)/pytest tests/runs/test_clusters.py

# What takes long: several processes that train together, and all that may go wrong on the way, as
# often as docs/reliability.md says; the short form does the same a few times. SOAK is the share of
# the whole that is done, SEED what it begins with.
SOAK ?= 1
SEED ?= 0
soak: $(VENV)/.ready
	SAMSVAE_SOAK=$(SOAK) SAMSVAE_SEED=$(SEED) $(BIN)/pytest -rP tests/soak

soak-short: $(VENV)/.ready
	$(BIN)/pytest tests/soak

# The documentation, in build/docs; a warning is an error. Tutorials on simulated screens are run, those
# on real data show the outputs that `make tutorials` kept.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet docs build/docs

# The tutorials on real data, in full: their outputs go to docs/tutorials/kept. TUTORIALS chooses
# some. The files are looked for in the folder that SAMSVAE_DATA names.
TUTORIALS ?=
tutorials: $(VENV)/.docs
	$(BIN)/python docs/run_tutorials.py $(TUTORIALS)

lint: $(VENV)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

build: $(VENV)/.ready
	$(BIN)/python -m build

# DATA, a screen with a split, is for the time to a validation ELBO; left out where there is none.
bench: $(VENV)/.ready
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/evaluation.py
	if [ -e "$(DATA)" ]; then $(BIN)/python benchmarks/quality.py "$(DATA)"; fi

bench-quick: $(VENV)/.ready
	$(BIN)/python benchmarks/step.py --quick
	$(BIN)/python benchmarks/inference.py --quick
	$(BIN)/python benchmarks/evaluation.py --quick
	$(BIN)/python benchmarks/first_answer.py --quick --out runs/bench/first-answer.csv
	$(BIN)/python benchmarks/gpu.py --device cpu --quick

# Error rates, power and coverage on screens in which something is off (docs/situations.md).
regimes: $(VENV)/.ready
	$(BIN)/python benchmarks/regimes.py --out runs/bench/regimes.csv

regimes-quick: $(VENV)/.ready
	$(BIN)/python benchmarks/regimes.py --quick --out runs/bench/regimes-quick.csv

# Calls beside those of scanpy's tests (docs/benchmarks/discoveries.md); an hour.
bench-discoveries: $(VENV)/.bench
	$(BIN)/python benchmarks/discoveries.py

# torch comes first and pinned: asked for in any other way, it may bring gigabytes of CUDA along.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable . \
		--group test --group lint --group build
	touch $@

$(VENV)/.cluster: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[ray,dask]"
	touch $@

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --group bench
	touch $@

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --group docs
	touch $@

$(VENV)/.browser: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --group browser
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| (apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium) \
		|| echo "no Chromium, and apt-get cannot install one: set SAMSVAE_TEST_BROWSER to a path"
	touch $@

# Those that need other packages than the rest: what they ask for is the group of that name.
$(CELL_EVAL)/.ready $(INTEROP)/.ready: .venv-%/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --upgrade "pip>=25.1"
	.venv-$*/bin/pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	.venv-$*/bin/pip install --quiet --constraint constraints.txt --editable . \
		--group test --group $*
	touch $@

$(LOWEST)/.ready: pyproject.toml constraints.txt .ci/lowest.py
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python .ci/lowest.py > $(LOWEST)/lowest.txt
	if [ "$(LOWEST_TORCH)" = lowest ]; then $(LOWEST)/bin/python .ci/lowest.py torch; \
		else grep '^torch==' constraints.txt; fi >> $(LOWEST)/lowest.txt
	$(LOWEST)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(LOWEST)/bin/pip install --quiet --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/pip install --quiet --constraint $(LOWEST)/lowest.txt --editable . --group test
	touch $@

clean:
	rm -rf $(VENV) $(CELL_EVAL) $(INTEROP) $(LOWEST) build dist .mypy_cache .pytest_cache .ruff_cache
