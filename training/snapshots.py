"""Network snapshots: G_ema, G and D with what is needed to build them again."""

from typing import NamedTuple

import torch

import dnnlib
from dnnlib import UserError
from torch_utils import checkpoint

ALLOWED_CLASSES = ('training.networks.Generator', 'training.networks.Discriminator')


class Snapshot(NamedTuple):
    """A loaded network snapshot."""
    networks: dict[str, torch.nn.Module]        # 'G_ema', 'G', 'D'; in eval mode, without gradients
    info: dict                                  # 'networks': constructor arguments; 'training': options, progress

    @property
    def G_ema(self):
        return self.networks['G_ema']


def save_networks(path, networks, kwargs, training):
    """Writes a snapshot.

    Args:
        networks: {name: module}.
        kwargs:   {name: {'class_name': ..., constructor arguments}}.
        training: JSON-able record of the run: options, images seen, class names.
    """
    tensors = {f'{name}.{key}': value for name, module in networks.items() for key, value in module.state_dict().items()}
    checkpoint.save(path, 'network', tensors, dict(networks=kwargs, training=training))


def load_networks(path, device='cpu', names=None):
    """Reads a snapshot of this project -> `Snapshot`. names: which networks to build; None = all. Raises UserError if it cannot be used."""
    tensors, info = checkpoint.load(path, 'network', device)
    networks = {}
    for name, kwargs in info['networks'].items():
        if names is not None and name not in names:
            continue
        if kwargs['class_name'] not in ALLOWED_CLASSES:
            raise UserError(f'{path}: it asks for the class {kwargs["class_name"]!r}; only {" and ".join(ALLOWED_CLASSES)} are built from a file')
        module = dnnlib.util.construct_class_by_name(**for_inference(kwargs, device)).eval().requires_grad_(False).to(device)
        prefix = name + '.'
        module.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
        networks[name] = module
    return Snapshot(networks, info)


def for_inference(kwargs, device):
    """Constructor arguments of a network as they suit `device`: half precision where it was trained so and is fast, else float32."""
    kwargs = {key: dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
    top = kwargs.get('synthesis_kwargs', kwargs)                # of G, of D
    half_dtype = kwargs.get('block_kwargs', top).get('half_dtype', 'float16')
    device_type = torch.device(device).type
    if not (device_type == 'cuda' or (device_type == 'cpu' and half_dtype == 'bfloat16')):
        top['num_fp16_res'] = 0
    return kwargs
