# The pipeline as a graph. `make` with no target explains itself.
#
# Which artifacts are stale is decided by content, not by dates: one quick call of pipeline/plan.py
# names each stage's files, and those of them whose inputs, parameters or code have changed. Make
# does the rest: the order, what runs side by side under -j, and stopping at the first error.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or newer is needed, this is $(MAKE_VERSION). macOS: `brew install make`, then type gmake)
endif

DATASET ?= kaggle
CONFIG  ?= default
MESSAGE ?=
WAIT    ?= 120
FORCE   ?=
VENV    ?= .venv
PYTHON  ?= python3
EXTRAS  ?=
ENGINE  ?= local

# Make takes a space, a colon or a percent sign in the name of a file for something else.
ifneq ($(words $(VENV))$(findstring :,$(VENV))$(findstring %,$(VENV)),1)
$(error VENV has to be one path without spaces, : and %, and is "$(VENV)"; a relative one will do: make VENV=.venv)
endif

ifneq ($(filter-out local ray,$(ENGINE))$(words $(ENGINE)),1)
$(error ENGINE has to be local or ray, and is "$(ENGINE)")
endif

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

ifneq ($(filter demo,$(MAKECMDGOALS)),)
override DATASET := sample
override CONFIG  := demo
endif

# --- the environment ------------------------------------------------------------------------------

# Its stamp carries a checksum of what is to be installed: a change of it installs again, a mere
# change of dates does not.
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | tr ' ' '-')$(EXTRAS)
ifeq ($(wildcard $(VENV_PYTHON))$(filter help clean distclean lock,$(or $(MAKECMDGOALS),help)),)
ifneq ($(shell $(PYTHON) -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null),True)
$(error Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is none; name one with PYTHON=, for example: make PYTHON=python3.13 demo)
endif
endif

RUN := $(VENV_PYTHON) -m pipeline
quoted = '$(subst ','\'',$(1))'
CHOICE = --dataset $(call quoted,$(DATASET)) --config $(call quoted,$(CONFIG))

$(INSTALLED):
	@echo "installing into $(VENV) (once; about 2 GB, some minutes)"
	@$(PYTHON) -m venv '$(VENV)'
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(if $(EXTRAS),$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[$(EXTRAS)]')
	@rm -f '$(VENV)'/.installed-*; touch '$@'

# --- the stages -----------------------------------------------------------------------------------

STAGES := download preprocess split train ensemble write report submission submit demo
ifneq ($(filter $(STAGES),$(MAKECMDGOALS)),)
ifneq ($(filter clean distclean,$(MAKECMDGOALS)),)
$(error clean first, then make the rest with a second command)
endif

PLAN := $(shell $(or $(wildcard $(VENV_PYTHON)),$(PYTHON)) -m pipeline.plan $(call quoted,$(DATASET)) $(call quoted,$(CONFIG)))
ifeq ($(PLAN),)
$(error nothing was run)
endif
files_of = $(patsubst $(1)=%,%,$(filter $(1)=%,$(PLAN)))

DOWNLOAD   := $(call files_of,download)
PREPROCESS := $(call files_of,preprocess)
SPLIT      := $(call files_of,split)
TRAIN      := $(call files_of,train)
ENSEMBLE   := $(call files_of,ensemble)
WRITE      := $(call files_of,write)
REPORT     := $(call files_of,report)

# What the plan calls stale is made, whatever its date; what it does not, is not.
.PHONY: $(call files_of,stale)
# When its turn comes, what it rests on may have come out the same. Deleted files are no such case.
recheck = $(if $(filter $@,$(call files_of,again)),,--if-stale)
# Another make, with the same plan, may have made them again since.
export DIGITS_ASKED := $(call files_of,asked)

$(DOWNLOAD): | $(INSTALLED)
	@$(RUN) download $(CHOICE) $(recheck)

$(PREPROCESS): | $(DOWNLOAD)
	@$(RUN) preprocess $(CHOICE) $(recheck)

$(SPLIT): | $(PREPROCESS)
	@$(RUN) split $(CHOICE) $(recheck)

# With -j each fold has a process of its own, which takes its share of the machine. Without, and on a
# cluster, the first one's trains all that are due: the import of TensorFlow takes seconds. (After a
# deletion that is every fold, which are named then: those that are named are trained in any case.)
comma     := ,
parallel  = $(filter -j%,$(MAKEFLAGS))
engine    = --engine $(call quoted,$(ENGINE)) $(if $(parallel),--jobs $(or $(parallel:-j%=%),$(words $(TRAIN))))
folder_of = $(patsubst %/,%,$(dir $(1)))
fold_of   = $(patsubst fold-%,%,$(notdir $(call folder_of,$(1))))
member_of = $(notdir $(call folder_of,$(call folder_of,$(1))))
one_fold  = $(RUN) train $(CHOICE) $(engine) $(recheck) --member $(call member_of,$@) --fold $(call fold_of,$@)
each_fold = $(subst $() ,$(comma),$(sort $(foreach fold,$(TRAIN),$(call fold_of,$(fold)))))
all_folds = $(if $(TRAINED),,$(eval TRAINED := yes)$(RUN) train $(CHOICE) $(engine) $(if $(filter $(TRAIN),$(call files_of,again)),--folds $(each_fold)))
$(TRAIN): | $(SPLIT)
	@$(if $(and $(parallel),$(filter local,$(ENGINE))),$(one_fold),$(all_folds))

$(ENSEMBLE): | $(TRAIN)
	@$(RUN) ensemble $(CHOICE) $(recheck)

$(WRITE): | $(ENSEMBLE)
	@$(RUN) write $(CHOICE) $(recheck)

$(REPORT): | $(WRITE)
	@$(RUN) report $(CHOICE) $(recheck)

endif

.PHONY: download preprocess split train ensemble write report submission submit demo

demo: submission ## everything on 5,000 real digits that need no account and no download
submission: $(WRITE) $(REPORT) ## the CSV for the competition, and all that it needs
	@$(if $(call files_of,stale),,echo "nothing to do";) $(VENV_PYTHON) -m pipeline.result $(call quoted,$(DATASET)) $(call quoted,$(CONFIG))
submit: $(WRITE) ## the same, sent to Kaggle; give it MESSAGE="what is new"
	@$(RUN) submit $(CHOICE) --message $(call quoted,$(MESSAGE)) --wait $(call quoted,$(WAIT)) $(if $(FORCE),--force)

download: $(DOWNLOAD) ## 1. the three CSVs
preprocess: $(PREPROCESS) ## 2. the CSVs as arrays
split: $(SPLIT) ## 3. the folds
train: $(TRAIN) ## 4. one network a fold
ensemble: $(ENSEMBLE) ## 5. their probabilities put together
write: $(WRITE) ## 6. the CSV
report: $(REPORT) ## a page to look at: what was learnt, and every error

# --- around them ----------------------------------------------------------------------------------

.PHONY: help status test soak lint bench cost reproduce lock clean distclean

status: $(INSTALLED) ## what is fresh, what is stale and why
	@$(RUN) status $(CHOICE)

test: $(INSTALLED) ## the whole test suite
	@$(VENV_PYTHON) -m pytest

soak: $(INSTALLED) ## 200 times: edit, run, kill, run, compare; about an hour
	@$(VENV_PYTHON) tests/soak.py

lint: $(INSTALLED) ## style and types
	@$(VENV_PYTHON) -m ruff check . && $(VENV_PYTHON) -m ruff format --check . && $(VENV_PYTHON) -m mypy

bench: $(INSTALLED) ## the presets beside the notebook that everybody forks; about half an hour
	@$(RUN).bench $(call quoted,$(DATASET))

cost: $(INSTALLED) ## time and memory of each stage as the data grow; some minutes
	@$(RUN).bench.cost $(call quoted,$(DATASET))

given = $(if $(filter file,$(origin $(1))),'',$(call quoted,$($(1))))
reproduce: $(INSTALLED) ## the networks of well-known tutorials, as published and as reached here
	@$(RUN).reproduce $(call given,CONFIG) $(call given,DATASET)

lock: ## choose the newest versions that pyproject.toml allows (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 \
	  --upgrade --quiet -o requirements.lock

clean: ## remove what can be made again; raw data and submissions stay
	@[ ! -d data ] || find data -mindepth 2 -maxdepth 2 ! -name raw -exec rm -rf {} +
	@rm -rf data/.fingerprints.json

one_word = $(subst $() ,|,$(1))
distclean: ## remove all data and the environment; submissions stay
	@[ ! -d data ] || find data -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@rm -rf $(if $(filter $(call one_word,$(CURDIR))/%,$(call one_word,$(abspath $(VENV)))),$(call quoted,$(VENV))) # not one that is shared

help: ## this
	@echo 'targets'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo 'start with: make demo; then make submission CONFIG=fast'
	@echo 'variables'
	@echo '  DATASET=$(DATASET)  kaggle, sample, mnist, fashion, or a folder or zip with the three CSVs'
	@echo '  CONFIG=$(CONFIG)  sprint, fast, default, best, demo, a tutorial'"'"'s, or a TOML file'
	@echo '  MESSAGE=  what to say of a submission'
	@echo '  WAIT=$(WAIT)  seconds to wait for the score'
	@echo '  FORCE=  1 sends the very same file a second time'
	@echo '  VENV=$(VENV)  the environment; several clones may share one'
	@echo '  PYTHON=$(PYTHON)  the Python that makes it: 3.11, 3.12 or 3.13'
	@echo '  ENGINE=$(ENGINE)  who trains: local, or ray for a cluster, that at RAY_ADDRESS= or one of its own'
	@echo '  EXTRAS=$(EXTRAS)  gpu for NVIDIA'"'"'s libraries'
