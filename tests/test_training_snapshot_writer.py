"""Snapshots are written beside the training."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import wait_until
from small_snapshots import ROOT

from dnnlib import UserError
from torch_utils import checkpoint
from torch_utils.background_writer import LONGEST_QUEUE, BackgroundWriter

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
