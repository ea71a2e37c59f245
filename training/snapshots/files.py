"""Network snapshots: G_ema, on request G and D, with their constructor arguments and the record of their training."""

import contextlib
import copy
import os
import pickle
from typing import NamedTuple

import torch

import dnnlib
from dnnlib import UnusableFile, UserError
from dnnlib.published import without_folders
from torch_utils import checkpoint, devices

from ..networks.architectures import UnknownArchitecture
from . import arguments as network_arguments
from . import biggan_files
from . import info as snapshot_info
from . import pickle_pytorch as legacy_pytorch


class Snapshot(NamedTuple):
    """A loaded network snapshot."""
    networks: dict[str, torch.nn.Module]        # 'G_ema', 'G', 'D'; in eval mode, without gradients
    info: dict                                  # 'networks': constructor arguments; 'training': see `pack`

    @property
    def G_ema(self):
        return self.networks['G_ema']


def pack(networks, kwargs, training):
    """-> (tensors, info), as `checkpoint.save` takes them.

    Args:
        networks: {name: module}.
        kwargs:   {name: {'class_name': ..., constructor arguments}}, for at least these networks.
        training: JSON-able record of the run: options, cur_nimg, class_names, dataset, metrics. Snapshots are shared,
                  so they hold the names of files without their folders.
    """
    tensors = {f'{name}.{key}': value for name, module in networks.items()
               for key, value in module.state_dict().items()}
    return tensors, dict(networks={name: kwargs[name] for name in networks}, training=without_folders(training),
                         project_version=dnnlib.__version__)


def save_networks(path, networks, kwargs, training):
    """Writes a snapshot; arguments as of `pack`."""
    tensors, info = pack(networks, kwargs, training)
    checkpoint.save(path, 'network', tensors, info)


def add_metrics(path, records):
    """Writes metric records into a snapshot, in place of those it has."""
    changed = lambda info: dict(info, training=without_folders(dict(info['training'], metrics=records)))
    checkpoint.update_info(path, 'network', changed)


def load_networks(path, device='cpu', names=None):
    """Reads a snapshot, the networks of a run's training state, or a pickle -> `Snapshot`. Nothing in the file is
    executed.

    On a CPU the weights of a .safetensors file are a view of the file, read when they are first used. Replace such a
    file, as all programs here do; do not write into it while it is in use.

    Args:
        names: which networks to build; None = all.
    Raises: UserError if it cannot be used.
    """
    if str(path).endswith(biggan_files.ENDING):
        return _public_biggan(path, device)
    if is_pickle(path):
        tensors, info = legacy_pytorch.read(path, names)
        tensors = {name: value.to(device) for name, value in tensors.items()}
    else:
        info = checkpoint.load_info(path, ('network', 'training-state'))
        tensors = checkpoint.load_tensors(path, device, prefixes=names)
    return build_networks(path, tensors, info, device, names)


def network_names(path):
    """Which networks are in a file, of a .safetensors file by its header alone. Raises UserError if it cannot be used.
    """
    if str(path).endswith(biggan_files.ENDING) or is_pickle(path):
        return set(load_networks(path).networks)
    with _user_errors(path):
        return set(snapshot_info.check(checkpoint.load_info(path, ('network', 'training-state')))['networks'])


def _public_biggan(path, device):
    """-> `Snapshot` of a generator, as G_ema, or of D."""
    public = biggan_files.load(path)
    name = 'D' if public.kwargs['class_name'] == biggan_files.DISCRIMINATOR else 'G_ema'
    return Snapshot({name: public.module.to(device)}, dict(networks={name: public.kwargs}, training={}))


def is_pickle(path):
    """By the first bytes: a safetensors file begins with the size of its header, which can look like the first byte of
    a pickle, and a brace."""
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as f:
        head = f.read(9)
    is_safetensors = head[8:] == b'{' and int.from_bytes(head[:8], 'little') < os.path.getsize(path)
    return head[:1] == pickle.PROTO and not is_safetensors


def build_networks(path, tensors, info, device='cpu', names=None):
    """-> `Snapshot` of what was read from `path`; other arguments as above."""
    with _user_errors(path):
        info = snapshot_info.check(info)
        weights = {name: {} for name in info['networks']}
        for key, value in tensors.items():
            name, _, rest = key.partition('.')
            if name in weights:
                weights[name][rest] = value
        networks = {name: _build(name, kwargs, weights[name], device) for name, kwargs in info['networks'].items()
                    if names is None or name in names}
    return Snapshot(networks, info)


def load_info(path):
    """Only the record of a snapshot (`pack`); raises UserError if it cannot be used."""
    with _user_errors(path):
        return snapshot_info.check(checkpoint.load_info(path, 'network'))


def network_kwargs(path, info, name='G_ema'):
    """Constructor arguments of a network from what `load_info` gave. Raises UserError if they cannot be used."""
    with _user_errors(path):
        return network_arguments.described(info['networks'][name], name)


@contextlib.contextmanager
def _user_errors(path):
    try:
        yield
    except UnknownArchitecture as err:
        raise UserError(f'{path}: {err}; use the version of the project that wrote it, or another file') from err
    except UnusableFile as err:
        raise checkpoint.damaged(path, err) from err


def _build(name, kwargs, weights, device):
    """The network with these weights. It is first built without memory, to check what the file claims before any is
    allocated."""
    kwargs = network_arguments.described(kwargs, name)
    module = network_arguments.laid_out(for_inference(kwargs, device), name)
    network_arguments.match(weights, module, name)
    for key, value in module.state_dict().items():
        if (weights[key].dtype, value.dtype) == (torch.float16, torch.float32):         # stored in half the space
            weights[key] = weights[key].float()
        if weights[key].dtype != value.dtype:
            raise UnusableFile(f'{name}.{key} is {weights[key].dtype}, not {value.dtype}')
    # Takes the tensors themselves: no second copy, no initialisation
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def for_inference(kwargs, device):
    """Constructor arguments for use on `device`: half precision if the network was trained with it and it is fast
    there, else float32."""
    kwargs = copy.deepcopy(kwargs)
    precision = network_arguments.precision_of(kwargs)
    if precision is not None:
        layers, block = precision
        device_type, half_dtype = torch.device(device).type, block.get('half_dtype', 'float16')
        if not (device_type == 'cuda' or (device_type == 'cpu' and half_dtype == 'bfloat16'
                                          and devices.cpu_has_bfloat16())):
            layers['num_fp16_res'] = 0
    return kwargs
