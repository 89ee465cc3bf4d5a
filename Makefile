# `make help` lists the targets and their options, from the lines that begin with ## here.

## a study: a file in studies/
STUDY ?= weighting
## a published table: a file in studies/papers/
PAPER ?=
## a search: a file in studies/
SEARCH ?= tuning
## the configuration to start from: a name in studies/scales.py
SCALE ?= digits
## the scales of the gallery, like SCALES="points cells"; all if not given
SCALES ?=
## how `make table` prints: markdown, csv or latex; for the terminal if not given
FORMAT ?=
## number of training seeds: all looks up to it; the default is in the help of the command, like `harness ablate --help`
SEEDS ?=
## UNTIL=decided continues from look to look until every arm is decided
UNTIL ?=
## like UNTIL=decided, but within this number of hours
MAX_HOURS ?=
## number of trials of the search; the search file's if not given
TRIALS ?=
## processes that train side by side; the harness chooses if not given
WORKERS ?=
## what runs the trials: local, slurm, ray, or a plugin's launcher; local if not given
LAUNCHER ?=
## options for the engine about one trial: ON="--partition=gpu --gres=gpu:1 --time=240" for slurm, ON="num_gpus=0.5" for ray
ON ?=
## largest number of trials at a time in the engine; slurm counts each array of 1,000 trials by itself
JOBS ?=
## processes of one trial on one node, each with a GPU of its own; 1 if not given
PROCESSES ?=
## database of a search on several nodes, like postgresql+psycopg://me@host/searches
STORE ?=
## DETACH=1 ends the command once the engine has the trials; the same command finds them again
DETACH ?=
## changes to the configuration, without spaces in a value: SET="train.steps=200 evaluate.nfe=[2,8]"
SET ?=
## Python files with your components
PLUGIN ?=
## a finished run: STUDY/ARM/SEED, its name or its directory
RUN ?=
## number of rounds of reflow
ROUNDS ?= 3
## DISTIL=1 distils the last round to one step
DISTIL ?=
## port of the MLflow pages
PORT ?= 5000
## test files; all if not given
TESTS ?=
## examples that Hypothesis draws per test
EXAMPLES ?= 5000
## seed of fuzz or mutants; if not given, fuzz takes the time and mutants 0
SEED ?=
## number of mutants to test; 40 if not given
NUMBER ?=
## source file to mutate, like harness/core/files.py; any if not given
ONLY ?=
## benchmarks to run
BENCHMARKS := looks aa startup memory workers logging_cost layout step_time evaluation_cost pair_generation faults peers study_speed scale
## part of gpu-check: 1, the network of CIFAR-10 (8 minutes), or 2, the digits and several trials at a time (4 minutes)
PART ?= 1
## Python that creates .venv, 3.11 or newer
PYTHON ?= python3

UV_VERSION := 0.13.9

BIN := .venv/bin
READY := .venv/ready
BENCH_READY := .venv/bench-ready
CLUSTER_READY := .venv/cluster-ready
CLUSTER_LOCK := tests/cluster/requirements.lock
DOCS_READY := .venv/docs-ready
DOCS_LOCK := docs/requirements.lock
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet --upgrade
OPTIONS = --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) $(foreach change,$(SET),--set '$(change)') $(foreach file,$(PLUGIN),--plugin $(file))
COMPARED = $(PAPER) $(foreach file,$(PLUGIN),--plugin $(file)) $(if $(filter-out file,$(origin SCALE)),--scale $(SCALE)) $(if $(SEEDS),--seeds $(SEEDS))
PRINTED = $(if $(FORMAT),--format $(FORMAT))
ENGINE = $(if $(LAUNCHER),--launcher $(LAUNCHER)) $(if $(ON),--on='$(ON)') $(if $(JOBS),--jobs $(JOBS)) $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(STORE),--store '$(STORE)') $(if $(DETACH),--detach)
LENGTH = $(if $(UNTIL),--until $(UNTIL)) $(if $(MAX_HOURS),--max-hours $(MAX_HOURS))

.DEFAULT_GOAL := help

# An option that the target does not have would do nothing: refuse it. The options stand at the end of a target's line.
# Variables of the environment may be given to make too.
ifeq ($(MAKELEVEL),0)
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
ALLOWED := $(if $(GIVEN),$(shell awk -v goals=" $(or $(MAKECMDGOALS),help) " '/^\#\# / { n = split($$0, parts, ": "); text = n > 1 ? parts[n] : ""; next } /^[a-z-]+:/ { sub(/:.*/, ""); if (index(goals, " " $$0 " ")) print text } { text = "" }' Makefile))
$(foreach name,$(filter-out $(ALLOWED) PYTHON HARNESS_% MLFLOW_% CUDA_% OMP_% PIP_% UV_% PYTEST_%,$(GIVEN)),\
  $(error $(name) is not an option of `make $(or $(MAKECMDGOALS),help)`, which has: $(or $(ALLOWED),none)))
endif
.PHONY: help plan ablation tuning cluster-check reflow table tables report variance toy gallery publish verdicts bench ui docs docs-serve test test-slow test-cluster test-gpu gpu-check fuzz mutants coverage lint lock

## List the targets and their options.
help:
	@awk '/^## / { text = substr($$0, 4); next } \
	text && /^[a-z-]+:/ { sub(/:.*/, ""); printf "make %-12s  %s\n", $$0, text } \
	text && /^[A-Z_]+ / { name = $$1; sub(/[^=]*= */, ""); options = options sprintf("%-10s  %s%s\n", name, text, $$0 ? " (default: " $$0 ")" : "") } \
	{ text = "" } \
	END { printf "\nOptions, like make plan STUDY=solver SCALE=points:\n%s", options }' Makefile

## Forecast a study from small trials; store no runs: STUDY SCALE SEEDS WORKERS SET PLUGIN
plan: $(READY)
	@$(BIN)/harness plan $(STUDY) $(OPTIONS) $(if $(WORKERS),--workers $(WORKERS))

## Train and compare the arms of a study: STUDY SCALE SEEDS UNTIL MAX_HOURS WORKERS SET PLUGIN LAUNCHER ON JOBS PROCESSES STORE DETACH
ablation: $(READY)
	@$(BIN)/harness ablate $(STUDY) $(OPTIONS) $(LENGTH) $(if $(WORKERS),--workers $(WORKERS)) $(ENGINE)

## Search for better settings: SEARCH SCALE SEEDS UNTIL MAX_HOURS TRIALS WORKERS SET PLUGIN LAUNCHER ON JOBS PROCESSES STORE DETACH
tuning: $(READY)
	@$(BIN)/harness tune $(SEARCH) $(OPTIONS) $(LENGTH) $(if $(TRIALS),--trials $(TRIALS)) $(if $(WORKERS),--workers $(WORKERS)) $(ENGINE)

## Check whether two nodes of an engine can share the results folder: LAUNCHER ON PLUGIN
cluster-check: $(READY)
	@$(BIN)/harness cluster-check $(if $(LAUNCHER),--launcher $(LAUNCHER)) $(if $(ON),--on='$(ON)') $(foreach file,$(PLUGIN),--plugin $(file))

## Straighten a finished run by rounds of reflow: RUN ROUNDS DISTIL WORKERS SET PLUGIN
reflow: $(READY)
	@$(BIN)/harness reflow $(or $(RUN),$(error Name a finished run, like make reflow RUN=results/local/runs/...)) --rounds $(ROUNDS) $(if $(WORKERS),--workers $(WORKERS)) $(if $(DISTIL),--distil) $(foreach change,$(SET),--set '$(change)') $(foreach file,$(PLUGIN),--plugin $(file))

## Make a study's table again, or compare a published one; without a name, list both: STUDY PAPER SCALE SEEDS FORMAT SET PLUGIN
table: $(READY)
ifneq ($(PAPER),)
	$(if $(SET)$(filter-out file,$(origin STUDY)),$(error A published table takes no STUDY and no SET))
	@$(BIN)/harness compare $(COMPARED) $(PRINTED)
else ifeq ($(origin STUDY),file)
	$(if $(filter-out file,$(origin SCALE))$(SEEDS)$(FORMAT)$(SET)$(PLUGIN),$(error Name a table, like make table STUDY=weighting))
	@$(BIN)/harness list studies && $(BIN)/harness papers && echo 'Name one, like make table STUDY=weighting or make table PAPER=tong2024_table5'
else
	@$(BIN)/harness table $(STUDY) $(OPTIONS) $(PRINTED)
endif

## Compare all published tables with our values, at their own scales; train what is missing: FORMAT
tables: $(READY)
	@$(BIN)/harness compare $(PRINTED)

## Write a study's page again, or a published table's (training what is missing), as one HTML file: STUDY PAPER SCALE SEEDS SET PLUGIN
report: $(READY)
ifneq ($(PAPER),)
	$(if $(SET)$(filter-out file,$(origin STUDY)),$(error A published table takes no STUDY and no SET))
	@$(BIN)/harness compare $(COMPARED)
else
	@$(BIN)/harness report $(STUDY) $(OPTIONS)
endif

## Split the variance of a finished study into training and sampling: STUDY SCALE SEEDS SET PLUGIN
variance: $(READY)
	@$(BIN)/harness variance $(STUDY) $(OPTIONS)

## Train every interpolant with every prediction on points in the plane.
toy: $(READY)
	@$(BIN)/harness toy

## Train one run on every kind of data: SCALES
gallery: $(READY)
	@$(BIN)/harness gallery $(SCALES)

## Copy finished results to the committed ones; STUDY may also be toy, gallery or bench: STUDY SCALE SCALES PLUGIN
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

## Update studies/README.md, and the marks on outdated tables, from the committed tables.
verdicts: $(READY)
	@$(BIN)/harness publish

## Run the benchmarks (an hour or more on two free cores): BENCHMARKS
bench: $(BENCH_READY)
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done

## Serve the MLflow pages on 127.0.0.1: PORT
ui: $(READY)
	@$(BIN)/harness ui --port $(PORT)

## Build the documentation's site in results/local/site, which works without internet.
docs: $(DOCS_READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

## Serve the documentation's site on 127.0.0.1, and build it again when a page changes: PORT
docs-serve: PORT := $(if $(filter file,$(origin PORT)),8000,$(PORT))
docs-serve: $(DOCS_READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:$(PORT)

## Run the quick tests (minutes).
test: $(READY)
	@$(BIN)/pytest -m 'not slow'

## Run the slow tests (killed studies, several ranks, clones, servers): TESTS
test-slow: $(READY)
	@$(BIN)/pytest -m slow $(TESTS)

## Run the tests on Slurm, Ray and PostgreSQL, which they install and start (as root, on Debian): TESTS
test-cluster: $(CLUSTER_READY)
	@$(BIN)/pytest -n 0 -m cluster $(or $(TESTS),tests/cluster)

## Run the tests that need a GPU.
test-gpu: $(READY)
	@$(BIN)/pytest -n 0 -m gpu

## Time training steps on a GPU, as written, compiled and as one CUDA graph: PART
gpu-check: $(READY)
	@$(BIN)/python -m benchmarks.gpu_check $(PART)

## Test with damaged settings, files, runs and studies, drawn by Hypothesis: EXAMPLES SEED
fuzz: SEED := $(or $(SEED),$(shell date +%s))
fuzz: $(READY)
	@echo "make fuzz EXAMPLES=$(EXAMPLES) SEED=$(SEED)"
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -m 'not slow' tests/test_fuzz_*.py --hypothesis-seed=$(SEED)

## Change single lines in a copy of the source, and check that the tests notice: NUMBER SEED ONLY
mutants: $(READY)
	@$(BIN)/python tests/mutants.py $(if $(NUMBER),--number $(NUMBER)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

## List lines and branches that no test reaches: TESTS
coverage: $(READY)
	@mkdir -p results/local/coverage
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

## Check style and types.
lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The environment: uv installs the exact versions of requirements.lock from PyPI. .venv/ready marks it as complete.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")'
	@echo "setting up .venv (about 7 GB, once): downloading and compiling packages takes 1 to 10 minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(READY)

# The libraries that the benchmarks compare with, in addition.
$(BENCH_READY): $(READY)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint requirements.lock --editable '.[bench]'
	@touch $(BENCH_READY)

# The packages of the cluster tests, in addition: requirements.lock does not have them, as setting up installs all it has.
$(CLUSTER_READY): $(READY) $(CLUSTER_LOCK)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint requirements.lock --constraint $(CLUSTER_LOCK) --editable '.[cluster]'
	@touch $(CLUSTER_READY)

# The packages of the documentation's site, in addition.
$(DOCS_READY): $(READY) $(DOCS_LOCK)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint requirements.lock --constraint $(DOCS_LOCK) --editable '.[docs]'
	@touch $(DOCS_READY)

## Update requirements.lock and those of tests/cluster and docs to the newest versions.
lock: $(READY)
	@$(BIN)/$(COMPILE) --extra dev --output-file requirements.lock
	@$(BIN)/$(COMPILE) --extra cluster --constraint requirements.lock --output-file .venv/cluster.lock
	@awk -F== 'NR == FNR { known[$$1]; next } !($$1 in known)' requirements.lock .venv/cluster.lock >$(CLUSTER_LOCK)
	@$(BIN)/$(COMPILE) --extra docs --constraint requirements.lock --output-file .venv/docs.lock
	@awk -F== 'NR == FNR { known[$$1]; next } !($$1 in known)' requirements.lock .venv/docs.lock >$(DOCS_LOCK)
