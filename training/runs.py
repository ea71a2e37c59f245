"""Starting the processes that train in a run directory."""

import contextlib
import os
import shutil
import signal
import socket
import sys

import torch

import dnnlib
from dnnlib import UserError, files
from dnnlib.util import user_errors
from torch_utils import distributed

from . import run_changes, run_files
from .find_run import read_options, write_options
from .model_card import write_model_card
from .stop_request import SIGNALS
from .training_loop import training_loop

STARTED = (run_files.STATE_FILE, run_files.STATS_FILE)         # the first files of a run that has got somewhere


def launch(config, run_dir):
    """Trains in `run_dir`, in as many processes as the configuration says."""
    made = not os.path.exists(run_dir)
    files.make_dir(run_dir)
    config.update(run_changes.found_out(read_options(run_dir) or {}))
    if distributed.launched_rank() == 0:
        write_options(run_dir, config)
    try:
        if config.num_gpus > 1 and 'RANK' not in os.environ:
            _spawn(config, run_dir)
        else:
            _train(config, run_dir)
    except (UserError, SystemExit):
        if made and distributed.launched_rank() == 0 and not any(name in os.listdir(run_dir) for name in STARTED):
            shutil.rmtree(run_dir)              # the run never began: leave nothing behind
        raise


def _spawn(config, run_dir):
    """One process per GPU; a signal to this one goes to all, and their exit code is this one's."""
    context = torch.multiprocessing.spawn(_worker, args=(config, run_dir, free_port()), nprocs=config.num_gpus, join=False)
    pass_on = lambda signum, _frame: [os.kill(pid, signum) for pid in context.pids()]
    previous = {sig: signal.signal(sig, pass_on) for sig in SIGNALS if sig != signal.SIGINT}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)         # a terminal sends Ctrl-C to all processes itself
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as err:
        sys.exit(err.exit_code)                                                     # it has said why
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)


def _worker(local_rank, config, run_dir, port):
    os.environ.update(RANK=str(local_rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(config['num_gpus']), MASTER_ADDR='localhost',
                      MASTER_PORT=str(port))
    with user_errors():
        _train(config, run_dir)


def free_port():
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return s.getsockname()[1]


def _train(config, run_dir):
    log = dnnlib.util.Logger(os.path.join(run_dir, run_files.LOG_FILE)) if distributed.launched_rank() == 0 else contextlib.nullcontext()
    with log:
        complete = training_loop(config, run_dir, config['device'])
        if complete and distributed.get_rank() == 0:
            write_model_card(run_dir)
        if not complete:
            distributed.print0(f'Stopped; the state is in {run_dir}. The same command continues.')
    distributed.leave()
