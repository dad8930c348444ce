# Everything happens in .venv, which is built from requirements.lock and nothing else. `make` alone lists what there is.
.DEFAULT_GOAL := help

# The first Python that will do. `make PYTHON=/path/to/python3.12 ...` chooses another.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

# dvc.yaml says `python`: the one in .venv. A Python in .venv is called by its path, not through the scripts beside it,
# because those name the folder in which they were installed and a checkout may move.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := src
export MLFLOW_DISABLE_TELEMETRY := true
RUN := .venv/bin/python -m

# Which commit `make check` compares with.
REV ?= HEAD

# What `make ci` holds a change against: the branch that it is for.
BASE ?= HEAD

# Another data set is an experiment: DVC writes these values into params.yaml. So few digits want smaller steps, and are
# not what the book's 99.28% is about.
OVERRIDES := -S fetch.dataset=$(DATASET)
ifeq ($(DATASET),digits)
OVERRIDES += -S split.validation=200 -S models.cnn.batch_size=20 -S models.compact.batch_size=20
OVERRIDES += -S evaluate.target_accuracy=0.9
endif

# What is shown should be what params.yaml and the code say.
UP_TO_DATE := $(RUN) dvc status --quiet || \
	{ echo 'error: outputs are behind params.yaml or the code; run make repro first' >&2; exit 1; }
RECORD := $(RUN) mnistflow.record models evaluation metrics data/arrays/validation

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 18

.PHONY: repro
repro: .venv/ready ## set up, run what is out of date, record it, compare: the main job (DATASET=digits: offline, a minute)
	@$(RUN) mnistflow.params '$(DATASET)'
	@$(RUN) mnistflow.scrub
	@$(if $(DATASET),$(RUN) dvc exp run $(OVERRIDES),$(RUN) dvc repro)
	@$(MAKE) --no-print-directory compare
	@$(RECORD)
	@echo
	@echo 'Figures: plots/, models/*/loss.png, data/overview/.   Metrics: metrics/.   Next: make report, make ui'

# The experiment is made again only when the dense model's metrics are no longer those that it holds. Its name is free
# for it: one that was made on another commit would make the name ambiguous.
BASELINES = git for-each-ref --format='%(refname)' 'refs/exps/*/*/baseline'

.PHONY: compare
compare: .venv/ready ## `dvc metrics diff` of the selected model against the dense baseline
	@$(UP_TO_DATE)
	@git show "$$($(BASELINES) | head -n 1):metrics/selected.json" 2>/dev/null | cmp -s - metrics/dense.json || { \
		$(BASELINES) | xargs -r -n 1 git update-ref -d; \
		$(RUN) dvc exp run --quiet --temp --name baseline --set-param evaluate.model=dense > /dev/null; }
	@echo
	@if cmp -s metrics/selected.json metrics/dense.json; then echo 'The selected model is the dense baseline.'; else \
		echo 'The dense baseline against the selected model:'; \
		$(RUN) dvc metrics diff baseline --targets metrics/selected.json; fi
	@echo
	@echo 'Image by image: metrics/comparison.json.   Is that good enough? make check'

.PHONY: report
report: .venv/ready ## everything on one page, report.html: results, errors, the inside of the network, provenance
	@$(UP_TO_DATE)
	@$(RECORD)
	@$(RUN) mnistflow.report models evaluation metrics inside report.html
	@echo 'It is on the runs of its models too.   Next: make ui'

# DVC's table has a column for every file that a stage reads, as hashes. What is left fits a screen; `dvc exp show` has
# it all.
HIDDEN := State|Executor|(data|evaluation|models|src|stages)/|metrics/\w+\.json$$|params\.|.*(_low|_high|_f1|_error|best_epoch)$$

.PHONY: experiments
experiments: .venv/ready ## the DVC experiments in a table: what differs between them, and what came of it
	@$(RUN) dvc exp show --only-changed --drop '$(HIDDEN)'
	@echo 'These are the experiments on this commit; dvc exp show -A has those on others.'
	@echo 'Next: dvc exp apply NAME, dvc plots diff NAME, dvc exp remove NAME; docs/experiments.md shows how'

.PHONY: check
check: .venv/ready ## the gate: fails when the selected model misses its target or got worse (REV=main: than there)
	@$(RUN) mnistflow.gate $(REV)
	@echo 'Next: make register'

.PHONY: ci
ci: .venv/ready ## what a CI asks of a change: dvc.lock in step, repro, what changed, the gate (BASE=origin/main: since there)
	@$(RUN) mnistflow.ci $(BASE) plots ci
	@echo 'It may be merged'

.PHONY: register
register: .venv/ready ## the selected model into MLflow's registry, if it passes the gate
	@$(RUN) mnistflow.registry $(REV) models evaluation metrics data/arrays/validation

.PHONY: ui
ui: .venv/ready ## the MLflow record in a browser, on http://127.0.0.1:5000
	@$(RECORD)
	@$(RUN) mnistflow.ui $(or $(PORT),5000)

.PHONY: record
record: .venv/ready ## bring the MLflow record up to date, also with what its server missed while it was away
	@$(RECORD)
	@echo 'Next: make ui shows the record'

.PHONY: plots
plots: .venv/ready ## interactive curves and confusion matrices as a page: dvc_plots/index.html
	@$(RUN) dvc plots show
	@echo 'Open it in a browser.   Next: dvc plots diff HEAD~1'

.PHONY: test
test: .venv/ready ## lint, types and tests
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) pytest --numprocesses 2
	@echo 'All pass.   Next: make repro; for a change, make ci BASE=main'

.PHONY: soak
soak: .venv/ready ## kill `dvc repro` at random moments and look whether that changes anything (N=100: so often)
	@KILLS=$(or $(N),20) $(RUN) pytest tests/soak.py --capture=no
	@echo 'No kill changed the outcome.   SEED=..., as above, repeats their moments'

.PHONY: sweep
sweep: .venv/cluster ## search for better settings, as sweep.yaml says (ADDRESS=host:6379: on that Ray cluster)
	@$(RUN) dvc repro --quiet preprocess
	@$(RUN) mnistflow.sweep $(if $(ADDRESS),--address '$(ADDRESS)')

.PHONY: seeds
seeds: .venv/cluster ## how much of an accuracy is luck: trainings of MODEL=compact from N=10 seeds, measured once each
	@$(RUN) dvc repro --quiet preprocess
	@.venv/bin/python bench/seeds.py $(or $(MODEL),compact) $(or $(N),10) $(if $(ADDRESS),--address '$(ADDRESS)')
	@echo 'The rows are for README.   Next: git diff bench/results'

.PHONY: bench
bench: .venv/ready ## the book's scripts and ours, side by side: a quarter of an hour (MODE=--quick: three minutes)
	@test -d data/arrays || $(RUN) dvc repro preprocess
	@.venv/bin/python bench/run.py $(MODE)
	@echo 'Those files are in Git.   Next: git diff bench/results'

.PHONY: lock
lock: .venv/ready ## bring requirements.lock in step with pyproject.toml, with the newest versions that fit
	@$(RUN) uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet --output-file requirements.lock
	@$(RUN) uv pip compile pyproject.toml --group dev --group cluster --extra jax --extra sweep --extra postgres --extra s3 \
		--universal --python-version 3.11 --generate-hashes --constraint requirements.lock --no-annotate \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet \
		--output-file requirements-cluster.lock
	@git --no-pager diff --stat requirements.lock requirements-cluster.lock
	@echo 'Both are in step with pyproject.toml.   Next: make test installs requirements.lock and tries it'

.PHONY: cluster
cluster: .venv/cluster ## set up what outgrows one machine too: sweeps, a team's record, a shared cache
	@echo 'Next: docs/cluster.md'

.PHONY: server
server: .venv/cluster ## a team's record: MLflow with PostgreSQL behind it, on http://127.0.0.1:5000, kept in server/
	@.venv/bin/python cluster/server.py server $(or $(PORT),5000) $(or $(DATABASE_PORT),5433)

.PHONY: clean
clean: ## delete outputs; DVC's cache and the MLflow record stay, so that `make repro` brings them back without training
	rm -rf data models evaluation inside ci sweep dvc_plots report.html .mypy_cache .pytest_cache .ruff_cache
	find src stages tests bench -name __pycache__ -type d -exec rm -rf {} +
	@echo "Next: make repro brings the outputs back from DVC's cache"

# uv comes from the lock too, by pip, and installs the rest: bytecode included, because an import of TensorFlow without
# it takes three times as long where Python may not write it later.
.venv/ready: requirements.lock
	@test -n '$(PYTHON)' || { echo 'error: Python 3.11, 3.12 or 3.13 is needed; install one, or make PYTHON=/path/to/it' >&2; exit 1; }
	@echo 'Setting up .venv from requirements.lock: half a minute, more on a slow network ...'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/^ *#/p' requirements.lock > .venv/uv.lock
	@$(RUN) pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement .venv/uv.lock
	@$(RUN) uv pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode requirements.lock
	@touch $@

# The extras on top, everything else in the same versions. A new requirements.lock takes them away again.
.venv/cluster: .venv/ready requirements-cluster.lock
	@echo 'Adding the packages of requirements-cluster.lock to .venv ...'
	@$(RUN) uv pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode requirements-cluster.lock
	@touch $@
