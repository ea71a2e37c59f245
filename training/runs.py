"""Run directories: which one a command means, and starting the processes that train in it."""

import contextlib
import json
import multiprocessing.connection
import os
import re
import shutil
import signal
import socket
import sys
import time

import torch

import dnnlib
from dnnlib import UserError, files
from dnnlib.util import user_errors
from torch_utils import checkpoint, distributed

from . import run_files
from .model_card import write_model_card
from .training_loop import training_loop

OPTIONS_FILE = 'training_options.json'
FREE = ('total_kimg', 'run_dir', 'snapshot_keep', 'snapshot_networks', 'observers')         # may differ when a run is continued
STOPPED = 130                   # exit code of a run that a signal has ended
GRACE_SEC = 20
STARTED = (run_files.STATE_FILE, run_files.STATS_FILE)         # the first files of a run that has got somewhere


def find_run(outdir, config, description, new_run):
    """-> (run directory, 'new' | 'continue' | 'complete'): the last run of the same configuration, else the next free number."""
    if os.path.exists(outdir) and not os.path.isdir(outdir):
        raise UserError(f'--outdir={outdir}: is a file; name a folder')
    runs = {int(m[0]): name for name in sorted(os.listdir(outdir) if os.path.isdir(outdir) else []) if (m := re.match(r'\d{5,}', name))}
    for number in sorted(runs, reverse=True):
        path = os.path.join(outdir, runs[number])
        if not new_run and same_run(path, config):
            return path, 'complete' if run_files.is_complete(path, progress_of(path), config) else 'continue'
    return os.path.join(outdir, f'{max(runs, default=-1) + 1:05d}-{description}'), 'new'


def same_run(path, config):
    """Whether the run in `path` has this configuration; its length may differ, what its snapshots hold and which it keeps, and who watches it."""
    try:
        with open(os.path.join(path, OPTIONS_FILE), encoding='utf-8') as f:
            saved = json.load(f)
    except (OSError, json.JSONDecodeError):
        return False
    strip = lambda c: {key: value for key, value in c.items() if key not in FREE}
    return strip(saved) == strip(json.loads(json.dumps(config)))


def progress_of(path):
    """What the training state says besides the tensors."""
    state = os.path.join(path, run_files.STATE_FILE)
    return checkpoint.load_info(state, 'training-state') if os.path.isfile(state) else dict(cur_nimg=0)


def launch(config, run_dir):
    """Trains in `run_dir`, in as many processes as the configuration says."""
    if config.device == 'cuda' and 'RANK' not in os.environ and config.num_gpus > torch.cuda.device_count():
        raise UserError(f'--gpus={config.num_gpus}: this machine has {torch.cuda.device_count()}; use torchrun to train on several machines')
    made = not os.path.exists(run_dir)
    distributed.agree(lambda: _prepare(config, run_dir))
    _check_shared(run_dir)
    try:
        if config.num_gpus > 1 and 'RANK' not in os.environ:
            _spawn(config, run_dir)
        else:
            _train(config, run_dir)
    except (UserError, SystemExit, distributed.PeerFailure):
        if made and distributed.launched_rank() == 0 and not any(name in os.listdir(run_dir) for name in STARTED):
            shutil.rmtree(run_dir)              # the run never began: leave nothing behind
        raise


def _prepare(config, run_dir):
    files.make_dir(run_dir)
    files.write_text(os.path.join(run_dir, OPTIONS_FILE), json.dumps(dict(config, run_dir=run_dir), indent=2) + '\n')


def _check_shared(run_dir, patience_sec=10):
    """All processes continue from the same files. A network file system may show a new one late."""
    deadline = time.monotonic() + patience_sec
    while not os.path.isfile(os.path.join(run_dir, OPTIONS_FILE)):
        if time.monotonic() > deadline:
            raise UserError(f'{run_dir}: made by the first process, not to be seen on {socket.gethostname()}; --outdir must be on a file system '
                            'that all machines share, under the same path')
        time.sleep(0.1)


def _spawn(config, run_dir):
    """One process per GPU; a signal to this one goes to all, and their exit code is this one's."""
    store = torch.distributed.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)     # outlives any of them
    context = torch.multiprocessing.spawn(_worker, args=(config, run_dir, store.port), nprocs=config.num_gpus, join=False)
    pass_on = lambda signum, _frame: [os.kill(pid, signum) for pid in context.pids()]
    previous = {sig: signal.signal(sig, pass_on) for sig in (signal.SIGTERM,)}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)         # a terminal sends Ctrl-C to all processes itself
    try:
        sys.exit(_join(context.processes))
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)


def _join(processes):
    """Waits for all; where one fails, the others have `GRACE_SEC` to end. -> exit code, or a message of what nobody else can tell."""
    waiting = {process.sentinel: process for process in processes}
    while waiting:
        for sentinel in multiprocessing.connection.wait(waiting):
            process = waiting.pop(sentinel)
            process.join()
            if process.exitcode in (0, STOPPED):
                continue
            _end(waiting.values())
            if process.exitcode < 0:
                return (f'Error: process {processes.index(process)} of {len(processes)} was killed by {signal.Signals(-process.exitcode).name}; '
                        'the same command continues from the last state')
            return process.exitcode             # it has said why
    return max(process.exitcode for process in processes)


def _end(processes):
    """They notice that one is missing at their next exchange, but for one that waits on a GPU."""
    deadline = time.monotonic() + GRACE_SEC
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
        process.join()


def _worker(local_rank, config, run_dir, port):
    os.environ.update(RANK=str(local_rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(config['num_gpus']), MASTER_ADDR='localhost',
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE='True')       # as torchrun does: the store is another process's
    with user_errors(), distributed.one_message():
        _train(config, run_dir)


def _train(config, run_dir):
    log = dnnlib.util.Logger(os.path.join(run_dir, 'log.txt')) if distributed.launched_rank() == 0 else contextlib.nullcontext()
    with log:
        complete = training_loop(config, run_dir, config['device'])
        if complete and distributed.get_rank() == 0:
            write_model_card(run_dir)
        if not complete:
            distributed.print0(f'Stopped; the state is in {run_dir}. The same command continues.')
    distributed.barrier()                       # one that has ended must not look like one that failed while the first still writes
    distributed.leave()
    if not complete:
        sys.exit(STOPPED)
