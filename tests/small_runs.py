"""Runs on tiny data in this process."""

import os

import torch
from conftest import parse_options, shrink

import train
from torch_utils import checkpoint
from training.config.presets import PRESETS
from training.run.files import STATE_FILE
from training.training_loop import Run

KD = ['--kd=agkd,cgkd', '--kd-teacher=demo']
STYLEGAN2 = [name for name, row in PRESETS.items() if row.architecture == 'stylegan2']      # those of any resolution


def make_config(data, *args, **changes):
    config, _name = train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', '--metrics=none',
                                                     '--workers=0', *args))
    shrink(config).update(changes)
    return config


def short_run(data, *args, **changes):
    """Ten iterations, a state after each."""
    changes = dict(total_kimg=0.08, kimg_per_tick=0.008, network_snapshot_ticks=1, image_snapshot_ticks=None) | changes
    return make_config(data, '--cfg=demo', '--batch=8', '--aug=ada', *args, **changes)


def make_run(config, run_dir, device='cpu'):
    os.makedirs(run_dir, exist_ok=True)
    return Run(config, str(run_dir), torch.device(device))


def finished(config, run_dir, device='cpu'):
    """Runs or continues -> the `Run`, at its end."""
    job = make_run(config, run_dir, device)
    job.resume()
    job.run()
    return job


def trained(config, run_dir, device='cpu'):
    """The same -> everything that changes during training, as tensors by name, and the rest of the state."""
    finished(config, run_dir, device)
    return checkpoint.load(os.path.join(run_dir, STATE_FILE), 'training-state')
