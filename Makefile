# make plan STUDY=weighting [SCALE=digits] [SEEDS=20] [WORKERS=2] [SET=...] [PLUGIN=my.py]: what the study will take; trains nothing that counts
# make ablation STUDY=weighting [SCALE=digits] [SEEDS=20 | UNTIL=decided | MAX_HOURS=3] [WORKERS=2] [SET="train.steps=200 evaluate.nfe=[2,8]"] [PLUGIN=my.py]
# make table STUDY=weighting [SCALE=digits] [SEEDS=20] [FORMAT=latex]: the table again, without training; FORMAT is markdown, csv or latex
# make tuning [SEARCH=tuning] [SCALE=digits] [TRIALS=24] and the same options; SEARCH=tradeoff has two objectives
# make publish STUDY=weighting [SCALE=digits], or STUDY=tuning, tradeoff, gallery [SCALES="cells points"], toy, bench: to the committed results
# make reflow RUN=results/local/runs/... [ROUNDS=3] [WORKERS=2] [DISTIL=1] [SET="train.steps=200 reflow.number=20000"]
# SET takes path=value pairs without spaces inside a value.

PYTHON ?= python3
STUDY ?= weighting
SEARCH ?= tuning
SCALE ?= digits
ROUNDS ?= 3
PORT ?= 5000
EXAMPLES ?= 5000
UV_VERSION := 0.13.9

BIN := .venv/bin
READY := .venv/ready
BENCH_READY := .venv/bench-ready
BENCHMARKS := looks aa startup memory logging_cost layout step_time evaluation_cost pair_generation faults peers study_speed
OPTIONS = --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) $(foreach change,$(SET),--set '$(change)') $(foreach file,$(PLUGIN),--plugin $(file))
LENGTH = $(if $(UNTIL),--until $(UNTIL)) $(if $(MAX_HOURS),--max-hours $(MAX_HOURS))

.PHONY: plan ablation tuning reflow table variance toy gallery publish verdicts bench ui test test-slow test-gpu fuzz mutants coverage lint lock

plan: $(READY)
	@$(BIN)/harness plan $(STUDY) $(OPTIONS) $(if $(WORKERS),--workers $(WORKERS))

ablation: $(READY)
	@$(BIN)/harness ablate $(STUDY) $(OPTIONS) $(LENGTH) $(if $(WORKERS),--workers $(WORKERS))

tuning: $(READY)
	@$(BIN)/harness tune $(SEARCH) $(OPTIONS) $(LENGTH) $(if $(TRIALS),--trials $(TRIALS)) $(if $(WORKERS),--workers $(WORKERS))

reflow: $(READY)
	@$(BIN)/harness reflow $(or $(RUN),$(error Name a finished run, like make reflow RUN=results/local/runs/...)) --rounds $(ROUNDS) $(if $(WORKERS),--workers $(WORKERS)) $(if $(DISTIL),--distil) $(foreach change,$(SET),--set '$(change)') $(foreach file,$(PLUGIN),--plugin $(file))

table: $(READY)
	@$(BIN)/harness table $(STUDY) $(OPTIONS) $(if $(FORMAT),--format $(FORMAT))

variance: $(READY)
	@$(BIN)/harness variance $(STUDY) $(OPTIONS)

toy: $(READY)
	@$(BIN)/harness toy

gallery: $(READY)
	@$(BIN)/harness gallery $(SCALES)

# From what has ended, without training. The other commands write below results/local alone.
publish: $(READY)
	$(if $(filter file,$(origin STUDY)),$(error Name a study, like make publish STUDY=weighting))
ifeq ($(STUDY),toy)
	@$(BIN)/harness toy --publish
else ifeq ($(STUDY),gallery)
	@$(BIN)/harness gallery --publish $(SCALES)
else ifeq ($(STUDY),bench)
	@cp -v $(or $(wildcard results/local/benchmarks/*.json),$(error No benchmark has ended. Run make bench first)) results/benchmarks/
else
	@$(BIN)/harness publish $(STUDY) --scale $(SCALE) $(foreach file,$(PLUGIN),--plugin $(file))
endif

# What follows from the committed tables: studies/README.md and the marks of tables of an earlier version.
verdicts: $(READY)
	@$(BIN)/harness publish

# An hour or more on two cores that have nothing else to do; make bench BENCHMARKS=peers runs one.
bench: $(BENCH_READY)
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done

ui: $(READY)
	@$(BIN)/harness ui --port $(PORT)

test: $(READY)
	@$(BIN)/pytest -m 'not slow'

# Whole studies that are killed and continued, several ranks, clean clones, servers: a few minutes more.
# make test-slow TESTS=tests/test_clone.py runs some alone.
test-slow: $(READY)
	@$(BIN)/pytest -m slow $(TESTS)

# What only a GPU can show; the tests above leave it out where there is none.
test-gpu: $(READY)
	@$(BIN)/pytest -n 0 -m gpu

# Thousands of settings, files, runs and studies that Hypothesis draws and damages. make fuzz EXAMPLES=20000 SEED=7
fuzz: SEED ?= $(shell date +%s)
fuzz: $(READY)
	@echo "make fuzz EXAMPLES=$(EXAMPLES) SEED=$(SEED)"
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -m 'not slow' tests/test_fuzz_*.py --hypothesis-seed=$(SEED)

# 40 one-line mutations of the source, in a copy: the tests must catch each. make mutants ONLY=harness/core/files.py NUMBER=5
mutants: $(READY)
	@$(BIN)/python tests/mutants.py $(if $(NUMBER),--number $(NUMBER)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

# Which lines and branches no test reaches, in worker processes too; make coverage TESTS=tests/test_files.py runs some alone.
coverage: $(READY)
	@mkdir -p results/local/coverage
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The environment: exact versions from requirements.lock, by uv from PyPI. A stamp marks it whole.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")'
	@echo "setting up .venv (a few GB, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(READY)

# What the benchmarks compare with, on top of the exact versions.
$(BENCH_READY): $(READY)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint requirements.lock --editable '.[bench]'
	@touch $(BENCH_READY)

lock: $(READY)
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet --upgrade --output-file requirements.lock
