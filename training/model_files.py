"""Networks by file, address, published name or repository:
`G = load_generator('https://host/network-snapshot-000300.safetensors')`."""

import copy
import inspect
import os

from dnnlib import UnusableFile, UserError, files
from dnnlib.util import is_url
from torch_utils.devices import torch_device

from .networks.architectures import class_name_of
from .snapshots import files as snapshots
from .snapshots import hub
from .snapshots.arguments import described, laid_out, match

# Networks that StyleGAN2-ADA publishes as starting points for transfer learning, by the names that its --resume takes.
# They are pickles, of which only tensors and settings are read. NVIDIA's licence allows non-commercial use only.
SOURCE_NETS = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/'
PUBLISHED = {
    'ffhq256': SOURCE_NETS + 'ffhq-res256-mirror-paper256-noaug.pkl',
    'ffhq512': SOURCE_NETS + 'ffhq-res512-mirror-stylegan2-noaug.pkl',
    'ffhq1024': SOURCE_NETS + 'ffhq-res1024-mirror-stylegan2-noaug.pkl',
    'celebahq256': SOURCE_NETS + 'celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl',
    'lsundog256': SOURCE_NETS + 'lsundog-res256-paper256-kimg100000-noaug.pkl',
}
# The network that comes with the project, under its licence: drawn faces at 32 pixels. `make demo-network` makes it.
DEMO_NETWORK = os.path.join(os.path.dirname(__file__), 'demo_network.safetensors')
SHIPPED = {'demo': DEMO_NETWORK}


def address_of(network):
    """The address or file behind a name; anything else as it is."""
    return SHIPPED.get(network) or PUBLISHED.get(network, network)


def is_local(network):
    """Whether it names a file on this machine."""
    return not files.is_address(address_of(network))


def locate(network, option='--network', sha256=None):
    """What a user calls a network -> path of its file, downloaded to a cache where needed.

    Args:
        network: a file; an http(s) address, which may end in #sha256=HEX; a name in `PUBLISHED` or `SHIPPED` (./NAME is
                 a file of that name); hf:user/repo[/file][@revision] on the Hugging Face Hub.
        option:  where the user gave it, for messages.
        sha256:  expected digest in hex, of an address; None = that in the address, else that of the first download.
    Raises:      UserError if it cannot be had.
    """
    address = address_of(network)
    if hub.is_hub_name(address):
        return hub.download(address, option)
    if is_url(address):
        return files.download(address, sha256, what=option if network == address else f'{option}={network}',
                              option=option)
    if os.path.isdir(address):
        found = [name for name in os.listdir(address) if name.startswith('network-snapshot-')
                 and name.endswith('.safetensors')]
        if not found:
            raise UserError(f'{option}={network}: is a folder, and there is no snapshot in it (yet); name a '
                            'network-snapshot-....safetensors of a run')
        raise UserError(f'{option}={network}: is a folder; name a snapshot in it, such as {max(found)}')
    if not os.path.isfile(address):
        raise UserError(f'{option}={network}: there is no such file; name a network-snapshot-....safetensors, an '
                        f'https:// address, hf:user/repo, or one of {", ".join([*SHIPPED, *PUBLISHED])}')
    return address


def load_snapshot(network, device='auto', option='--network'):
    """-> `snapshots.Snapshot` with G_ema alone; arguments as below. Raises UserError if the network cannot be had or
    has no G_ema."""
    snapshot = snapshots.load_networks(locate(network, option), torch_device(device), names=['G_ema'])
    if 'G_ema' not in snapshot.networks:
        raise UserError(f'{option}={network}: there is no G_ema in it; name a network-snapshot-....safetensors '
                        'of train.py')
    return snapshot


def save_generator(path, G, like=None):
    """Writes a snapshot with a generator that was changed after it was loaded or trained. All programs here read it.

    Args:
        path: file to write, as a rule .safetensors.
        G:    a generator of one of the architectures, such as `training.networks.Generator`; its tensors may have other
              values, not other shapes.
        like: `snapshots.Snapshot` that it was loaded from: its precision and the record of its training go into the
              file, without the metrics, which are no longer valid. None = the precision that G has now, and no record.
    Raises:   UserError if the layers of G are not those that its arguments ask for, or the file cannot be written.
    """
    order = inspect.signature(type(G)).parameters
    own = dict(zip(order, G.init_args, strict=False)) | G.init_kwargs
    try:
        kwargs = dict(class_name=class_name_of(G), **own) if like is None else like.info['networks']['G_ema']
        kwargs = described(kwargs, 'G_ema')
        match(G.state_dict(), laid_out(kwargs, 'G_ema'), 'G_ema')
    except UnusableFile as err:
        raise UserError(f'{path}: cannot be written: {err}; a snapshot holds the values of its tensors alone') from err
    training = {} if like is None else _edited(like.info['training'])
    snapshots.save_networks(path, dict(G_ema=copy.deepcopy(G).float()), dict(G_ema=kwargs), training)


def _edited(training):
    event = dict(event='edited', cur_nimg=training.get('cur_nimg'))
    kept = {key: value for key, value in training.items() if key != 'metrics'}
    return dict(kept, history=[*(training.get('history') or []), event])


def load_generator(path_or_url, device='auto'):
    """The averaged generator of a snapshot, in eval mode and without gradients: `G(z [N, z_dim], c [N, c_dim])` -> [N,
    C, H, W] in [-1, 1].

    Args:
        path_or_url: as `network` of `locate`.
        device:      'auto' = cuda where there is one, else cpu; or any torch device.
    Raises:          UserError if it cannot be had or used.
    """
    return load_snapshot(path_or_url, device, option='load_generator').G_ema
