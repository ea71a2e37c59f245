"""Parts of pickles, and readers of them."""

import io
import struct

import pytest
import torch
from legacy_files import Call, storage_call

from dnnlib import UserError
from torch_utils.pickles import machine as pickle_machine
from torch_utils.pickles import reader as safe_pickle


def load(data):
    """The content, tensors and arrays read."""
    with safe_pickle.opened(io.BytesIO(data)) as content:
        return plain(content)


def plain(value):
    if isinstance(value, (safe_pickle.Tensor, safe_pickle.Array)):
        return value.read()
    if isinstance(value, pickle_machine.Span):
        return value.read(value.size)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value


def refused(data, *parts):
    """Reading raises UserError of one short line that has all `parts`."""
    with pytest.raises(UserError) as err:
        load(data)
    text = str(err.value)
    assert '\n' not in text and len(text) < 1000 and text.isprintable(), text
    for part in parts:
        assert part in text, text


STORAGE = storage_call(torch.zeros(4))


def tensor_args(*args):
    return Call('torch._utils._rebuild_tensor_v2', *args)


LEGACY = storage_call(torch.zeros(4)).args[0]


TEXT = lambda text: b'X' + struct.pack('<I', len(text)) + text
