"""Checkpoints of the public BigGAN programs: G_ema.pth, G.pth, D.pth of BigGAN-PyTorch, its forks, IC-GAN.

A file is the `state_dict` alone. The sizes of the network are those of its tensors; what tensors cannot tell is that of
the published settings for the resolution. Only tensors are read, nothing in a file is run.
"""

import pickle
import re
from typing import NamedTuple

import torch

from dnnlib import UnusableFile, UserError

from ..networks.biggan import D_WIDTHS, G_WIDTHS
from ..networks.biggan_row import DISCRIMINATOR, GENERATOR, PUBLISHED
from .arguments import Entry, laid_out, match

ENDING = '.pth'
FILES = 'it must be G_ema.pth, G.pth or D.pth of BigGAN-PyTorch or of a program made from it, for 32 or 64 pixels'
UNUSED = r'shared_feat\.'                   # IC-GAN's layer for instances: its class-conditional networks do not use it
HEAD = r'linear_cls_[12]\.'                 # the distillation head, which KD-DLGAN keeps in D


class PublicNetwork(NamedTuple):
    """The content of such a file."""
    module: torch.nn.Module                 # in eval mode, without gradients
    kwargs: dict                            # its constructor arguments, with 'class_name'
    head: dict                              # {name: tensor} of KD-DLGAN's distillation head; empty without one


def load(path):
    """A checkpoint -> `PublicNetwork`. Raises UserError if it is damaged or holds anything else."""
    try:
        return _built(_read(path))
    except UnusableFile as err:
        raise UserError(f'{path}: {err}; {FILES}') from err


def _read(path):
    """{name: tensor}, as they are in the file."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as err:
        raise UserError(f'{path}: cannot be read ({err.strerror or err})') from err
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as err:
        reason = 'it is damaged, or has more in it than tensors, which is not read'
        raise UnusableFile(f'{reason} ({type(err).__name__})') from err
    if not isinstance(content, dict) or not content:
        raise UnusableFile('it is no table of tensors by name')
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise UnusableFile(f'its entry {str(name)[:100]!r} is of the type {type(value).__name__}, not a tensor')
    return content


def _built(tensors):
    tensors = {name.removeprefix('module.'): value for name, value in tensors.items()}     # of several GPUs
    head = {name: value for name, value in tensors.items() if re.match(HEAD, name)}
    tensors = {name: value for name, value in tensors.items() if not re.match(f'{UNUSED}|{HEAD}', name)}
    tensors, own_norm = _without_counters(tensors)
    is_generator = 'output_layer.2.weight' in tensors
    kwargs = _generator(tensors, own_norm) if is_generator else _discriminator(tensors)
    if wrong := [name for name, value in tensors.items() if not value.is_floating_point()]:
        raise UnusableFile(f'its tensor {wrong[0]!r} is {tensors[wrong[0]].dtype}')
    module = laid_out(kwargs, 'it')
    entries = {name: Entry(tuple(value.shape), None, value.to) for name, value in tensors.items()}
    weights = {name: entry.read(torch.float32) for name, entry in match(entries, module, 'it').items()}
    module.load_state_dict(weights, assign=True)            # the tensors themselves
    return PublicNetwork(module.eval().requires_grad_(False), kwargs, head)


def _without_counters(tensors):
    """-> tensors with the names of the usual batch norm, whether they had those of the program's own (--mybn).

    Its statistics are sums over so many batches where its counter is above 0: standing statistics.
    """
    counter = 'bn.accumulation_counter'
    found = [name.removesuffix(counter) for name in tensors if name.endswith(f'.{counter}')]
    result = {name: value for name, value in tensors.items() if not name.endswith(f'.{counter}')}
    for prefix in found:
        number = tensors[prefix + counter].max().clamp(min=1)
        for name in [f'{prefix}bn.stored_mean', f'{prefix}bn.stored_var']:
            if name in result:
                result[name.replace('bn.stored', 'stored')] = result.pop(name) / number
    return result, bool(found)


def _generator(tensors, own_norm):
    """Constructor arguments, of the sizes of its tensors."""
    resolution = _resolution(tensors, {len(widths) - 1: res for res, widths in G_WIDTHS.items()}, 'generator')
    first, chunk = _sizes(tensors, 'linear.weight', 2)
    rows, columns = _sizes(tensors, 'blocks.0.0.bn1.gain.weight', 2)
    c_dim = shared_dim = 0
    if 'shared.weight' in tensors:
        c_dim, shared_dim = _sizes(tensors, 'shared.weight', 2)
    elif 'blocks.0.0.bn1.gain.u0' not in tensors:               # a table, not a linear map
        c_dim = rows
    hier = 0 < shared_dim < columns
    z_dim = chunk * len(G_WIDTHS[resolution]) if hier else chunk
    return dict(class_name=GENERATOR, z_dim=z_dim, c_dim=c_dim, img_resolution=resolution,
                img_channels=_sizes(tensors, 'output_layer.2.weight', 4)[0],
                channels=first // 16 // G_WIDTHS[resolution][0], shared_dim=shared_dim, hier=hier,
                attention=_attention(tensors, lambda i: 8 << i), bn_unbiased=not own_norm, **PUBLISHED[resolution])


def _discriminator(tensors):
    resolution = _resolution(tensors, {len(widths): res for res, (widths, _down) in D_WIDTHS.items()}, 'discriminator')
    c_dim = _sizes(tensors, 'embed.weight', 2)[0] if 'embed.weight' in tensors else 0
    return dict(class_name=DISCRIMINATOR, c_dim=c_dim, img_resolution=resolution,
                img_channels=_sizes(tensors, 'blocks.0.0.conv1.weight', 4)[1],
                channels=_sizes(tensors, 'linear.weight', 2)[1] // D_WIDTHS[resolution][0][-1],
                attention=_attention(tensors, lambda i: resolution >> (i + 1)), **PUBLISHED[resolution])


def _resolution(tensors, by_number, kind):
    number = len({m[1] for m in (re.match(r'blocks\.(\d+)\.', name) for name in tensors) if m})
    if number not in by_number:
        raise UnusableFile(f'it holds a {kind} of {number} blocks')
    return by_number[number]


def _attention(tensors, resolution_after):
    """The resolution at which it has attention; 0 = at none."""
    found = [int(m[1]) for m in (re.fullmatch(r'blocks\.(\d{1,2})\.1\.gamma', name) for name in tensors) if m]
    return resolution_after(found[0]) if found else 0


def _sizes(tensors, name, ndim):
    if name not in tensors or tensors[name].ndim != ndim:
        raise UnusableFile(f'it lacks the tensor {name!r} with {ndim} dimensions')
    return tensors[name].shape
