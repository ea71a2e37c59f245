"""Pickles that are cut off, changed or made at random: other numbers or one line."""

import io
import os
import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from legacy_files import dumps, persistent_module
from pickle_parts import LEGACY, refused

from dnnlib import UserError
from torch_utils.pickles import machine as pickle_machine
from torch_utils.pickles import reader as safe_pickle
from training import networks
from training.snapshots import pickle_pytorch as legacy_pytorch

# ---------------------------------------------------------------------------
# Damage.


@pytest.fixture(scope='module')
def valid():
    """A small file with a generator in it."""
    kwargs = dict(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1, mapping_kwargs=dict(num_layers=1),
                  synthesis_kwargs=dict(channel_base=32, channel_max=4))
    torch.manual_seed(0)
    return dumps(dict(G_ema=persistent_module(networks.Generator(**kwargs), kwargs)))


def read_or_refuse(data):
    """The networks' tensors, or None where the file is refused, with one line and nothing else."""
    try:
        return legacy_pytorch.read(io.BytesIO(data))[0]
    except UserError as err:
        assert '\n' not in str(err) and len(str(err)) < 1000
        return None


def test_a_file_cut_off_anywhere_is_refused(valid):
    assert read_or_refuse(valid) is not None
    for percent in range(100):
        refused(valid[:len(valid) * percent // 100])


@pytest.mark.filterwarnings('ignore:.*is unknown here and left out')
def test_flipped_bytes_give_other_numbers_or_a_line(valid):
    """Damage inside the numbers of a tensor cannot be seen; any other must not get through, nor crash."""
    want, rng, got_through = read_or_refuse(valid), random.Random(0), 0
    for _ in range(400):
        data = bytearray(valid)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if (tensors := read_or_refuse(bytes(data))) is not None:
            assert {key: value.shape for key, value in tensors.items()} == {key: value.shape
                                                                            for key, value in want.items()}
            got_through += 1
    assert 0 < got_through < 400


@pytest.mark.parametrize('which', ['a folder', 'missing', 'unreadable'])
def test_a_file_that_cannot_be_read(which, tmp_path):
    path = tmp_path / 'a.pkl'
    if which == 'a folder':
        path.mkdir()
    elif which == 'unreadable':
        path.write_bytes(b'x')
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip('runs as root, who can read everything')
    with pytest.raises(UserError, match='a.pkl: cannot be read'), safe_pickle.opened(str(path)):
        pass


# ---------------------------------------------------------------------------
# Fuzzing. What was found is kept as an example.

FUZZ = settings(derandomize=True, deadline=None, database=None, max_examples=300,
                suppress_health_check=list(HealthCheck))
SNIPPETS = list(pickle_machine.STEPS) + [
    b'\x80\x04', b'K\x01', b'J\xff\xff\xff\xff', b'C\x03abc', b'X\x01\x00\x00\x00a', b'\x8c\x05class', b'q\x00',
    b'h\x00', b'\x94', b'M\xff\xff',
    *[f'c{name.rpartition(".")[0]}\n{name.rpartition(".")[2]}\n'.encode() for name in safe_pickle.GLOBALS],
    b'cos\nsystem\n', b'\x8a\x08' + b'\xff' * 7 + b'\x7f', LEGACY, b'B' + struct.pack('<I', len(LEGACY)) + LEGACY,
    b'(K\x00K\x02\x85K\x01\x85t', b')R', b'\x85R', b'}b']


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 10 ** 6), st.sampled_from(['flip', 'cut', 'insert', 'double', 'splice']),
                          st.binary(max_size=8)),
                min_size=1, max_size=6))
@pytest.mark.filterwarnings('ignore:.*is unknown here and left out')
def test_fuzz_changed_files(valid, changes):
    data = bytearray(valid)
    for place, kind, new in changes:
        i = place % max(len(data), 1)
        if kind == 'flip':
            data[i:i + len(new)] = new
        elif kind == 'cut':
            del data[i:i + 1 + len(new)]
        elif kind == 'insert':
            data[i:i] = new
        elif kind == 'double':
            data[i:i] = data[i:i + 50]
        else:
            data[i:i] = SNIPPETS[place % len(SNIPPETS)]
    read_or_refuse(bytes(data))


@FUZZ
@given(st.lists(st.sampled_from(SNIPPETS), max_size=40))
@example([b'ctorch\nSize\n', b'K\x01', b'R'])
def test_fuzz_instructions(snippets):
    data = b''.join(snippets) + b'.'
    try:
        with safe_pickle.opened(io.BytesIO(data)) as content:
            read = [value.read() for value in (content if isinstance(content, (list, tuple)) else [content])
                    if isinstance(value, (safe_pickle.Array,)) or type(value) is safe_pickle.Tensor]
            assert all(isinstance(value, (torch.Tensor, np.ndarray)) for value in read)
    except UserError as err:
        assert '\n' not in str(err) and len(str(err)) < 1000
