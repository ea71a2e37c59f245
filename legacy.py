"""Network pickles of the reference implementation to snapshots of this project, and back: python legacy.py --source=X.pkl --dest=X.safetensors"""

import os

import click

from dnnlib import UserError
from dnnlib.util import user_errors
from torch_utils import checkpoint
from training import legacy_pytorch, legacy_writer, model_files, snapshots


def load_network_pkl(f, device='cpu'):
    """The networks of a pickle as modules of this project, in eval mode; nothing from the file is run.

    Args:
        f:      open binary file, or a path.
        device: where to put them.
    Returns:    dict(G=, D=, G_ema=, training_set_kwargs=, augment_pipe=None); None for a network that is not there.
    Raises:     UserError if the file cannot be used.
    """
    tensors, info = legacy_pytorch.read(f)
    tensors = {name: value.to(device) for name, value in tensors.items()}
    found = snapshots.build_networks(getattr(f, 'name', f), tensors, info, device).networks
    return dict(dict(G=None, D=None, G_ema=None) | found, augment_pipe=None,
                training_set_kwargs=info['training'].get('options', {}).get('training_set_kwargs'))


@click.command(context_settings=dict(max_content_width=120))
@click.option('--source', help='Network to read: file, https:// address, hf:user/repo or a published name such as ffhq256',
              required=True, metavar='NETWORK')
@click.option('--dest', help='File to write: .safetensors from a pickle, .pkl from a snapshot', required=True, metavar='FILE')
def main(source, dest):
    """Convert a network pickle to a snapshot of this project, or back. Nothing from a pickle is run."""
    with user_errors():
        convert(source, dest)


def convert(source, dest):
    """What the command does; options as of the command."""
    ending = os.path.splitext(dest)[1].lower()
    if ending not in ('.pkl', '.safetensors'):
        raise UserError(f'--dest={dest}: must end in .pkl or .safetensors')
    path = model_files.locate(source, '--source')
    is_pickle = snapshots.is_pickle(path)
    if is_pickle == (ending == '.pkl'):
        raise UserError(f'--source={source}: is {"a pickle" if is_pickle else "no pickle"}; '
                        f'--dest must end in {".safetensors" if is_pickle else ".pkl"}')
    if is_pickle:
        checkpoint.save(dest, 'network', *legacy_pytorch.read(path))
    else:
        legacy_writer.write(dest, *checkpoint.load(path, 'network'))
    print(f'Saved {dest}')


if __name__ == '__main__':
    main()
