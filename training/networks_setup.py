"""The networks of a run: built from the configuration, with the weights of --init-from, equal on all processes."""

import contextlib
import copy

import torch
from torch.nn.utils import parametrize

import dnnlib
from dnnlib import UserError
from dnnlib.text import some
from torch_utils import checkpoint, distributed, misc

from . import model_files
from .networks.blocks import Block
from .snapshots import files as snapshots
from .snapshots.arguments import check_readable


def build_networks(config, dataset, device):
    """-> ({'G', 'D', 'G_ema': module on `device`, frozen}, {name: constructor arguments}, lines that say what
    --init-from gave).

    Raises UserError if --init-from does not fit, or snapshots of the networks could not be read.
    """
    torch.manual_seed(config.random_seed)
    network_kwargs = _network_kwargs(config, dataset)
    check_readable(network_kwargs)
    networks = {name: dnnlib.util.construct_class_by_name(**network_kwargs[name]).train().requires_grad_(False)
                for name in ('G', 'D')}
    networks['G_ema'] = copy.deepcopy(networks['G']).eval()
    notes = _init_from(config.init_from, networks) if config.init_from else []
    for module in networks.values():
        module.to(device)
        if config.channels_last:
            use_channels_last(module)
        distributed.broadcast_from_main(module)
    return networks, network_kwargs, notes


def use_channels_last(network):
    """Lays out the convolution weights of a network for channels_last activations, in place: on a GPU those of blocks
    in half precision.

    Those of upsampling layers also exchange input and output channels in memory, as the transposed convolution reads
    them.
    """
    on_cpu = all(weight.device.type == 'cpu' for weight in network.parameters())
    roots = [network] if on_cpu else [part for part in network.modules() if isinstance(part, Block) and part.use_fp16]
    for layer in (layer for root in roots for layer in root.modules()):
        swap = getattr(layer, 'up', 1) > 1
        for weight in _stored_weights(layer):
            data = weight.data.transpose(0, 1) if swap else weight.data
            data = data.contiguous(memory_format=torch.channels_last)
            weight.data = data.transpose(0, 1) if swap else data


def _stored_weights(layer):
    """The tensors [O, I, kh, kw] that a layer keeps its weight in.

    Behind a parametrisation such as spectral_norm, `layer.weight` is computed each time, from these tensors.
    """
    if parametrize.is_parametrized(layer, 'weight'):
        kept = layer.parametrizations.weight.parameters(recurse=False)
    else:                               # a buffer where it is not trained
        own = dict([*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)])
        kept = [own['weight']] if 'weight' in own else []
    return [tensor for tensor in kept if tensor.ndim == 4]


def feature_width(config):
    """Width of D's last hidden layer, which a teacher's features are compared with; read from a D that takes no
    memory."""
    build = dnnlib.util.construct_class_by_name
    with contextlib.closing(build(**config.training_set_kwargs)) as dataset, misc.ShapesOnly():
        return build(**_network_kwargs(config, dataset)['D']).feature_dim


def _network_kwargs(config, dataset):
    """{name: constructor arguments, with the class}."""
    common = dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels)
    G = dict(config.G_kwargs, **common)
    return dict(G=G, D=dict(config.D_kwargs, **common), G_ema=dict(G))


def _init_from(path, networks):
    """Transfer learning: every weight of the snapshot that fits by name and shape. -> lines that say which."""
    notes, file = [], model_files.locate(path, '--init-from')
    with _named_once(path, file):
        source = snapshots.load_networks(file)
    for name, module in networks.items():
        found = source.networks.get(name, source.networks.get('G_ema') if name == 'G' else None)
        if found is None:
            notes.append(f'{name}: starts from random weights; use a training-state.safetensors, or a snapshot '
                         'written with --snapshot-networks=all')
            continue
        copied, left = checkpoint.copy_matching(found.state_dict(), module)
        if not copied:
            raise UserError(f'--init-from={path}: no weight of its {name} fits this one; use the same --cfg and '
                            'resolution')
        notes.append(f'{name}: {len(copied)} of {len(copied) + len(left)} tensors from {path}'
                     + (f'; new: {some(left, 4)}' if left else '')
                     + _not_used(found, module, copied))
    return notes


def check_init_from(source, freezed, header_only=False):
    """Finds out before the start whether --init-from can be used: raises UserError if not, or if there is no D in it
    whose layers --freezed could keep.

    header_only: without a download, and of a file in safetensors only what its header says is there.
    """
    if header_only and not model_files.is_local(source):
        return
    with distributed.main_process_first():
        path = model_files.locate(source, '--init-from')
    with _named_once(source, path):
        names = snapshots.network_names(path) if header_only else snapshots.load_networks(path).networks
    if freezed and 'D' not in names:
        raise UserError(f'--freezed={freezed}: there is no D in --init-from={source}; use a snapshot written with '
                        '--snapshot-networks=all or a training-state.safetensors, or leave --freezed out')


@contextlib.contextmanager
def _named_once(source, path):
    """Puts the option in front of what is wrong with a file, which often is what the user calls it."""
    try:
        yield
    except UserError as err:
        problem = str(err).removeprefix(f'{path}: ') if path == source else str(err)
        raise UserError(f'--init-from={source}: {problem}') from err


def _not_used(source, module, copied):
    """A note on weights left unused although resolution, channels and classes are the same, or ''."""
    lost = sorted(set(source.state_dict()) - set(copied))
    same_kind = (source.img_resolution, source.img_channels, source.c_dim) == (module.img_resolution,
                                                                               module.img_channels, module.c_dim)
    return f'; not used: {some(lost, 4)}; use the --cfg it was trained with' if lost and same_kind else ''
