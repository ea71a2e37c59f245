"""Writes the network that `make demo` starts from: python -m training.run.demo_network RUN.

It is the end of `make demo-network`.
"""

import os

import click
import torch

from dnnlib import UserError
from dnnlib.published import without_folders
from dnnlib.util import user_errors
from torch_utils import checkpoint

from .. import model_files
from . import files as run_files

NETWORKS = 'G_ema', 'D'             # G starts from G_ema, too


def shrink(source, dest):
    """Writes the networks of a snapshot that a training can start from, in half precision, without the image folder's
    name.

    Raises: UserError if they are not in it.
    """
    tensors, info = checkpoint.load(source, 'network')
    if missing := [name for name in NETWORKS if name not in info['networks']]:
        raise UserError(f'{source}: there is no {missing[0]} in it; train with --snapshot-networks=all')
    kept = {key: value.to(torch.float16) for key, value in tensors.items() if key.partition('.')[0] in NETWORKS}
    info['networks'] = {name: info['networks'][name] for name in NETWORKS}
    info['training'] = without_folders(info['training'])
    checkpoint.save(dest, 'network', kept, info)


@click.command()
@click.argument('run')
@click.option('--dest', help='File to write  [default: the one that comes with the project]', metavar='FILE',
              default=model_files.DEMO_NETWORK)
def main(run, dest):
    """Make the demo's network from the last snapshot of the run in the folder RUN."""
    with user_errors():
        snapshots = run_files.find_snapshots(run) if os.path.isdir(run) else {}
        if not snapshots:
            raise UserError(f'{run}: there is no snapshot in it; name the folder of a run')
        shrink(os.path.join(run, max(snapshots, key=snapshots.get)), dest)
        print(f'{dest}: {os.path.getsize(dest) / 2 ** 20:.2f} MiB')


if __name__ == '__main__':
    main()
