"""What snapshots hold."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from small_snapshots import KWARGS, ROOT, make_generator, snapshot  # noqa: F401  (a fixture)

from torch_utils import checkpoint
from training import networks
from training.snapshots import files as snapshots


def test_the_benchmark_says_what_it_takes(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('snapshots_benchmark', ROOT / 'benchmarks' / 'snapshots.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', ['snapshots.py', '--help'])
    with pytest.raises(SystemExit, match='^0$'):
        module.main()
    assert 'only load this one' in capsys.readouterr().out


# -- contents

def test_metrics_are_added_without_changing_the_networks(snapshot):  # noqa: F811
    before = snapshots.load_networks(snapshot)
    snapshots.add_metrics(snapshot, [dict(metric='fid5k_full', value=3.5)])
    after = snapshots.load_networks(snapshot)
    assert after.info['training'] == dict(cur_nimg=1000, metrics=[dict(metric='fid5k_full', value=3.5)])
    for (name, a), (_, b) in zip(before.G_ema.state_dict().items(), after.G_ema.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_only_the_networks_asked_for_are_read(tmp_path):
    path = str(tmp_path / 'a.safetensors')
    snapshots.save_networks(path, dict(G_ema=make_generator(), G=make_generator()), dict(G_ema=KWARGS, G=KWARGS), {})
    assert list(snapshots.load_networks(path, names=['G_ema']).networks) == ['G_ema']
    assert set(checkpoint.load_tensors(path, prefixes=['G'])) == {f'G.{name}' for name in make_generator().state_dict()}


def test_loading_needs_little_more_memory_than_the_file(tmp_path):
    """A generator of 256 pixels with half the channels, 45 MB, in a process of its own; the peak beyond the imports."""
    path = str(tmp_path / 'a.safetensors')
    kwargs = dict(KWARGS, z_dim=512, w_dim=512, img_resolution=256, synthesis_kwargs=dict(channel_base=8192))
    G = networks.Generator(**{key: value for key, value in kwargs.items() if key != 'class_name'})
    snapshots.save_networks(path, dict(G_ema=G), dict(G_ema=kwargs), {})
    out = subprocess.run([sys.executable, '-c', MEASURED, path], cwd=ROOT, capture_output=True, text=True,
                         check=True).stdout
    assert int(out) * 1024 < 1.2 * os.path.getsize(path)


MEASURED = '''
import sys
from training.snapshots import files as snapshots
kb = lambda entry: next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(entry + ':'))
before = kb('VmRSS')
G = snapshots.load_networks(sys.argv[1]).G_ema
assert all(p.sum().isfinite() for p in G.parameters())      # reads all
print(kb('VmHWM') - before)
'''
