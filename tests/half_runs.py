"""Half a run, for the tests of resuming and forking."""

import json
import os

import pytest
from conftest import run_cli, shrink
from resuming import read_json

import train
from torch_utils import devices
from training.run.find import OPTIONS_FILE

# -- other options


def command(data, outdir, *args):
    return [f'--outdir={outdir}', f'--data={data}', '--device=cpu', '--metrics=none', '--workers=0', '--cfg=demo',
            '--batch=8', '--tick=0.008', '--kimg=0.016', *args]


@pytest.fixture
def half_a_run(tiny_data, tmp_path, monkeypatch):
    """-> function of further options that runs train.py with tiny networks; one run has been stopped after 8 of 16
    images."""
    build = train.build_config
    # So that --fp32=1 is another option everywhere
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: True)
    monkeypatch.setattr(train, 'build_config', lambda opts: (lambda config, name: (shrink(config), name))(*build(opts)))
    call = lambda *args, data=tiny_data: run_cli(train.main, *command(data, tmp_path / 'runs', *args))
    code, output = call('--kimg=0.008', '--snap=1')
    assert code == 0, output
    # So that it is not complete
    os.remove(tmp_path / 'runs' / '00000-tiny-demo-kimg0.008-batch8' / 'model_card.md')
    os.rename(tmp_path / 'runs' / '00000-tiny-demo-kimg0.008-batch8',
              tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8')
    options = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8' / OPTIONS_FILE
    options.write_text(json.dumps(dict(read_json(options), total_kimg=0.016)))
    return call
