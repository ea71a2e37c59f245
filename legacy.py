"""Network pickles of the reference implementation to snapshots of this project, and back:
python legacy.py --source=X.pkl --dest=X.safetensors"""

import contextlib
import io
import os
import shutil
import tempfile

import click

from dnnlib import EasyDict, UserError
from dnnlib.commands import NETWORK, SETTINGS
from dnnlib.util import user_errors
from torch_utils import checkpoint
from training import model_files
from training.snapshots import files as snapshots
from training.snapshots import pickle_pytorch as legacy_pytorch
from training.snapshots import pickle_writer as legacy_writer


def load_network_pkl(f, device='cpu'):
    """The networks of a pickle, a snapshot or a training state as modules of this project, in eval mode.

    Nothing from the file is run.

    Args:
        f:      open binary file, at its beginning or where the pickle or snapshot begins; or a path.
        device: where to put them.
    Returns:    dict(G=, D=, G_ema=, training_set_kwargs=, augment_pipe=None); None for a network that is not there.
    Raises:     UserError if the file cannot be used.
    """
    with _path_of(f) as (path, is_copy):
        networks, info = snapshots.load_networks(path, device)
        if is_copy:                                     # on a CPU the weights are a view of the file
            for network in networks.values():
                own = {key: value.clone() for key, value in network.state_dict().items()}
                network.load_state_dict(own, assign=True)
    training_set_kwargs = info['training'].get('options', {}).get('training_set_kwargs')
    return dict(dict(G=None, D=None, G_ema=None) | networks, augment_pipe=None,
                training_set_kwargs=training_set_kwargs and EasyDict(training_set_kwargs))


@contextlib.contextmanager
def _path_of(f):
    """-> (path of a file with the rest of `f`, whether it is a copy that is removed afterwards)."""
    if isinstance(f, (str, os.PathLike)):
        yield os.fspath(f), False
    elif f.tell() == 0 and isinstance(f, io.BufferedReader) and _is_file(f):
        yield f.name, False
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, os.path.basename(str(getattr(f, 'name', ''))) or 'network')
            with open(path, 'wb') as copy:
                shutil.copyfileobj(f, copy)
            yield path, True


def _is_file(f):
    """Whether its name still leads to the file that is open."""
    named = isinstance(f.name, str) and os.path.isfile(f.name)
    return named and os.path.samestat(os.fstat(f.fileno()), os.stat(f.name))


@click.command(context_settings=SETTINGS)
@click.option('--source', help=f'Network to read: {NETWORK}', required=True, metavar='NETWORK')
@click.option('--dest', help='File to write: .safetensors from a pickle, .pkl from a snapshot', required=True,
              metavar='FILE')
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
    if not is_pickle:
        checkpoint.load_info(path, 'network')           # this is the message for other files, such as a web page
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
