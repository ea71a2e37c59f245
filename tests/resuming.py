"""What tests of resuming share: tiny runs in this process or in others that can be killed, and everything that a run
leaves to compare."""

import contextlib
import glob
import json
import multiprocessing
import os
import socket
import time

import torch

from dnnlib.metric_records import read_lines
from dnnlib.util import user_errors
from torch_utils import checkpoint, distributed, training_stats
from training.launch import launch
from training.run.files import BAD_STEPS_FILE, LOG_FILE, STATE_FILE, STATS_FILE, total_images
from training.training import Training
from training.training_loop import Run

TIMES = ('Timing/', 'Resources/')


class Killed(BaseException):
    """Instead of SIGKILL, within a process."""


def make_run(config, run_dir):
    os.makedirs(run_dir, exist_ok=True)
    training_stats._moments.clear()             # a run has a process of its own: its sums do not start from another's
    job = Run(config, str(run_dir), torch.device('cpu'))
    job.resume()
    return job


def run(config, run_dir, save_at=None, die_at=None):
    """Trains or continues. save_at, die_at: numbers of iterations after which a state is saved, and the run ends as if
    killed."""
    job = make_run(config, run_dir)
    iterate = job._iteration

    def iterate_and_die():
        iterate()
        if job.training.batch_idx == save_at:
            job.save_state()
            job.store.wait()
        if job.training.batch_idx == die_at:
            raise Killed
    job._iteration = iterate_and_die
    with contextlib.suppress(Killed):
        job.run()
    return job


def differences(run_a, run_b):
    """Names of what is not the same in two runs: tensors bit for bit, counters, statistics of every tick, steps left
    out."""
    (tensors_a, info_a), (tensors_b, info_b) = (checkpoint.load(os.path.join(path, STATE_FILE), 'training-state')
                                                for path in (run_a, run_b))
    assert len(tensors_a) > 100
    found = [name for name in {**tensors_a, **tensors_b} if not same(tensors_a.get(name), tensors_b.get(name))]
    found += [name for name in info_a if name != 'elapsed_sec' and info_a[name] != info_b.get(name)]
    ticks_a, ticks_b = (read_lines(os.path.join(path, STATS_FILE)) for path in (run_a, run_b))
    found += [STATS_FILE] if len(ticks_a) != len(ticks_b) else []
    for a, b in zip(ticks_a, ticks_b, strict=False):
        found += [name for name in {**a, **b} if name != 'timestamp' and not name.startswith(TIMES)
                  and not close(a.get(name), b.get(name))]
    bad_a, bad_b = (read_lines(os.path.join(path, BAD_STEPS_FILE)) for path in (run_a, run_b))
    return found + ([BAD_STEPS_FILE] if bad_a != bad_b else [])


def same(a, b):
    return a is not None and b is not None and torch.equal(a, b)


def close(a, b):
    """Means and standard deviations of the same numbers, summed in another order."""
    return a is not None and b is not None and a['num'] == b['num'] and all(
        a[key] == b[key] or abs(a[key] - b[key]) <= 1e-5 * max(abs(a['mean']), abs(a['std']))
        for key in ('mean', 'std'))


def tick_lines(run_dir):
    """Numbers of the ticks in log.txt, in order."""
    with open(os.path.join(run_dir, LOG_FILE), encoding='utf-8') as f:
        return [int(line.split()[1]) for line in f if line.startswith('tick ')]


def no_rest(run_dir):
    return glob.glob(os.path.join(run_dir, '*.tmp')) == []


# -- other processes, which begin with everything imported and no thread started

def start(target, *args):
    """A process that can be killed; imports take their time once only."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['train', 'resuming'])
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def train_in_process(config, run_dir, output, limit_bytes=None, ends=True):
    """As train.py does, printing to the file `output`; files may have `limit_bytes`.

    Unless it `ends`, it hangs before the last step.
    """
    import resource
    torch.set_num_threads(1)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    if not ends:
        step, last = Training.step, total_images(config) - config.batch_size
        Training.step = lambda self: step(self) if self.cur_nimg < last else time.sleep(1000)
    with user_errors():
        launch(config, run_dir)


def run_pair(cases, port, rank):
    """One of two processes: for each (config, whole, parts) a whole run, and one in parts."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='localhost',
                      MASTER_PORT=str(port))
    distributed.init('cpu')
    for config, whole, parts in cases:
        run(config, whole)
        run(config, parts, save_at=3, die_at=4)
        distributed.barrier()
        run(config, parts)
    distributed.barrier()
    distributed.leave()


def free_port():
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return s.getsockname()[1]


def read_json(path):
    with open(path, encoding='utf-8') as f:
        return json.load(f)
