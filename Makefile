# The two that a newcomer needs:
#
#   make demo     prints pi, computed by machines of this host
#   make test     runs the tests on every Python from 3.11 to 3.13 that this machine has
#
# and the others:
#
#   make quick    the fast tests (unit and component) on one Python
#   make check    ruff, mypy, pyright, import-linter and the type tests
#   make bench    side by side with others; writes benchmarks/results
#   make format   lets ruff lay the code out
#   make clean    removes everything these targets made
#
# PYTHON=3.12 or PYTHON=/path/to/python restricts test and quick to that one; the others use the
# Python that .venv was made with, the first one found. TESTS="tests/unit -k spool" chooses tests.

PYTHON ?=
TESTS ?= tests
PYTEST ?= -m pytest

# Where it is set, each of the thousand processes of a run compiles the library again.
unexport PYTHONDONTWRITEBYTECODE
export PYTEST MAKE

# The first Python found, for what needs only one.
first = .ci/pythons $(PYTHON) 2>/dev/null | sed -n '1s/^[^ ]* //p'
venv = python=$$($(first)) && [ -n "$$python" ] || { .ci/pythons $(PYTHON); exit 1; }; .ci/venv

# Kept in .venv, so that a home without a cache does not cost a download at every run.
pyright = PYRIGHT_PYTHON_CACHE_DIR=.venv/pyright PYRIGHT_PYTHON_IGNORE_WARNINGS=1 \
    .venv/bin/pyright --pythonpath .venv/bin/python

.PHONY: demo test quick check check-style check-types check-layers bench format clean
.NOTPARALLEL:

demo: .venv/installed
	.venv/bin/python examples/bigpi.py

# Each Python has an environment of its own. All tests run two suites at a time; those that TESTS
# chooses, on one Python after the other, whatever the first ones gave.
ifeq ($(TESTS),tests)
test:
	@.ci/tests $(PYTHON)
else
test:
	@found=$$(.ci/pythons $(PYTHON)) || exit 1; failed=; \
	for version in $$(echo "$$found" | cut -d ' ' -f 1); do \
	    $(MAKE) --no-print-directory test-$$version PYTHON="$$(echo "$$found" | sed -n "s/^$$version //p")" \
	        || failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "tests failed on Python$$failed"; exit 1; }
endif

test-%: .venv-%/installed
	@echo "Python $*"
	.venv-$*/bin/python $(PYTEST) $(TESTS)

quick:
	@found=$$(.ci/pythons $(PYTHON) 2>/dev/null | head -1) && [ -n "$$found" ] || exec .ci/pythons $(PYTHON); \
	$(MAKE) --no-print-directory "test-$${found%% *}" PYTHON="$${found#* }" TESTS="tests/unit tests/component"

# `make -k check` goes on after one of them has failed.
check: check-style check-types check-layers

check-style: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# The type tests are programs as users write them: what they say of the public API must hold for both.
check-types: .venv/installed-dev
	.venv/bin/mypy
	.venv/bin/mypy tests/typing
	$(pyright)
	$(pyright) tests/typing

check-layers: .venv/installed-dev
	.venv/bin/lint-imports

bench: .venv/installed-bench
	.venv/bin/python -m benchmarks.run

format: .venv/installed-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments are made anew or brought up to date when pyproject.toml has changed.
.venv/installed: pyproject.toml
	@$(venv) .venv "$$python" ""
	@touch $@

.venv/installed-dev: pyproject.toml
	@$(venv) .venv "$$python" test,check
	@touch $@

.venv/installed-bench: pyproject.toml
	@$(venv) .venv "$$python" bench
	@touch $@

.PRECIOUS: .venv-%/installed
.venv-%/installed: pyproject.toml
	@.ci/venv .venv-$* "$(PYTHON)" test
	@touch $@
