"""Network snapshots: G_ema, on request G and D, with what is needed to build them again and what is known about them."""

import os
import pickle
from typing import NamedTuple

import torch

import dnnlib
from dnnlib import UserError
from torch_utils import checkpoint, misc

from . import legacy_pytorch

ALLOWED_CLASSES = ('training.networks.Generator', 'training.networks.Discriminator')
LARGEST_NUMBER = 1 << 20            # of a constructor argument: features, pixels, layers
LARGEST_DEPTH = 64                  # of mapping layers
BUILD_ERRORS = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError)


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
        training: JSON-able record of the run: options, cur_nimg, class_names, dataset, metrics.
    """
    tensors = {f'{name}.{key}': value for name, module in networks.items() for key, value in module.state_dict().items()}
    return tensors, dict(networks={name: kwargs[name] for name in networks}, training=training, project_version=dnnlib.__version__)


def save_networks(path, networks, kwargs, training):
    """Writes a snapshot; arguments as of `pack`."""
    tensors, info = pack(networks, kwargs, training)
    checkpoint.save(path, 'network', tensors, info)


def add_metrics(path, records):
    """Writes metric records into a snapshot, in place of those it has."""
    checkpoint.update_info(path, 'network', lambda info: dict(info, training=dict(info['training'], metrics=records)))


def load_networks(path, device='cpu', names=None):
    """Reads a snapshot, the networks of a run's training state, or a pickle -> `Snapshot`. Nothing in the file is executed.

    Args:
        names: which networks to build; None = all.
    Raises: UserError if it cannot be used.
    """
    if is_pickle(path):
        tensors, info = legacy_pytorch.read(path, names)
        tensors = {name: value.to(device) for name, value in tensors.items()}
    else:
        info = checkpoint.load_info(path, ('network', 'training-state'))
        tensors = checkpoint.load_tensors(path, device, prefixes=names)
    return build_networks(path, tensors, info, device, names)


def is_pickle(path):
    """By the first bytes: a safetensors file begins with the size of its header, which can look like a pickle's first byte, and a brace."""
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as f:
        head = f.read(9)
    is_safetensors = head[8:] == b'{' and int.from_bytes(head[:8], 'little') < os.path.getsize(path)
    return head[:1] == pickle.PROTO and not is_safetensors


def build_networks(path, tensors, info, device='cpu', names=None):
    """-> `Snapshot` of what was read from `path`; other arguments as above."""
    described = info.get('networks')
    if not isinstance(described, dict) or not all(isinstance(kwargs, dict) for kwargs in described.values()):
        raise checkpoint.damaged(path, 'it does not describe its networks')
    networks = {}
    for name, kwargs in described.items():
        if names is None or name in names:
            weights = {key.removeprefix(f'{name}.'): value for key, value in tensors.items() if key.startswith(f'{name}.')}
            networks[name] = _build(path, name, kwargs, weights, device)
    return Snapshot(networks, dict(info, training=info.get('training') or {}))


def _build(path, name, kwargs, weights, device):
    """The network with these weights. It is laid out without memory first: what the file claims is checked before any is used."""
    if kwargs.get('class_name') not in ALLOWED_CLASSES:
        raise UserError(f'{path}: it asks for the class {kwargs.get("class_name")!r}; only {" and ".join(ALLOWED_CLASSES)} are built from a file')
    try:
        _check_numbers(path, name, kwargs)
        with misc.ShapesOnly():
            module = dnnlib.util.construct_class_by_name(**for_inference(kwargs, device))
    except BUILD_ERRORS as err:
        raise checkpoint.damaged(path, f'{name} cannot be built: {err}') from err
    _check_weights(path, name, module.state_dict(), weights)
    module.load_state_dict(weights, assign=True)            # takes the tensors themselves: no second copy, no initialisation
    return module.eval().requires_grad_(False)


def _check_numbers(path, name, value, key=None):
    """Refuses constructor arguments that would take for ever."""
    if isinstance(value, dict):
        for k, v in value.items():
            _check_numbers(path, name, v, k)
    elif isinstance(value, list):
        for v in value[:LARGEST_DEPTH + 1]:
            _check_numbers(path, name, v, key)
    too_large = (isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER
                 or isinstance(value, list) and len(value) > LARGEST_DEPTH
                 or key == 'num_layers' and isinstance(value, int) and value > LARGEST_DEPTH)
    if too_large:
        raise checkpoint.damaged(path, f'{name} has {key} = {value}')


def _check_weights(path, name, expected, weights):
    for key in [*expected, *weights]:
        if key not in weights or key not in expected:
            raise checkpoint.damaged(path, f'{name}.{key} {"is missing" if key in expected else "does not belong to such a network"}')
        want, got = expected[key], weights[key]
        if want.shape != got.shape or want.dtype != got.dtype:
            raise checkpoint.damaged(path, f'{name}.{key} is {got.dtype} {list(got.shape)}, not {want.dtype} {list(want.shape)}')


def for_inference(kwargs, device):
    """Constructor arguments of a network as they suit `device`: half precision where it was trained so and is fast, else float32."""
    kwargs = {key: dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
    top = kwargs.get('synthesis_kwargs', kwargs)                # of G, of D
    half_dtype = kwargs.get('block_kwargs', top).get('half_dtype', 'float16')
    device_type = torch.device(device).type
    if not (device_type == 'cuda' or (device_type == 'cpu' and half_dtype == 'bfloat16')):
        top['num_fp16_res'] = 0
    return kwargs
