# The order of the stages. `make` with no target lists the targets.
#
# Each stage is `digits STAGE`, which does its work if it is due; pipeline/artifacts.py decides that.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or newer is needed, this is $(MAKE_VERSION). macOS: `brew install make`, then type gmake)
endif

DATASET ?= kaggle
CONFIG  ?= default
MESSAGE ?=
WAIT    ?= 120
FORCE   ?=
YES     ?=
VENV    ?= .venv
PYTHON  ?= python3
EXTRAS  ?=
ENGINE  ?= local
ACCELERATOR ?= auto

# Make misreads spaces, colons and percent signs in file names.
ifneq ($(words $(VENV))$(findstring :,$(VENV))$(findstring %,$(VENV)),1)
$(error VENV must be one path without spaces, : and %, not "$(VENV)"; a relative path works too: make VENV=.venv)
endif

ifeq ($(VENV)$(if $(EXTRAS),+),none+)
$(error VENV=none installs nothing, and so no EXTRAS=$(EXTRAS))
endif

ifneq ($(filter-out local ray kaggle,$(ENGINE))$(words $(ENGINE)),1)
$(error ENGINE must be local, ray or kaggle, not "$(ENGINE)")
endif

# A misspelt variable would silently do something else.
VARIABLES = DATASET CONFIG MESSAGE WAIT FORCE VENV PYTHON EXTRAS ENGINE RAY_ADDRESS RAY_RUNTIME_ENV ACCELERATOR TENSORBOARD YES
given     = $(filter command,$(firstword $(origin $(1))))
ifeq ($(MAKELEVEL),0)
unknown := $(filter-out $(VARIABLES),$(foreach name,$(.VARIABLES),$(if $(call given,$(name)),$(name))))
ifneq ($(unknown),)
$(error there is no variable $(unknown); the variables are $(VARIABLES))
endif
endif

ifeq ($(and $(strip $(DATASET)),$(strip $(CONFIG))),)
$(error DATASET and CONFIG must not be empty; leave them out for kaggle and default)
endif

ifneq ($(filter demo,$(MAKECMDGOALS)),)
ifneq ($(call given,DATASET)$(call given,CONFIG),)
$(error demo is always DATASET=sample CONFIG=demo; for another choice: make submission $(strip $(foreach name,DATASET CONFIG,$(if $(call given,$(name)),$(name)=$($(name))))))
endif
DATASET := sample
CONFIG  := demo
endif

ifneq ($(filter clean distclean,$(MAKECMDGOALS)),)
ifneq ($(filter-out clean distclean,$(MAKECMDGOALS)),)
$(error clean first, then make the rest with a second command)
endif
endif

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
ifeq ($(VENV),none)
export VENV
export KERAS_HOME   := $(CURDIR)/data/.cache/keras
export MPLCONFIGDIR := $(CURDIR)/data/.cache/matplotlib
else
# Without bytecode, which uv leaves to the first import, every stage would compile TensorFlow anew.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
endif
# After `make -C` the user is elsewhere, and what is printed has to work there.
ifneq ($(findstring w,$(firstword -$(MAKEFLAGS))),)
export DIGITS_HERE := $(PWD)
endif
.NOTPARALLEL:
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*## .*/\1/p' Makefile)

PY     = $(if $(filter none,$(VENV)),$(PYTHON),$(VENV)/bin/python)
DIGITS = $(PY) -m pipeline
quoted = '$(subst ','\'',$(1))'
CHOICE = --dataset $(call quoted,$(DATASET)) --config $(call quoted,$(CONFIG))
STAGE  = @$(DIGITS) $@ $(CHOICE)

# `make -j2` trains two folds at a time, `make -j` all of them; by default, each GPU trains one.
jobs     = $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(if $(filter -j,$(MAKEFLAGS)),100))
kind = $(if $(filter-out auto,$(ACCELERATOR)),--accelerator $(call quoted,$(ACCELERATOR)) )
TRAINING = $(kind)--engine $(ENGINE)$(if $(jobs), --jobs $(jobs))

# --- the stages -----------------------------------------------------------------------------------

download: $(VENV) ; $(STAGE) ## 1. fetch the three CSVs
preprocess: download ; $(STAGE) ## 2. turn the CSVs into arrays
split: preprocess ; $(STAGE) ## 3. assign each row to a fold
train: split $(if $(filter ray,$(ENGINE)),tools) ; $(STAGE) $(TRAINING) ## 4. train a network for each fold; -j2 trains two at a time
ensemble: train ; $(STAGE) ## 5. average the folds' predictions
write: ensemble ; $(STAGE) ## 6. write the CSV for the competition
report: write ; $(STAGE) ## 7. write the report: how training went, and every error

demo: submission ## everything, on 5,000 real digits; no account, no download
submission: report ; @$(DIGITS) result $(CHOICE) ## the CSV and the report, and everything they need
submit: write ; $(STAGE) $(SUBMITTING) ## the CSV, sent to Kaggle: MESSAGE="what is new"

SUBMITTING = --message $(call quoted,$(MESSAGE)) --wait $(call quoted,$(WAIT)) $(if $(FORCE),--force)

# --- around them ----------------------------------------------------------------------------------

status: $(VENV) ; $(STAGE) ## show what is fresh, what is stale and why

test: tools ; @$(PY) -m pytest ## run all tests
test-fast: tools ; @$(PY) -m pytest -m "not slow" --ignore tests/system ## run the quick tests
test-ray: tools ; @$(PY) -m pytest -n0 -s tests/system/ray_clusters.py ## the tests on Ray clusters that take minutes
compat: ; @$(PYTHON) tests/compat/run.py ## run the quick tests and a sprint with the versions on Kaggle; 5 GB
soak: tools ; @$(PY) tests/system/soak.py ## edit, run, kill, run and compare, 200 times; about an hour
lint: tools ## check style and types
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

bench: $(VENV) ; @$(DIGITS) bench --dataset $(call quoted,$(DATASET)) ## measure the presets against the notebook; half an hour

chosen = $(if $(filter file,$(origin $(1))),'',$(call quoted,$($(1))))
reproduce: $(VENV) ; @$(DIGITS) reproduce --config $(call chosen,CONFIG) --dataset $(call chosen,DATASET) ## train the networks of well-known tutorials

LOCK = uv pip compile pyproject.toml --universal --generate-hashes --python-version 3.11 --quiet \
       --custom-compile-command 'make lock'
lock: ## choose the newest versions that pyproject.toml allows (needs uv)
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --upgrade --extra dev -c requirements.lock -o tests/requirements.lock \
	  $$(sed -n 's/^\([^ ]*\)==.*/--no-emit-package \1/p' requirements.lock)

# What training took hours for is not removed by a slip of the hand.
define ask
n=$$(find data -name weights.keras 2>/dev/null | wc -l); \
if [ $$n -gt 0 ] && [ -z '$(YES)' ]; then \
  hours=$$(find data -path '*/fold-*/manifest.json' -exec cat {} + | awk '/"seconds"/ { s += $$2 } END { printf "%.1f", s / 3600 }'); \
  printf '%s removes %s networks (%s hours of training), %s in data/\n' $@ $$n $$hours "$$(du -sh data | cut -f1)"; \
  if [ ! -t 0 ]; then echo 'YES=1 confirms it' >&2; exit 2; fi; \
  printf 'remove them? [y/N] '; read answer; case "$$answer" in y|Y|yes) ;; *) echo 'nothing was removed' >&2; exit 2 ;; esac; \
fi
endef

clean: ## remove what can be rebuilt; raw data and submissions stay
	@$(ask)
	@[ ! -d data ] || find data -mindepth 2 -maxdepth 2 ! -name raw -exec rm -rf {} +
	@rm -rf data/.fingerprints.json

one_word = $(subst $() ,|,$(1))
distclean: ## remove all data and the environment; submissions stay
	@$(ask)
	@[ ! -d data ] || find data -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@rm -rf $(if $(filter $(call one_word,$(CURDIR))/%,$(call one_word,$(abspath $(VENV)))),$(call quoted,$(VENV))) # not a shared one

help: ## list targets and variables
	@echo 'targets'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo 'start with: make demo; then make submission CONFIG=fast'
	@echo 'variables'
	@echo '  DATASET=$(DATASET)  kaggle, sample, mnist, fashion, or a folder or zip with the three CSVs'
	@echo '  CONFIG=$(CONFIG)  a preset: sprint, fast, default, best, demo, a tutorial'"'"'s, or a TOML file'
	@echo '  MESSAGE=  the description of a submission'
	@echo '  WAIT=$(WAIT)  seconds to wait for the score'
	@echo '  FORCE=  1 submits this exact file a second time'
	@echo '  YES=  1 lets clean and distclean remove networks without asking'
	@echo '  VENV=$(VENV)  the environment, which clones may share; none uses the packages of PYTHON'
	@echo '  PYTHON=$(PYTHON)  the Python to create it with, or to use: 3.11, 3.12 or 3.13'
	@echo '  ENGINE=$(ENGINE)  where to train: local; ray, a cluster, at RAY_ADDRESS= or its own; kaggle'
	@echo '  ACCELERATOR=$(ACCELERATOR)  what a fold needs there: none, gpu, or a kind: T4 (Ray), NvidiaTeslaT4 (Kaggle)'
	@echo '  TENSORBOARD=  1 writes the curves for TensorBoard, to data/DATASET/CONFIG/logs/'
	@echo '  EXTRAS=$(EXTRAS)  gpu for NVIDIA'"'"'s libraries, onnx for `digits export` to ONNX'

# --- the environment ------------------------------------------------------------------------------

ifeq ($(VENV),none)
TOOLS := $(VENV)
$(VENV):
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); name one with PYTHON=" >&2; exit 2; }
	@$(PYTHON) -m pipeline.installed
else

# A stamp's name contains a checksum of what is to be installed: when that changes, it is installed
# again; when only dates change, it is not. What tests, lint and Ray need is installed when they run.
checksum  = $(shell cat $(1) 2>/dev/null | cksum | tr ' ' '-')
INSTALLED := $(VENV)/.installed-$(call checksum,requirements.lock pyproject.toml)$(EXTRAS)
TOOLS     := $(VENV)/.tools-$(call checksum,tests/requirements.lock)

UV := $(shell command -v uv || true)
ifneq ($(UV),)
CREATE  = $(UV) venv --quiet --python '$(PYTHON)' '$(VENV)'
INSTALL = $(UV) pip install --quiet --python '$(VENV)/bin/python'
else
CREATE  = $(PYTHON) -m venv '$(VENV)'
INSTALL = PIP_USER=0 $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
endif
EDITABLE = $(INSTALL) --no-build-isolation --config-settings editable_mode=compat

$(VENV): $(INSTALLED)

# Without its Python, which may point to one that was removed, the environment is made anew.
ifeq ($(shell test -x '$(VENV)/bin/python' && echo yes),)
.PHONY: $(INSTALLED)
VERSION = import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
endif

$(INSTALLED):
ifdef VERSION
	@version=$$($(PYTHON) -c '$(VERSION)' 2>/dev/null) || { echo "Python 3.11, 3.12 or 3.13 is needed, and" \
	  "$(PYTHON) is $${version:-not there}; name one with PYTHON=, for example: make PYTHON=python3.13 demo" >&2; exit 2; }
	@[ -e '$(VENV)/pyvenv.cfg' ] || ! find '$(VENV)' -type f ! -name .gitignore ! -name CACHEDIR.TAG 2>/dev/null | grep -q . || \
	  { echo "$(VENV) exists and is not an environment; name another folder with VENV=" >&2; exit 2; }
	@rm -rf '$(VENV)'
	@$(CREATE)
endif
	@echo "installing into $(VENV) (once; 2.5 GB)"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(EDITABLE) --no-deps -e .
	@$(if $(EXTRAS),$(EDITABLE) -e '.[$(EXTRAS)]')
	@rm -f '$(VENV)'/.installed-*; touch '$@'

$(TOOLS): $(INSTALLED)
	@echo "installing the tools for tests and Ray into $(VENV) (once; 0.4 GB)"
	@$(INSTALL) --require-hashes -r requirements.lock -r tests/requirements.lock
	@rm -f '$(VENV)'/.tools-*; touch '$@'
endif

.PHONY: $(VENV)
tools: $(TOOLS) ## install what tests, lint and Ray need
