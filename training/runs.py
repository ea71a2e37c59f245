"""Run directories: which one a command means, and starting the processes that train in it."""

import contextlib
import json
import os
import re
import socket
import sys

import torch

import dnnlib
from dnnlib import UserError, files
from dnnlib.util import user_errors
from torch_utils import checkpoint, distributed

from .training_loop import STATE_FILE, training_loop

OPTIONS_FILE = 'training_options.json'


def find_run(outdir, config, description, new_run):
    """-> (run directory, 'new' | 'continue' | 'complete'): the last run of the same configuration, else the next free number."""
    if os.path.exists(outdir) and not os.path.isdir(outdir):
        raise UserError(f'--outdir={outdir}: is a file; name a folder')
    runs = {int(m[0]): name for name in sorted(os.listdir(outdir) if os.path.isdir(outdir) else []) if (m := re.match(r'\d{5,}', name))}
    for number in sorted(runs, reverse=True):
        path = os.path.join(outdir, runs[number])
        if not new_run and same_run(path, config):
            return path, 'complete' if images_seen(path) >= config.total_kimg * 1000 else 'continue'
    return os.path.join(outdir, f'{max(runs, default=-1) + 1:05d}-{description}'), 'new'


def same_run(path, config):
    """Whether the run in `path` has this configuration; its length may differ."""
    try:
        with open(os.path.join(path, OPTIONS_FILE), encoding='utf-8') as f:
            saved = json.load(f)
    except (OSError, json.JSONDecodeError):
        return False
    strip = lambda c: {key: value for key, value in c.items() if key not in ('total_kimg', 'run_dir')}
    return strip(saved) == strip(json.loads(json.dumps(config)))


def images_seen(path):
    state = os.path.join(path, STATE_FILE)
    return checkpoint.load_info(state, 'training-state')['cur_nimg'] if os.path.isfile(state) else 0


def launch(config, run_dir):
    """Trains in `run_dir`, in as many processes as the configuration says."""
    files.make_dir(run_dir)
    if distributed.launched_rank() == 0:
        files.write_text(os.path.join(run_dir, OPTIONS_FILE), json.dumps(dict(config, run_dir=run_dir), indent=2) + '\n')
    if config.num_gpus > 1 and 'RANK' not in os.environ:
        torch.multiprocessing.spawn(_worker, args=(config, run_dir, free_port()), nprocs=config.num_gpus)
    else:
        _train(config, run_dir)


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
    log = dnnlib.util.Logger(os.path.join(run_dir, 'log.txt')) if distributed.launched_rank() == 0 else contextlib.nullcontext()
    with log:
        complete = training_loop(config, run_dir, config['device'])
        if not complete:
            distributed.print0(f'Stopped; the state is in {run_dir}. The same command continues.')
    if not complete:
        sys.exit(130)
