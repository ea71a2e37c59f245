"""Snapshots: what they hold, hostile ones, writing beside the training, and which are kept."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest
import torch
from conftest import modules_counted, wait_until

from dnnlib import UserError
from torch_utils import checkpoint
from torch_utils.background_writer import LONGEST_QUEUE, BackgroundWriter
from training import networks
from training.run import files as run_files
from training.run import keep as snapshot_keep
from training.snapshots import files as snapshots
from training.snapshots import pickle_writer as legacy_writer

ROOT = pathlib.Path(__file__).parent.parent
KWARGS = dict(class_name='training.networks.Generator', z_dim=8, c_dim=2, w_dim=8, img_resolution=16, img_channels=3,
              mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=64, channel_max=8))


def make_generator():
    return networks.Generator(**{key: value for key, value in KWARGS.items() if key != 'class_name'}).eval()


@pytest.fixture
def snapshot(tmp_path):
    path = str(tmp_path / 'network-snapshot-000001.safetensors')
    snapshots.save_networks(path, dict(G_ema=make_generator()), dict(G_ema=KWARGS, G=KWARGS), dict(cur_nimg=1000))
    return path


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

def test_metrics_are_added_without_changing_the_networks(snapshot):
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
def test_headers_that_lie_about_the_tensors(snapshot, change):
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
def test_metadata_that_lies_about_the_networks(snapshot, change, message):
    with_info(snapshot, change)
    with pytest.raises(UserError, match=message) as err, modules_counted(limit=100):
        snapshots.load_networks(snapshot)
    assert '\n' not in str(err.value) and len(str(err.value)) < 1000


def test_numbers_that_no_float_can_hold(snapshot):
    with_info(snapshot, set_kwargs(mapping_kwargs=dict(lr_multiplier=10 ** 400)))
    with pytest.raises(UserError, match='mapping_kwargs has the argument lr_multiplier=1000'):
        snapshots.load_networks(snapshot)


@pytest.mark.parametrize('change', [set_kwargs(mapping_kwargs=dict(num_layers=10 ** 7)), set_kwargs(surprise=1),
                                    lambda info: info.clear(),
                                    lambda info: info.update(training=[]),
                                    lambda info: info['networks'].update(G_ema=[])])
def test_nothing_is_converted_that_could_not_be_loaded(snapshot, change, tmp_path):
    with_info(snapshot, change)
    with pytest.raises(UserError, match='x.pkl: cannot be written: '), modules_counted(limit=100):
        legacy_writer.write(str(tmp_path / 'x.pkl'), *checkpoint.load(snapshot, 'network'))
    assert not (tmp_path / 'x.pkl').exists()


@pytest.mark.parametrize('info', ['{', '[1]', '[' * 100000, 'null', 'Infinity'])
def test_metadata_that_is_no_table(snapshot, info):
    edit_header(snapshot, lambda header: header['__metadata__'].update(info=info))
    with pytest.raises(UserError, match='damaged'):
        snapshots.load_networks(snapshot)


def test_metadata_of_a_hundred_megabytes_are_refused_unread(snapshot):
    edit_header(snapshot, lambda header: header['__metadata__'].update(info='[' + '1,' * (48 << 20) + '1]'))
    tracemalloc.start()
    with pytest.raises(UserError, match='its header has 96 MiB, 4 are the limit'):
        snapshots.load_networks(snapshot)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_files_cut_short_anywhere(snapshot):
    data = pathlib.Path(snapshot).read_bytes()
    for percent in range(100):
        pathlib.Path(snapshot).write_bytes(data[:len(data) * percent // 100])
        with pytest.raises(UserError, match='damaged'):
            snapshots.load_networks(snapshot)


# -- writing beside the training

def test_the_writer_works_in_order_and_waits(tmp_path):
    writer, done, gate = BackgroundWriter(), [], threading.Event()
    writer.submit(gate.wait, 10)
    for i in range(3):
        writer.submit(done.append, i)
    assert done == []
    gate.set()
    writer.wait()
    writer.close()
    assert done == [0, 1, 2]


def test_an_error_of_the_writer_reaches_the_caller_and_stops_what_follows():
    writer, done, gate = BackgroundWriter(), [], threading.Event()

    def fail():
        gate.wait(10)
        raise UserError('disk full')
    writer.submit(fail)
    writer.submit(done.append, 1)
    gate.set()
    with pytest.raises(UserError, match='disk full'):
        writer.wait()
    writer.close()
    assert done == []


KILLED = '''
import sys, torch
from torch_utils import checkpoint
from torch_utils.background_writer import BackgroundWriter
writer, path = BackgroundWriter(), sys.argv[1]
x = torch.full([16 << 20], 1.)
writer.submit(checkpoint.save, path, 'network', dict(x=x), dict(n=1)); writer.wait()
print('first', flush=True)
for n in range(2, 1000):
    writer.submit(checkpoint.save, path, 'network', checkpoint.copies(dict(x=x.fill_(n))), dict(n=n)); writer.wait()
'''


@pytest.mark.parametrize('delay', [0.02, 0.05, 0.11])
def test_a_crash_while_writing_leaves_a_whole_snapshot(tmp_path, delay):
    path = tmp_path / 'a.safetensors'
    process = subprocess.Popen([sys.executable, '-c', KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'first\n'
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    tensors, info = checkpoint.load(str(path), 'network')
    assert tensors['x'].shape == (16 << 20,) and (tensors['x'] == info['n']).all()


THREADS = '''
import os, sys, torch
from torch_utils import checkpoint
from torch_utils.background_writer import BackgroundWriter
count = lambda: len(os.listdir('/proc/self/task'))
torch.set_num_threads(2)
weight = torch.ones(256, 256, 3, 3) * 2
weight = weight.to(memory_format=torch.channels_last)
tensors, writer, before = dict(weight=weight, shared=weight), BackgroundWriter(), count()
writer.submit(checkpoint.save, sys.argv[1], 'network', checkpoint.copies(tensors), {}); writer.wait()
print(count() - before)
'''


@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='counts threads as Linux does')
def test_writing_starts_one_thread(tmp_path):
    """Had the writer's thread OpenMP threads of its own, every later operator of the training would wait for its own
    asleep."""
    result = subprocess.run([sys.executable, '-c', THREADS, str(tmp_path / 'a.safetensors')], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    assert result.stdout == '1\n'


def test_the_queue_is_short(tmp_path):
    """A disk that hangs must not fill the memory with copies."""
    writer, gate, submitted = BackgroundWriter(), threading.Event(), []

    def submit_many():
        for i in range(10):
            writer.submit(gate.wait)
            submitted.append(i)
    thread = threading.Thread(target=submit_many, daemon=True)
    thread.start()
    # Now it waits for the first
    wait_until(lambda: len(submitted) > LONGEST_QUEUE and len(writer.pending) == LONGEST_QUEUE)
    assert len(submitted) == LONGEST_QUEUE + 1
    gate.set()
    thread.join()
    writer.wait()
    writer.close()
    assert len(submitted) == 10


def test_check_tells_of_an_error_at_once_and_close_can_cancel():
    writer, done, gate = BackgroundWriter(), [], threading.Event()

    def fail():
        raise UserError('disk full')
    writer.submit(fail)
    with pytest.raises(UserError, match='disk full'):
        wait_until(writer.check)
    writer = BackgroundWriter()
    writer.submit(gate.wait)
    writer.submit(done.append, 1)
    waiting = writer.pending[-1]
    threading.Thread(target=lambda: (wait_until(waiting.cancelled), gate.set())).start()
    writer.close(cancel=True)
    assert done == []


def test_the_training_may_go_on_while_a_copy_is_written(tmp_path):
    x, writer, gate = torch.zeros(10), BackgroundWriter(), threading.Event()
    writer.submit(gate.wait)
    writer.submit(checkpoint.save, str(tmp_path / 'a.safetensors'), 'network', checkpoint.copies(dict(x=x)), {})
    x += 1
    gate.set()
    writer.wait()
    writer.close()
    assert (checkpoint.load(str(tmp_path / 'a.safetensors'), 'network')[0]['x'] == 0).all()


# -- which are kept

@pytest.mark.parametrize('text, keep', [(None, None), ('all', None), ('last=2', dict(last=2)),
                                        ('best=1', dict(last=1, best=1)),
                                        ('last=2, best=1,every=1000', dict(last=2, best=1, every=1000))])
def test_rules(text, keep):
    assert snapshot_keep.parse(text, ['fid5k_full']) == keep


@pytest.mark.parametrize('text, message', [('first=1', "'first=1' is none of last=COUNT, best=COUNT, every=KIMG"),
                                           ('last', "'last' is none"),
                                           ('last=0', "'last=0' is none"), ('last=1,last=2', "'last=2' is none"),
                                           ('', "'' is none"),
                                           ('last=²', "'last=²' is none")])
def test_rules_that_make_no_sense(text, message):
    with pytest.raises(UserError, match=f'--snapshot-keep={text}: {message}'):
        snapshot_keep.parse(text, ['fid5k_full'])


def test_the_best_needs_a_metric():
    with pytest.raises(UserError, match='add --metrics or leave best out'):
        snapshot_keep.parse('best=1', [])


def test_every_means_the_first_after_each_multiple():
    """Ticks end where a batch ends, and several fall between two multiples."""
    names = {f's{nimg}': nimg for nimg in (201_024, 403_008, 806_016, 1_008_000, 1_209_024, 2_016_000, 2_217_984)}
    kept = set(names) - set(snapshot_keep.expendable(names, {}, dict(last=1, every=1000)))
    assert kept == {'s1008000', 's2016000', 's2217984'}


def test_what_is_expendable():
    names = {f's{kimg}': kimg * 1000 for kimg in (200, 400, 600, 800, 1000)}
    scores = dict(s200=9, s400=2, s600=5, s1000=3)
    assert snapshot_keep.expendable(names, scores, dict(last=1)) == ['s200', 's400', 's600', 's800']
    assert snapshot_keep.expendable(names, scores, dict(last=2, best=1)) == ['s200', 's600']
    assert snapshot_keep.expendable(names, scores, dict(last=1, every=400)) == ['s200', 's600']
    assert snapshot_keep.expendable(names, {}, dict(last=1, best=1)) == ['s200', 's400', 's600', 's800']


def test_pruning_deletes_snapshots_and_nothing_else(tmp_path):
    for kimg in (1, 2, 3):
        (tmp_path / f'network-snapshot-{kimg:06d}.safetensors').touch()
    (tmp_path / 'network-snapshot-mine.safetensors').touch()
    records = [dict(metric='m', value=value, snapshot=f'network-snapshot-{kimg:06d}.safetensors')
               for kimg, value in [(1, 5), (2, None), (3, 7)]]
    (tmp_path / 'metric-m.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    snapshot_keep.prune(str(tmp_path), dict(last=1, best=1), ['m'])
    assert sorted(run_files.find_snapshots(tmp_path)) == ['network-snapshot-000001.safetensors',
                                                          'network-snapshot-000003.safetensors']
    assert (tmp_path / 'network-snapshot-mine.safetensors').exists() and (tmp_path / 'metric-m.jsonl').exists()
