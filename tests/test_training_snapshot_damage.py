"""Snapshots that lie or are damaged."""

import json
import pathlib
import tracemalloc

import pytest
from conftest import modules_counted
from small_snapshots import snapshot  # noqa: F401  (a fixture)

from dnnlib import UserError
from torch_utils import checkpoint
from training.snapshots import files as snapshots
from training.snapshots import pickle_writer as legacy_writer

# -- hostile files


def with_info(path, change):
    """The snapshot with its metadata changed, tensors as they were."""
    tensors, info = checkpoint.load(path, 'network')
    change(info)
    checkpoint.save(path, 'network', tensors, info)


def edit_header(path, change):
    """Rewrites the JSON header of a safetensors file by hand: the library writes valid ones only."""
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:8 + size])
    text = json.dumps(change(header) or header).encode()
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, 'little') + text + data[8 + size:])


def tensor_entries(header):
    return [entry for name, entry in header.items() if name != '__metadata__']


def overlap(header):
    tensor_entries(header)[1]['data_offsets'] = tensor_entries(header)[0]['data_offsets']


def out_of_range(header):
    tensor_entries(header)[-1]['data_offsets'][1] += 1 << 40


def negative(header):
    tensor_entries(header)[0]['data_offsets'][0] = -8


def huge_shape(header):
    tensor_entries(header)[0]['shape'] = [1 << 62, 1 << 62]


def unknown_dtype(header):
    tensor_entries(header)[0]['dtype'] = 'F31'


def other_dtype(header):
    entry = next(e for e in tensor_entries(header) if e['shape'] == [8])
    entry.update(dtype='I32')


@pytest.mark.parametrize('change', [overlap, out_of_range, negative, huge_shape, unknown_dtype, other_dtype])
def test_headers_that_lie_about_the_tensors(snapshot, change):  # noqa: F811
    edit_header(snapshot, change)
    with pytest.raises(UserError, match='network-snapshot-000001.safetensors: the file is damaged') as err:
        snapshots.load_networks(snapshot)
    assert '\n' not in str(err.value)


def set_kwargs(**changes):
    return lambda info: info['networks']['G_ema'].update(changes)


@pytest.mark.parametrize('change, message', [
    (set_kwargs(class_name='os.system', command='true'), "asks for the class 'os.system'"),
    (set_kwargs(class_name=['training.networks.Generator']), 'asks for the class'),
    (set_kwargs(img_resolution=1 << 40), 'G_ema has the argument img_resolution=1099511627776, which no such network '
                                         'can have'),
    (set_kwargs(img_resolution=4096), 'G_ema cannot be built with its arguments'),
    (set_kwargs(img_resolution=32), r"G_ema lacks the tensor 'synthesis\.b32"),
    (set_kwargs(img_resolution='a'), "G_ema has the argument img_resolution='a'"),
    (set_kwargs(mapping_kwargs=dict(num_layers=1 << 19)), 'G_ema.mapping_kwargs has the argument num_layers=524288'),
    (set_kwargs(mapping_kwargs=dict(num_layers=1e308)), r'G_ema.mapping_kwargs has the argument num_layers=1e\+308'),
    (set_kwargs(synthesis_kwargs=dict(resample_filter=[1] * 1000)),
     'G_ema.synthesis_kwargs has the argument resample_filter=a list'),
    (set_kwargs(synthesis_kwargs=dict(channel_max=[[[]]])), 'G_ema.synthesis_kwargs has the argument '
                                                            'channel_max=a list'),
    (set_kwargs(surprise=1), r"G_ema has the argument 'surprise' \(1\), which this project does not know"),
    (set_kwargs(w_dim=9), r'G_ema has the tensor .* with shape .*8.* ask for .*9'),
    (set_kwargs(c_dim=0), r"G_ema has the tensor '?mapping"),
    (lambda info: info.update(networks=['G_ema']), r'networks is "\[\'G_ema\'\]", which it cannot be'),
    (lambda info: info.update(networks=dict(G_ema=3)), "G_ema is '3', which it cannot be"),
    (lambda info: info.update(networks=dict(info['networks'], H=info['networks']['G_ema'])),
     'it does not describe its networks'),
    (lambda info: info.update(training=[]), r"training is '\[\]', which it cannot be"),
    (lambda info: info.update(training=dict(options=dict(training_set_kwargs='x'))),
     "training_set_kwargs is 'x', which it cannot be"),
    (lambda info: info.update(training=dict(class_names=[1])), "class_names is '1', which it cannot be"),
    (lambda info: info.clear(), 'it does not describe its networks'),
])
def test_metadata_that_lies_about_the_networks(snapshot, change, message):  # noqa: F811
    with_info(snapshot, change)
    with pytest.raises(UserError, match=message) as err, modules_counted(limit=100):
        snapshots.load_networks(snapshot)
    assert '\n' not in str(err.value) and len(str(err.value)) < 1000


def test_numbers_that_no_float_can_hold(snapshot):  # noqa: F811
    with_info(snapshot, set_kwargs(mapping_kwargs=dict(lr_multiplier=10 ** 400)))
    with pytest.raises(UserError, match='mapping_kwargs has the argument lr_multiplier=1000'):
        snapshots.load_networks(snapshot)


@pytest.mark.parametrize('change', [set_kwargs(mapping_kwargs=dict(num_layers=10 ** 7)), set_kwargs(surprise=1),
                                    lambda info: info.clear(), lambda info: info.update(training=[]),
                                    lambda info: info['networks'].update(G_ema=[])])
def test_nothing_is_converted_that_could_not_be_loaded(snapshot, change, tmp_path):  # noqa: F811
    with_info(snapshot, change)
    with pytest.raises(UserError, match='x.pkl: cannot be written: '), modules_counted(limit=100):
        legacy_writer.write(str(tmp_path / 'x.pkl'), *checkpoint.load(snapshot, 'network'))
    assert not (tmp_path / 'x.pkl').exists()


@pytest.mark.parametrize('info', ['{', '[1]', '[' * 100000, 'null', 'Infinity'])
def test_metadata_that_is_no_table(snapshot, info):  # noqa: F811
    edit_header(snapshot, lambda header: header['__metadata__'].update(info=info))
    with pytest.raises(UserError, match='damaged'):
        snapshots.load_networks(snapshot)


def test_metadata_of_a_hundred_megabytes_are_refused_unread(snapshot):  # noqa: F811
    edit_header(snapshot, lambda header: header['__metadata__'].update(info='[' + '1,' * (48 << 20) + '1]'))
    tracemalloc.start()
    with pytest.raises(UserError, match='its header has 96 MiB, 4 are the limit'):
        snapshots.load_networks(snapshot)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_files_cut_short_anywhere(snapshot):  # noqa: F811
    data = pathlib.Path(snapshot).read_bytes()
    for percent in range(100):
        pathlib.Path(snapshot).write_bytes(data[:len(data) * percent // 100])
        with pytest.raises(UserError, match='damaged'):
            snapshots.load_networks(snapshot)
