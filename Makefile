# Every target does the set-up it needs. All that must be there is make and Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Compiled modules are kept, also if the environment forbids that: the tests start hundreds of
# processes, and each would compile all of its modules, which takes a second and a half.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-long test-all check format serve bench requirements clean

setup: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml
	@echo "Installing packages into $(VENV), which takes up to a minute." >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/uv.txt requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --editable .
	@touch $(STAMP)

demo: setup
	@$(BIN)/wats demo

# A file system in memory saves the first ring the waits for flushes, if it has 4 GB of room.
ROOM := $(shell df -kP /dev/shm 2>/dev/null | awk 'NR == 2 { print ($$4 > 4000000) }')
TEST_TMPDIR := $(if $(filter 1,$(ROOM)),TMPDIR=/dev/shm)

# Two rings: a test runs in the second one if it has the marker `long`. The tests of the first ring
# often wait for processes that start or end, so three processes keep two cores busy.
# In the second ring one process runs all tests of a module, because they share expensive fixtures.
# The plugin of inline-snapshot rewrites nothing in several processes, but takes time in each test.
PARALLEL := --numprocesses 3 -p no:inline_snapshot

test: setup
	@$(TEST_TMPDIR) $(BIN)/python -m pytest $(PARALLEL) --dist worksteal -m "not long" $(TESTS)

test-long: setup
	@$(BIN)/python -m pytest $(PARALLEL) --dist loadfile --timeout 600 -m long

test-all: test test-long

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python docs/words.py

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

serve: setup
	@$(BIN)/wats serve --sandbox

bench: setup
	@$(BIN)/python -m bench

requirements: setup
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml --output-file requirements/runtime.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml --all-extras --group dev --output-file requirements/dev.txt

clean:
	@rm -rf .venv .venv-* build dist
