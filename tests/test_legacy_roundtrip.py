"""Snapshot -> pickle -> snapshot: the same tensors, arguments, record of the run, and images."""

import numpy as np
import pytest
import torch
from legacy_cases import CASES, inputs_of, run_tools, snapshot_of

import dnnlib
from training.snapshots import pickle_pytorch as legacy_pytorch
from training.snapshots import pickle_writer as legacy_writer

# Where other versions of the format have other ones, the reader spells ours out
DEFAULTS = dict(num_fp16_res=0, w_avg_beta=0.995)


def assert_same_arguments(got, want):
    for key in got.keys() | want.keys():
        if key not in want:
            assert got[key] == DEFAULTS[key]
        elif isinstance(want[key], dict):
            assert_same_arguments(got[key], want[key])
        else:
            assert got[key] == want[key]


def assert_same_snapshot(got, want):
    """Each: (tensors, info)"""
    assert list(got[0]) != [] and set(got[0]) == set(want[0])
    for key, value in want[0].items():
        assert got[0][key].dtype == value.dtype and torch.equal(got[0][key], value), key
    assert set(got[1]['networks']) == set(want[1]['networks'])
    assert_same_arguments(got[1]['networks'], want[1]['networks'])
    assert got[1]['training'] == want[1]['training']


@pytest.mark.parametrize('case', CASES)
def test_there_and_back(case, tmp_path):
    modules, tensors, info = snapshot_of(case)
    first, second = str(tmp_path / 'first.pkl'), str(tmp_path / 'second.pkl')
    legacy_writer.write(first, tensors, info)
    got = legacy_pytorch.read(first)
    assert_same_snapshot(got, (tensors, info))
    legacy_writer.write(second, *got)
    again = legacy_pytorch.read(second)
    assert_same_snapshot(again, got)
    assert again[1] == got[1]
    z, c, _ = [torch.from_numpy(value) for value in inputs_of(case).values()]
    G = dnnlib.util.construct_class_by_name(**got[1]['networks']['G_ema']).eval()
    G.load_state_dict({key.removeprefix('G_ema.'): value for key, value in got[0].items() if key.startswith('G_ema.')})
    assert torch.equal(G(z, c, noise_mode='const'), modules['G_ema'](z, c, noise_mode='const'))


def test_what_other_tools_have_written_again_is_read(tmp_path):
    _, tensors, info = snapshot_of('resnet')
    legacy_writer.write(str(tmp_path / 'x.pkl'), tensors, info)
    np.savez(tmp_path / 'x.in.npz', **inputs_of('resnet'))
    run_tools(tmp_path)
    assert_same_snapshot(legacy_pytorch.read(str(tmp_path / 'again' / 'x.pkl')), (tensors, info))
