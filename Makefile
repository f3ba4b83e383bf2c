# make demo    the packaged avatar speaks: out/demo.mp4, and out/demo.png with the landmarks drawn
# make test    lint, types, import order and tests
# make lint    the same without the tests
# make wheel-demo   the wheel alone, installed into an empty environment, makes the demo there
# make clean   remove what these made, but for .venv
#
# The first two install into .venv, once: later runs need no network.
# Another Python: make demo PYTHON=python3.12. pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS,
# ...) are heeded.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
LOG    := $(VENV)/install.log
# pip draws its progress on a terminal and keeps silent in a log.
QUIET  := $(if $(MAKE_TERMOUT),,-q)

# A stamp says which checkout was installed: it does not hold once .venv has lost its Python or the
# checkout was moved or copied.
$(foreach stamp,$(VENV)/.demo-installed $(VENV)/.test-installed,$(shell \
	test -x $(PY) && grep -qsxF "$(CURDIR)" $(stamp) || rm -f $(stamp)))

.PHONY: demo test lint wheel-demo clean
.NOTPARALLEL:

demo: $(VENV)/.demo-installed
	@$(PY) -m difftalker.store.assets
	@mkdir -p out
	@$(PY) $(VENV)/bin/difftalker demo --output out/demo.mp4

test: lint
	@$(PY) -m difftalker.store.assets
	$(PY) -m pytest -q -n auto --dist loadfile

lint: $(VENV)/.test-installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) $(VENV)/bin/lint-imports --no-logo

wheel-demo: $(VENV)/.demo-installed
	@scripts/wheel_demo.sh $(PY)

clean:
	rm -rf out/demo.mp4 out/demo.png build dist src/*.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts examples -type d -name __pycache__ -prune -exec rm -rf {} +

# $(call new_enough,PROGRAM,FIX): one line and an end where PROGRAM is no Python 3.11 or newer.
new_enough = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	found=$$(command -v $(1) >/dev/null && $(1) --version 2>&1 | head -n 1); \
	echo "difftalker: found $${found:-nothing} as $(1); wanted Python 3.11 or newer; $(2)" >&2; \
	exit 1; }

# $(call install,WHAT): pip's complaints go to the log; a failure is one line that says the reason.
install = echo "difftalker: installing $(1) into $(VENV)"; \
	$(PY) -m pip install $(QUIET) --no-input -c constraints.txt $(1) 2>$(LOG) || { \
	found=$$(grep -q 'connection broken' $(LOG) && echo "the package registry does not answer" || \
	sed -n 's/^ *ERROR: //p' $(LOG) | head -n 1); \
	echo "difftalker: cannot install $(1): found that $$found; wanted a package registry that pip" \
	"reaches; check the network and pip's settings and run make again (details: $(LOG))" >&2; \
	exit 1; }

$(PY):
	@$(call new_enough,$(PYTHON),name one with PYTHON=/path/to/python3)
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
	$(PYTHON) -m venv --clear --without-pip $(VENV)

# torch alone and first: nothing installed later has then to choose a build of it.
$(VENV)/.demo-installed $(VENV)/.test-installed: pyproject.toml constraints.txt | $(PY)
	@$(call new_enough,$(PY),remove $(VENV) and run make again)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null 2>&1 || { \
	echo "difftalker: found no pip in $(VENV); wanted pip; install the venv part of Python" \
	"(on Debian: python3-venv), remove $(VENV) and run make again" >&2; exit 1; }
	@$(call install,torch)
	@$(call install,-e '.$(if $(findstring test,$@),[dev])')
	@echo "$(CURDIR)" | tee $@ $(if $(findstring test,$@),$(VENV)/.demo-installed) >/dev/null
