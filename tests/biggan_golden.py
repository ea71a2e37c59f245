"""The golden numbers of BigGAN (data/biggan): how to read them, and the rules that make weights and inputs."""

import functools
import gzip
import json
import pathlib
import zlib

import numpy as np
import torch
from safetensors.torch import load

from training.networks import biggan as networks_biggan

DATA = pathlib.Path(__file__).parent / 'data' / 'biggan'
LAYOUT = json.loads(gzip.decompress((DATA / 'layout.json.gz').read_bytes()))
TOLERANCE = 2e-4                # of the largest entry: the convolutions of other machines sum in another order
SMALL = ['cifar10_small', 'imagenet64_small']


@functools.cache
def read(name):
    """{entry: tensor} of one file."""
    return load(gzip.decompress((DATA / f'{name}.safetensors.gz').read_bytes()))


def part(name, prefix):
    """The entries `prefix/...` of a file by the rest of their names."""
    return {key.removeprefix(f'{prefix}/'): value for key, value in read(name).items() if key.startswith(f'{prefix}/')}


def draw(key, shape):
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(list(shape))
    return torch.from_numpy(np.asarray(values, np.float32))


def reals(key, n, res):
    return draw(key, [n, 3, res, res]).tanh()


@torch.no_grad()
def fill(module, prefix):
    """Gives the tensors of a module the values that follow from their names."""
    for name, tensor in module.state_dict().items():
        v, last = draw(f'{prefix}.{name}', tensor.shape), name.rpartition('.')[2]
        values = dict(u0=v, sv0=1, stored_mean=0.1 * v, stored_var=1 + 0.1 * v.abs(), gamma=0.5, gain=1 + 0.1 * v)
        tensor.copy_(torch.as_tensor(v if name == 'shared.weight' else values.get(last, 0.1 * v)))


def build(net):
    """-> G, D of a net, as constructed."""
    config = LAYOUT[net]['config']
    sizes = dict(img_resolution=config['resolution'], img_channels=3, c_dim=config['n_classes'],
                 attention=int(config['G_attn']), sn_eps=config['SN_eps'])
    shared_dim = config.get('shared_dim', 128) if config['G_shared'] else 0
    G = networks_biggan.Generator(z_dim=config['dim_z'], channels=config['G_ch'], shared_dim=shared_dim,
                                  hier=config['hier'], **sizes)
    return G, networks_biggan.Discriminator(channels=config['D_ch'], **sizes)


def filled(net):
    """The same with the values of the golden numbers, in training mode."""
    G, D = build(net)
    fill(G, 'G')
    fill(D, 'D')
    if (bias := LAYOUT[net].get('D_linear_bias')) is not None:
        torch.nn.init.constant_(D.linear.bias, bias)
    return G, D


def onehot(y, G):
    return torch.nn.functional.one_hot(y, G.c_dim).to(torch.float32)


def check(got, want):
    """Asserts that two tensors agree to TOLERANCE of the largest entry."""
    scale = max(want.abs().max().item(), 1e-8)
    torch.testing.assert_close(got.detach().to(want.dtype), want, rtol=0, atol=TOLERANCE * scale)


def check_tensors(got, want, leave_out=()):
    """{name: tensor} against golden entries, each a whole tensor or its summary. All names of `want` must be there."""
    assert want
    for name, value in want.items():
        if name not in leave_out:
            summarised = value.dtype == torch.float64 and value.shape == (3,)
            (check_summary if summarised else check)(*([got[name], value, name] if summarised else [got[name], value]))


def check_summary(tensor, want, name):
    """The sum and the product are sums of `size` numbers: compared relative to norm * sqrt(size)."""
    x = tensor.detach().to(torch.float64)
    total, norm, product = want.tolist()
    scale = max(norm, 1e-8)
    assert abs(x.norm().item() - norm) <= TOLERANCE * scale, name
    for value, reference in ((x.sum(), total), ((x * draw(f'probe.{name}', x.shape)).sum(), product)):
        assert abs(value.item() - reference) <= TOLERANCE * scale * x.numel() ** 0.5, name


def gradients(module):
    return {name: param.grad for name, param in module.named_parameters()}
