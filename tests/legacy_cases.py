"""Networks of every kind that a pickle of the reference implementations can hold, and the tools that read them."""

import copy
import os
import pathlib
import subprocess
import sys

import numpy as np
import torch

import dnnlib

STANDIN = pathlib.Path(__file__).parent / 'reference_standin'
SMALL = dict(channel_base=128, channel_max=16)
DATA = dict(class_name='training.dataset.ImageFolderDataset', path='cats.zip', use_labels=False, max_size=100,
            xflip=True, resolution=16)
CASES = dict(
    skip=(dict(), dict()),
    orig=(dict(c_dim=3, architecture='orig'), dict(architecture='skip', cmap_dim=5, mapping_kwargs=dict(num_layers=2),
                                                   mbstd_group_size=None)),
    resnet=(dict(res=32, architecture='resnet', num_fp16_res=2, conv_clamp=256, fp16_channels_last=True,
                 activation='swish'),
            dict(architecture='orig', num_fp16_res=2, conv_clamp=256, freeze_layers=4)),
    grey=(dict(channels=1, c_dim=2, use_noise=True), dict(freeze_layers=2, mbstd_num_channels=0)),
    bfloat16=(dict(num_fp16_res=16, half_dtype='bfloat16', fp16_channels_last=True), None),
)


def kwargs_of(case):
    """-> constructor arguments of G, of D (None = there is none)."""
    g, d = copy.deepcopy(CASES[case])
    common = dict(c_dim=g.pop('c_dim', 0), img_resolution=g.pop('res', 16), img_channels=g.pop('channels', 3))
    g = dict(class_name='training.networks.Generator', z_dim=8, w_dim=12, mapping_kwargs=dict(num_layers=2),
             synthesis_kwargs={**SMALL, **g}, **common)
    if d is None:
        return g, None
    block = {key: d.pop(key) for key in ('freeze_layers', 'fp16_channels_last') if key in d}
    epilogue = {key: d.pop(key) for key in ('mbstd_group_size', 'mbstd_num_channels') if key in d}
    return g, dict(class_name='training.networks.Discriminator', block_kwargs=block, epilogue_kwargs=epilogue, **SMALL,
                   **common, **d)


def build(kwargs, seed):
    """A network in which every tensor takes part in the result: biases, noise strengths and the average of w are not
    zero."""
    network = dnnlib.util.construct_class_by_name(**kwargs).eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not name.endswith('resample_filter'):
            value.copy_(torch.randn(value.shape, generator=rng) * (1 if value.ndim > 1 else 0.3))
    return network


def snapshot_of(case):
    """-> networks, tensors, info"""
    g, d = kwargs_of(case)
    kwargs = dict(G_ema=g) if d is None else dict(G=g, D=d, G_ema=g)
    modules = {name: build(value, seed) for seed, (name, value) in enumerate(kwargs.items())}
    tensors = {f'{name}.{key}': value for name, module in modules.items() for key, value in module.state_dict().items()}
    return modules, tensors, dict(networks=kwargs, training=dict(options=dict(training_set_kwargs=DATA), cur_nimg=1000))


def inputs_of(case):
    g, _ = kwargs_of(case)
    rng = np.random.RandomState(0)
    side, c_dim = g['img_resolution'], g['c_dim']
    return dict(z=rng.randn(4, 8).astype('float32'),
                c=np.eye(max(c_dim, 1), dtype='float32')[np.arange(4) % max(c_dim, 1), :c_dim],
                img=rng.randn(4, g['img_channels'], side, side).astype('float32'))


def run_tools(folder):
    """In a process that sees the stand-in and torch only."""
    env = {**os.environ, 'PYTHONPATH': str(STANDIN), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-W', 'error', str(STANDIN / 'tools.py'), str(folder)], env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
