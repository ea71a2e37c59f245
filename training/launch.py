"""Starting the processes that train in a run directory."""

import contextlib
import json
import multiprocessing.connection
import os
import shutil
import signal
import socket
import sys
import time

import torch

import dnnlib
from dnnlib import UserError, files
from dnnlib.util import user_errors
from torch_utils import cpu_threads, distributed
from torch_utils.stop_request import SIGNALS

from .run import changes as run_changes
from .run import files as run_files
from .run import found_out
from .run.card import write_model_card
from .run.find import OPTIONS_FILE, read_options, write_options
from .run.lock import RunLock
from .training_loop import training_loop

GRACE_SEC = 20
STARTED = (run_files.STATE_FILE, run_files.STATS_FILE)         # the first files of a run that has done some work


def launch(config, run_dir):
    """Trains in `run_dir`, in as many processes as the configuration says."""
    if config.device == 'cuda' and 'RANK' not in os.environ and config.num_gpus > torch.cuda.device_count():
        raise UserError(f'--gpus={config.num_gpus}: this machine has {torch.cuda.device_count()}; use torchrun to '
                        'train on several machines')
    made = not os.path.exists(run_dir)
    with contextlib.closing(RunLock(run_dir)) as lock:
        config.update(distributed.agree(lambda: _prepare(config, run_dir, lock)))
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


def _prepare(config, run_dir, lock):
    files.make_dir(run_dir)
    lock.take()
    saved = read_options(run_dir) or json.loads(json.dumps(config))
    if line := run_changes.other_reference(saved, config):
        print(line, flush=True)
    kept = run_changes.precision_to_keep(saved, config)
    found = found_out.read(run_dir, saved.get('found_out'))
    if config['device'] == 'cpu':
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', config['num_gpus']))         # of this machine
        found['cpu_threads'] = cpu_threads.choose(processes, found.get('cpu_threads'))
    write_options(run_dir, dict(config, **kept))
    found_out.write(run_dir, found)
    return dict(kept, found_out=found, batch_gpu=found.get('batch_gpu', config['batch_gpu']))


def _check_shared(run_dir, patience_sec=10):
    """All processes continue from the same files. A network file system may show a new one late."""
    deadline = time.monotonic() + patience_sec
    while not os.path.isfile(os.path.join(run_dir, OPTIONS_FILE)):
        if time.monotonic() > deadline:
            raise UserError(f'{run_dir}: made by the first process, but not visible on {socket.gethostname()}; '
                            '--outdir must be on a file system that all machines share, under the same path')
        time.sleep(0.1)


def _spawn(config, run_dir):
    """One process per GPU; a signal to this one goes to all, and their exit code is this one's."""
    # Lives longer than any of the processes
    store = torch.distributed.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    context = torch.multiprocessing.spawn(_worker, args=(config, run_dir, store.port),
                                          nprocs=config.num_gpus, join=False)
    pass_on = lambda signum, _frame: [os.kill(pid, signum) for pid in context.pids()]
    previous = {sig: signal.signal(sig, pass_on) for sig in SIGNALS if sig != signal.SIGINT}
    # A terminal sends Ctrl-C to all processes itself
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        sys.exit(_join(context.processes))
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)


def _join(processes):
    """Waits for all; where one fails, the others have `GRACE_SEC` to end. -> exit code, or a message if no process can
    print one."""
    waiting = {process.sentinel: process for process in processes}
    while waiting:
        for sentinel in multiprocessing.connection.wait(waiting):
            process = waiting.pop(sentinel)
            process.join()
            if process.exitcode == 0:
                continue
            _end(waiting.values())
            if process.exitcode < 0:
                return (f'Error: process {processes.index(process)} of {len(processes)} was killed by '
                        f'{signal.Signals(-process.exitcode).name}; the same command continues from the last state')
            return process.exitcode             # the process has printed why
    return 0


def _end(processes):
    """The others notice at their next exchange that a process is gone, unless they wait on a GPU."""
    deadline = time.monotonic() + GRACE_SEC
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
        process.join()


def _worker(local_rank, config, run_dir, port):
    os.environ.update(RANK=str(local_rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(config['num_gpus']),
                      MASTER_ADDR='localhost',
                      # As torchrun does: the store belongs to another process
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE='True')
    with user_errors(), distributed.one_message():
        _train(config, run_dir)


def _train(config, run_dir):
    if config['device'] == 'cpu' and not cpu_threads.is_users():
        torch.set_num_threads(config['found_out']['cpu_threads'])
    log = (dnnlib.util.Logger(os.path.join(run_dir, run_files.LOG_FILE)) if distributed.launched_rank() == 0
           else contextlib.nullcontext())
    with log:
        complete = training_loop(config, run_dir, config['device'])
        if complete and distributed.get_rank() == 0:
            write_model_card(run_dir)
        if not complete:
            distributed.print0(f'Stopped; the state is in {run_dir}. The same command continues.')
    # A process that has finished must not look like one that failed while the first still writes
    distributed.barrier()
    distributed.leave()
