# Everything happens in .venv, which is built from requirements.lock and nothing else. `make` alone lists the targets.
.DEFAULT_GOAL := help

# The first Python that fits. `make PYTHON=/path/to/python3.12 ...` chooses another.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

# dvc.yaml says `python`: the one in .venv. A Python in .venv is called by its path, not through the scripts beside it,
# because those name the folder in which they were installed, and a checkout may move.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := src
export MLFLOW_DISABLE_TELEMETRY := true
# A user's settings of pip must not send packages elsewhere.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
# Not those of another DVC project in whose stage this may run.
unexport DVC_ROOT DVC_EXP_NAME DVC_EXP_BASELINE_REV
# Where warnings are errors, DVC and MLflow fail.
unexport PYTHONWARNINGS
# Python writes bytecode when it first imports a module, also in container images that ask it not to. Without bytecode,
# each import of TensorFlow takes three times as long. To compile all packages at set-up takes longer than it saves.
unexport PYTHONDONTWRITEBYTECODE
RUN := .venv/bin/python -m

# The commit that `make check` compares with, and the branch that `make ci` holds a change against.
REV ?= HEAD
BASE ?= HEAD

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 18

.PHONY: repro
repro: .venv/ready ## set up, run what is out of date, record it, compare: the main job (DATASET=digits: offline, a minute)
	@$(RUN) mnistflow.commands.repro '$(DATASET)'

.PHONY: dataset
dataset: .venv/ready ## your own pictures as a data set: FOLDER=... with a folder for each class (NAME=..., ARGS='--size 64 64')
	@$(RUN) mnistflow.commands.dataset '$(FOLDER)' $(if $(NAME),--name '$(NAME)') $(ARGS)

.PHONY: compare
compare: .venv/ready ## `dvc metrics diff` of the selected model against the baseline (needs Git)
	@$(RUN) mnistflow.commands.compare

.PHONY: report
report: .venv/ready ## everything on one page, report.html: results, errors, the inside of the network, provenance
	@$(RUN) mnistflow.commands.report

# DVC's table has a column for every file that a stage reads, as hashes. The rest fits a screen; `dvc exp show` has all.
HIDDEN := State|Executor|(data|evaluation|models|src|stages)/|datasets.yaml|metrics/\w+\.json$$|params\.|.*(_low|_high|_f1|_error|best_epoch|balanced_accuracy)$$

.PHONY: experiments
experiments: .venv/ready ## the DVC experiments in a table: what differs between them, and their results
	@$(RUN) dvc exp show --only-changed --keep '.*selected\.json:(accuracy|errors)$$' --drop '$(HIDDEN)'
	@echo 'These are the experiments on this commit; dvc exp show -A has those on others.'
	@echo 'Next: dvc exp apply NAME, dvc plots diff NAME, dvc exp remove NAME; docs/experiments.md shows how'

.PHONY: check
check: .venv/ready ## the gate: fails when the selected model misses its target or is worse than before (REV=main: than on main)
	@$(RUN) mnistflow.commands.gate '$(REV)'

.PHONY: ci
ci: .venv/ready ## what a CI asks of a change: dvc.lock in step, repro, what changed, the gate (BASE=origin/main: compared with it)
	@$(RUN) mnistflow.commands.ci '$(BASE)'
	@echo 'It may be merged'

.PHONY: register
register: check ## the selected model into MLflow's registry, if it passes the gate
	@$(RUN) mnistflow.tracking.registry

.PHONY: predict
predict: .venv/ready ## what the selected model sees in FILES='seven.png scans/' (MODEL=compact: that one; docs/predict.md)
	@$(RUN) mnistflow.commands.predict $(if $(MODEL),--model '$(MODEL)') $(FILES)

.PHONY: export
export: .venv/export ## the selected model as ONNX and LiteRT in export/, each checked against Keras (MODEL=compact: that one)
	@$(RUN) mnistflow.commands.export $(MODEL)

.PHONY: draw
draw: .venv/ready ## a page to draw on, draw.html: what the selected model sees, layer by layer (MODEL=compact: that one)
	@$(RUN) mnistflow.commands.draw '$(MODEL)'

.PHONY: lesson
lesson: .venv/ready ## the chapter as a lesson, lesson.html: one idea a screen, in English and Korean, for a projector or alone
	@$(RUN) mnistflow.commands.lesson

.PHONY: ui
ui: .venv/ready ## the MLflow record in a browser, on http://127.0.0.1:5000
	@$(RUN) mnistflow.tracking.ui $(or $(PORT),5000)

.PHONY: record
record: .venv/ready ## bring the MLflow record up to date, also with what its server missed while it was away
	@$(RUN) mnistflow.tracking.record
	@echo 'Next: make ui shows the record'

.PHONY: plots
plots: .venv/ready ## interactive curves and confusion matrices as a page: dvc_plots/index.html
	@$(RUN) mnistflow.commands.plots
	@echo 'Open it in a browser.   Next: dvc plots diff HEAD~1'

.PHONY: lint
lint: .venv/ready
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

.PHONY: test
test: lint ## lint, types and the fast tests: two minutes
	@$(RUN) pytest --numprocesses 2 -m 'not slow'
	@echo 'All pass.   Next: make repro; before a change goes out, make test-all'

.PHONY: test-all
test-all: lint ## lint, types and all tests, also those that need a clone, a browser, a server or a kill
	@$(RUN) pytest --numprocesses 2
	@echo 'All pass.   Next: make ci BASE=main'

.PHONY: soak
soak: .venv/ready ## kill `dvc repro` at random moments and look whether that changes anything (N=100: so often)
	@KILLS=$(or $(N),20) $(RUN) pytest tests/soak.py --capture=no
	@echo 'No kill changed the outcome.   SEED=..., as above, repeats their moments'

.PHONY: sweep
sweep: .venv/cluster ## search for better settings, as sweep.yaml says (ADDRESS=host:6379: on that Ray cluster)
	@$(RUN) dvc repro --quiet preprocess
	@$(RUN) mnistflow.search.sweep $(if $(ADDRESS),--address '$(ADDRESS)')

.PHONY: seeds
seeds: .venv/cluster ## how much of an accuracy is luck: trainings of MODEL=compact from N=10 seeds, measured once each
	@$(RUN) dvc repro --quiet preprocess
	@$(RUN) mnistflow.search.seeds $(or $(MODEL),compact) $(or $(N),10) $(if $(ADDRESS),--address '$(ADDRESS)')
	@echo 'The rows are for docs/speed.md.   Next: git diff bench/results'

.PHONY: bench
bench: .venv/ready ## the book's scripts and ours, side by side, three times: an hour (MODE=--quick: five minutes)
	@test -d data/training || $(RUN) dvc repro preprocess
	@.venv/bin/python bench/run.py $(MODE)
	@echo 'That file is in Git.   Next: git diff bench/results'

# The other locks have the same versions of all that requirements.lock has.
COMPILE = $(RUN) uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
ADD = $(COMPILE) --constraint requirements.lock --no-annotate

.PHONY: lock
lock: .venv/ready ## bring the lock files in step with pyproject.toml, with the newest versions that fit
	@$(COMPILE) --group dev --extra cpu --upgrade --output-file requirements.lock
	@$(ADD) --group dev --extra gpu --output-file requirements-gpu.lock
	@$(ADD) --group dev --group cluster --extra cpu --extra jax --extra sweep --extra postgres --extra s3 \
		--output-file requirements-cluster.lock
	@$(ADD) --extra export --output-file requirements-export.lock
	@git --no-pager diff --stat 'requirements*.lock'
	@echo 'All are in step with pyproject.toml.   Next: make test installs requirements.lock and tries it'

.PHONY: gpu
gpu: .venv/gpu ## set up TensorFlow with CUDA in place of the build for processors (Linux, an NVIDIA GPU)
	@echo 'Next: docs/speed.md, or make repro; a new requirements.lock takes CUDA away again'

.PHONY: cluster
cluster: .venv/cluster ## set up what outgrows one machine too: sweeps, a team's record, a shared cache
	@echo 'Next: docs/cluster.md'

.PHONY: server
server: .venv/cluster ## a team's record: MLflow with PostgreSQL behind it, on http://127.0.0.1:5000, kept in server/
	@.venv/bin/python cluster/server.py server $(or $(PORT),5000) $(or $(DATABASE_PORT),5433)

.PHONY: clean
clean: ## delete outputs; DVC's cache and the MLflow record stay, so that `make repro` brings them back without training
	rm -rf data models evaluation inside ci export sweep dvc_plots report.html draw.html lesson.html .mypy_cache .pytest_cache .ruff_cache
	find src stages tests bench -name __pycache__ -type d -exec rm -rf {} +
	@echo "Next: make repro brings the outputs back from DVC's cache"

# Where a company's package index is known to pip alone, uv is told of it.
PIP_CONFIG = $(RUN) pip config get
INDEX = $${PIP_INDEX_URL:-$$($(PIP_CONFIG) install.index-url 2>/dev/null || $(PIP_CONFIG) global.index-url 2>/dev/null)}
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$(INDEX)}}"; \
	test -n "$$UV_DEFAULT_INDEX" && export UV_DEFAULT_INDEX || unset UV_DEFAULT_INDEX; \
	$(RUN) uv pip
OPTIONS := --quiet --python .venv/bin/python --require-hashes
SYNC = $(UV) sync $(OPTIONS)

# pip installs uv from the lock, and uv installs the rest. A .venv without a working pip is made anew: its making was
# interrupted, or its Python is gone.
.venv/ready: requirements.lock
	@test -n '$(PYTHON)' || { echo 'error: Python 3.11, 3.12 or 3.13 is needed; install one, or make PYTHON=/path/to/it' >&2; exit 1; }
	@echo 'Setting up .venv from requirements.lock: seconds, or minutes on a slow network ...'
	@$(RUN) pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@sed -n '/^uv==/,/^ *#/p' requirements.lock > .venv/uv.lock
	@$(RUN) pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement .venv/uv.lock
	@$(SYNC) requirements.lock
	@touch $@

# Either in the place of the other, everything else in the same versions. A new requirements.lock takes them away again.
.venv/cluster .venv/gpu: .venv/%: requirements-%.lock .venv/ready
	@echo 'Setting up .venv from $< (with CUDA, it will have 7 GB) ...'
	@$(SYNC) $<
	@rm -f .venv/export .venv/cluster .venv/gpu
	@touch $@

# Beside what is there, the cluster's packages among it. Setting up anew, or .venv/cluster, takes these away again.
.venv/export: .venv/ready requirements-export.lock
	@echo 'Adding the packages of requirements-export.lock to .venv ...'
	@$(UV) install $(OPTIONS) --requirement requirements-export.lock
	@touch $@
