# nanosweep: `make demo` and `make test` do everything, the set-up included.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# of the test suite; ARGS goes to pytest (make test ARGS=tests/test_search_asha.py)
WORKERS ?= 2
# telemetry of every dependency is off, in whatever is started from here
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help setup demo test lint format bench soak lock clean

help:
	@echo "make demo    a real search on this machine: trials, leaderboard, export, full run, a story (about 5 minutes)"
	@echo "make test    the test suite, without a network where the system allows it"
	@echo "make lint    ruff and mypy"
	@echo "make bench   speed against peers, as ratios (NANOGPT=DIR for nanoGPT's step)"
	@echo "make soak    a search whose workers, nodes, drivers and MLflow server are killed again and again (minutes)"
	@echo "make setup   .venv with the pinned set; the others call it when it is missing"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "nanosweep needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null | grep . || echo missing). Try: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "nanosweep needs Python's venv module; install it (Debian, Ubuntu: apt install python3-venv) and run again" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned set into $(VENV) (a few minutes the first time)"
	@PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(STAMP)

# the commands that a user would type, one after the other; run again, it continues from where it was
demo: $(STAMP)
	$(call show,nanosweep run search/specs/quickstart.yaml)
	$(call show,nanosweep leaderboard quickstart --by loss)
	$(call show,nanosweep export quickstart -o out/quickstart.yaml)
	$(call show,nanosweep train out/quickstart.yaml --max-tokens 2M --resume)
	$(call show,nanosweep sample out/quickstart --prompt "Once upon a time" --num-samples 3)
	@printf '\nNext:\n'
	@printf '  %s\n' '.venv/bin/nanosweep ui                                   # the study in the browser, sorted by objective' \
	  '.venv/bin/nanosweep leaderboard quickstart               # every trial' \
	  '.venv/bin/nanosweep run search/specs/quickstart.yaml --name mine --set corpus=text:FILE   # on your own text' \
	  'README.md                                                # how to write a search of your own'

define show
	@printf '\n$$ %s\n' '$(1)'
	@$(BIN)/$(1)
endef

# a file's tests run in one worker, where they share what takes long to start; tests/conftest.py orders the files
test: $(STAMP)
	@.ci/offline $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP)
	@mkdir -p out/bench
	@$(BIN)/python -m tests.benchmarks.bench_loss --json out/bench/loss.json
	@$(BIN)/python -m tests.benchmarks.bench_overhead --json out/bench/overhead.json
	@$(if $(NANOGPT),$(BIN)/python -m tests.benchmarks.bench_step --nanogpt $(NANOGPT) --json out/bench/step.json,\
	  echo "the step against nanoGPT's: make bench NANOGPT=DIR, a checkout of karpathy/nanoGPT")

soak: $(STAMP)
	@.ci/offline $(BIN)/python -m tests.soak $(ARGS)

# write constraints.txt anew from what is installed, after a deliberate upgrade
lock: $(STAMP)
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.tmp && mv constraints.tmp constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info
