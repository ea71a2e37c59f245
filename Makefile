# make demo   installs into .venv and runs the main job on the built-in data
# make test   installs into .venv and runs the checks
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e '.[test]'
	$(PIP) --no-deps clip-anytorch
	touch $@

demo: $(VENV)/installed
	$(PY) train.py --outdir=runs --data=demo --cfg=demo --kd=agkd,cgkd --aug=ada

test: $(VENV)/installed-test
	$(PY) -m ruff check .
	$(PY) -m pytest

clean:
	rm -rf $(VENV)
