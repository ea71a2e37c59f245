# make demo   installs into .venv and runs the main job on the built-in data
# make test   installs into .venv and runs the checks
# make soak   the checks that take long: processes that are killed, again and again
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
DEMO   := runs/demo
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

# A tenth of the paper's weights: the demo's learning rate is four times as high, and its D has minutes to learn, not hours.
DEMO_KD := --kd=agkd,cgkd --kd-weight-agkd=0.044 --kd-weight-cgkd=1 --kd-weight-pd=0.01

.PHONY: demo test soak clean

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
	$(PY) train.py --outdir=$(DEMO) --data=demo --cfg=demo --aug=ada $(DEMO_KD)
	@run=$$(ls -d $(DEMO)/0* | tail -n 1) && network=$$(ls $$run/network-snapshot-*.safetensors | tail -n 1) && set -x && \
	$(PY) generate.py --network=$$network --grid=8x6 --outdir=$$run/samples && \
	$(PY) calc_metrics.py --network=$$network --metrics=clipfid1k_full --teacher=demo && \
	{ set +x; } 2>/dev/null && \
	echo && echo "Look at:" && \
	echo "  $$run/reals.png           the 100 drawn faces it learnt from" && \
	echo "  $$run/fakes_init.png      before the training; fakes000008.png, fakes000016.png, ... during it" && \
	echo "  $$run/samples/grid.png    what it makes now" && \
	echo "  $$run/metric-clipfid1k_full.jsonl    distance to the faces, as the demo teacher sees them; smaller is better"

# One thread each: several wait for each other at every step, which costs minutes where the cores are shared.
test: $(VENV)/installed-test
	$(PY) -m ruff check .
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses=2 --dist=loadfile

soak: $(VENV)/installed-test
	$(PIP) nvidia-cuda-nvrtc-cu12
	OMP_NUM_THREADS=1 $(PY) -m pytest -m soak

clean:
	rm -rf $(VENV)
