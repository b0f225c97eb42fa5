# The order of the stages, and the environment. `make` with no target lists the targets. Each stage
# is `digits STAGE`, which does its work if it is due; pipeline/artifacts.py decides that.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or newer is needed, this is $(MAKE_VERSION). macOS: `brew install make`, then type gmake)
endif

# `make help` prints these lines. A space before # would become part of the value.
DATASET ?= kaggle# kaggle, sample, mnist, fashion, or a folder or zip with the three CSVs
CONFIG ?= default# a preset: sprint, fast, default, best, demo, a tutorial's, or a TOML file
MESSAGE ?=# the description of a submission
WAIT ?= 120# seconds to wait for the score
FORCE ?=# 1 submits this exact file a second time
YES ?=# 1 lets clean and distclean remove networks without asking
JOBS ?=# folds to train at a time; by default one for each GPU, or one
ENGINE ?= local# where to train: local; ray, a Ray cluster (RAY_ADDRESS=) or a local one; kaggle
ACCELERATOR ?= auto# what a fold needs there: none, gpu, or a kind: T4 (Ray), NvidiaTeslaT4 (Kaggle)
RAY_ADDRESS ?=# the address of a Ray cluster
RAY_RUNTIME_ENV ?=# a YAML file: what Ray installs on the nodes
TENSORBOARD ?=# 1 writes the curves for TensorBoard, to data/DATASET/CONFIG/logs/
VENV ?= .venv# the environment, which clones may share; none uses the packages of PYTHON
PYTHON ?= python3# the Python to create it with, or to use: 3.11, 3.12 or 3.13
EXTRAS ?=# gpu for NVIDIA's libraries, onnx for `digits export` to ONNX

in_columns = awk -F'|' '{ printf "  %-18s %s\n", $$1, $$2 }'
help: ## list targets and variables
	@echo 'targets'; sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | $(in_columns)
	@echo 'start with: make demo; then make submission CONFIG=fast'
	@echo 'variables'; sed -n 's/^\([A-Z_]*\) ?= *\([^#]*\)# /\1=\2|/p' Makefile | $(in_columns)

# --- a misspelt word would silently do something else ---------------------------------------------
TARGETS   := $(shell sed -n 's/^\([a-z-]*\):.*## .*/\1/p' Makefile)
VARIABLES := $(shell sed -n 's/^\([A-Z_]*\) ?=.*/\1/p' Makefile)
typed := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
near   = $(shell $(PYTHON) -c 'import difflib, sys; print(*(", did you mean %s?" % word for word in difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1)))' $(1) 2>/dev/null)
known  = $(if $(2),$(error there is no $(1) $(2)$(call near,$(firstword $(2)) $(3)) (`make help` lists them)))
$(if $(filter 0,$(MAKELEVEL)),$(call known,variable,$(filter-out $(VARIABLES),$(typed)),$(VARIABLES)))
$(call known,target,$(filter-out $(TARGETS) $(VENV),$(MAKECMDGOALS)),$(TARGETS))

# Make misreads spaces, colons and percent signs in file names.
$(if $(filter 1,$(words $(VENV))$(findstring :,$(VENV))$(findstring %,$(VENV))),, \
  $(error VENV must be one path without spaces, : and %, not "$(VENV)"; a relative path works too: make VENV=.venv))
$(foreach name,FORCE YES TENSORBOARD,$(if $(filter-out 0 1 no yes false true,$($(name))), \
  $(error $(name) must be 1, yes or true, or 0, no, false or empty, not "$($(name))")))
$(if $(and $(filter distclean,$(MAKECMDGOALS)),$(filter-out distclean,$(MAKECMDGOALS))), \
  $(error distclean first, then make the rest with a second command))

ifneq ($(filter demo,$(MAKECMDGOALS)),)
$(if $(filter DATASET CONFIG,$(typed)),$(error demo is always DATASET=sample CONFIG=demo; for others: make submission DATASET=… CONFIG=…))
DATASET := sample
CONFIG  := demo
endif

# --- the stages -----------------------------------------------------------------------------------
PY     = $(if $(filter none,$(VENV)),$(PYTHON),$(VENV)/bin/python)
DIGITS = $(PY) -m pipeline
quoted = '$(subst ','\'',$(value $(1)))'
switch = $(if $(filter 1 yes true,$($(1))),$(2))
CHOICE = --dataset $(call quoted,DATASET) --config $(call quoted,CONFIG)
STAGE  = @$(DIGITS) $@ $(CHOICE)
TRAINING  = --engine $(call quoted,ENGINE) --accelerator $(call quoted,ACCELERATOR) $(or $(at_a_time),$(without_j))
at_a_time = $(if $(JOBS),--jobs $(call quoted,JOBS))
without_j = $(if $(filter-out -j1,$(filter -j%,$(MAKEFLAGS))),$(warning -j has no effect; to train two folds at a time: JOBS=2))
SUBMITTING = --message $(call quoted,MESSAGE) --wait $(call quoted,WAIT) $(call switch,FORCE,--force)

download: $(VENV) ; $(STAGE) ## 1. fetch the three CSVs
preprocess: download ; $(STAGE) ## 2. turn the CSVs into arrays
split: preprocess ; $(STAGE) ## 3. assign each row to a fold
train: split $(if $(filter ray,$(ENGINE)),tools) ; $(STAGE) $(TRAINING) ## 4. train a network for each fold
ensemble: train ; $(STAGE) ## 5. average the folds' predictions
write: ensemble ; $(STAGE) ## 6. write the CSV for the competition
report: write ; $(STAGE) ## 7. write the report: how training went, and every error

demo: submission ## everything, on 5,000 real digits; no account, no download
submission: report ; @$(DIGITS) result $(CHOICE) ## the CSV and the report, and everything they need
submit: write ; $(STAGE) $(SUBMITTING) ## the CSV, sent to Kaggle: MESSAGE="what is new"

# --- around them ----------------------------------------------------------------------------------
status: $(VENV) ; $(STAGE) ## show what is fresh, what is stale and why
CLEAN = @$(ANY) -m pipeline.clean $@ --venv $(call quoted,VENV) $(call switch,YES,--yes)
clean: ; $(CLEAN) ## remove what can be rebuilt; raw data and submissions stay
distclean: ; $(CLEAN) ## remove all data and the environment; submissions stay

test: tools ; @$(PY) -m pytest ## run all tests
test-fast: tools ; @$(PY) -m pytest -m "not slow" --ignore tests/system ## run the quick tests
test-ray: tools ; @$(PY) -m pytest -n0 -s tests/system/ray_clusters.py ## the tests on Ray clusters that take minutes
compat: ; @$(PYTHON) tests/compat/run.py ## run the quick tests and a sprint with the versions on Kaggle; 5 GB
lint: tools ; @$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy ## check style and types
bench: $(VENV) ; @$(DIGITS) bench --dataset $(call quoted,DATASET) ## measure the presets against the notebook; half an hour
chosen = $(if $(filter file,$(origin $(1))),'',$(call quoted,$(1)))
reproduce: $(VENV) ; @$(DIGITS) reproduce --config $(call chosen,CONFIG) --dataset $(call chosen,DATASET) ## train the networks of well-known tutorials

LOCK = uv pip compile pyproject.toml --universal --generate-hashes --python-version 3.11 --quiet --custom-compile-command 'make lock' --upgrade
lock: ## choose the newest versions that pyproject.toml allows (needs uv)
	$(LOCK) -o requirements.lock
	$(LOCK) --extra dev -c requirements.lock -o tests/requirements.lock $$(sed -n 's/^\([^ ]*\)==.*/--no-emit-package \1/p' requirements.lock)

# --- the environment ------------------------------------------------------------------------------
# Its Python if it runs; else PYTHON, which then creates it.
RUNS := $(shell '$(VENV)/bin/python' -ESc 'print("yes")' 2>/dev/null)
ANY  := $(if $(RUNS),$(VENV)/bin/python,$(PYTHON))
VERSION = import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CHECKED = version=$$($(ANY) -c '$(VERSION)' 2>/dev/null) || { echo "Python 3.11, 3.12 or 3.13 is needed, and" \
  "$(PYTHON) is $${version:-not there}; name one with PYTHON=, for example PYTHON=python3.13" >&2; exit 2; }

unexport MESSAGE DATASET CONFIG PYTHONSAFEPATH
ifeq ($(VENV),none)
$(if $(EXTRAS),$(error VENV=none installs nothing, and so no EXTRAS=$(EXTRAS)))
export KERAS_HOME   := $(CURDIR)/data/.cache/keras
export MPLCONFIGDIR := $(CURDIR)/data/.cache/matplotlib
TOOLS := none
none: ; @$(CHECKED); $(PYTHON) -m pipeline.installed
else
# Without bytecode, which uv leaves to the first import, every stage would compile TensorFlow anew.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
# A stamp's name contains a checksum of what is to be installed: when that changes, it is installed
# again; when only dates change, it is not. What tests, lint and Ray need is installed when they run.
checksum   = $(shell cat $(1) 2>/dev/null | cksum | tr ' ' '-')
INSTALLED := $(VENV)/.installed-$(call checksum,requirements.lock pyproject.toml)$(EXTRAS)
TOOLS     := $(VENV)/.tools-$(call checksum,tests/requirements.lock)
$(VENV): $(INSTALLED)
$(INSTALLED): ; @$(CHECKED); $(ANY) -m pipeline.installation '$@' $(call quoted,EXTRAS)
$(TOOLS): $(INSTALLED) ; @$(PY) -m pipeline.installation '$@'
endif
tools: $(TOOLS) ## install what tests, lint and Ray need
.PHONY: $(TARGETS) $(VENV) $(if $(RUNS),,$(INSTALLED))
.NOTPARALLEL:

# After `make -C` the user is elsewhere, and what is printed has to work there.
export DIGITS_HERE := $(if $(findstring w,$(firstword -$(MAKEFLAGS))),$(PWD))
