"""A run that starts from the state of another one, with other options: --fork-from."""

import os

from dnnlib import UserError
from torch_utils import checkpoint, distributed

from . import files as run_files
from . import state_files
from . import store as run_store


def find_origin(path):
    """The state that --fork-from means, of a run directory its newest good one. -> (file, dict(run, cur_nimg, checksum)
    to record of it).

    Raises UserError if there is none.
    """
    if not os.path.exists(path):
        raise UserError(f'--fork-from={path}: there is no such run or state file; name a folder such as runs/00000-x')
    try:
        file = state_files.find(path, distributed.print0, set_aside=False) if os.path.isdir(path) else path
        info = {} if file is None else checkpoint.load_info(file, state_files.KIND)
    except UserError as err:
        weights = ("; to start from a snapshot's weights use --init-from"
                   if os.path.basename(path).startswith('network-snapshot') else '')
        raise UserError(f'--fork-from={path}: {err.fact}; name another run, or a state file{weights}') from err
    if file is None:
        raise UserError(f'--fork-from={path}: there is no training state in it; name a run that has saved one, or a '
                        'state file')
    return file, dict(run=os.path.basename(os.path.dirname(os.path.abspath(file))), cur_nimg=info['cur_nimg'],
                      checksum=checkpoint.load_checksum(file, state_files.KIND))


def check_start(config):
    """Raises UserError if there is no such state, or it has already reached --kimg."""
    start = find_origin(config.fork_from)[1]['cur_nimg']
    if start >= run_files.total_images(config):
        raise UserError(f'--kimg={config.total_kimg:g}: the run starts at {start / 1000:g} kimg (--fork-from); give a '
                        'larger --kimg, which counts from the first image of the original run')


def take_over(training, parts, config):
    """Gives a new run the state of another one -> (its progress, record of its origin); all processes must call it.

    The networks must be the same. Of everything else the new run takes what fits by name and shape: averages of the
    optimisers (learning rate and betas are its own), p of ADA, path length mean, terms, observers. Raises UserError if
    the networks do not fit.

    Args:
        training: `Training`.
        parts:    {name: object}, everything that changes during the run.
        config:   fork_from, kimg_per_tick.
    """
    path = config.fork_from
    file, origin = distributed.agree(lambda: find_origin(path))
    states, progress = run_store.read_state(file)
    for name in ('G', 'D', 'G_ema'):
        _take_network(parts[name], states[name], name, path)
    for name in ('G_opt', 'D_opt'):
        _take_averages(parts[name], states[name])
    for term in parts['loss'].terms.values():
        term.networks_loaded()
    _take_matching(parts['loss'], states['loss'])
    followed = ['augment_pipe', 'ada'] if 'ada' in states and training.ada is not None else []
    if followed and states['ada'].keys() != training.ada.state_dict().keys():
        followed.remove('ada')                      # of another rule; p continues from its value
    for name in [*followed, *(name for name in parts if name.startswith('observer_') and name in states)]:
        parts[name].load_state_dict(states[name])
    tick_end = min(progress['tick_end'], progress['cur_nimg'] + config.kimg_per_tick * 1000)
    history = [*progress.get('history', []), dict(origin, event='fork')]
    return dict(progress, tick_end=tick_end, history=history, pending_stats={}, dataset_hash=None, ended=None), origin


def _take_network(module, state, name, path):
    own = {key: value.shape for key, value in module.state_dict().items()}
    if own != {key: value.shape for key, value in state.items()}:
        raise UserError(f'--fork-from={path}: its {name} has other layers than this one; use the same --cfg, '
                        'resolution and labels, or --init-from, which takes the weights that fit')
    module.load_state_dict(state)


def _take_matching(loss, state):
    # What is no tensor has none
    fits = lambda own, other: getattr(own, 'shape', None) == getattr(other, 'shape', None)
    loss.load_state_dict({key: state[key] if key in state and fits(own, state[key]) else own
                          for key, own in loss.state_dict().items()})


def _take_averages(opt, state):
    """By the names of the parameters, where shapes agree: frozen layers and further terms move their places. Settings
    such as the learning rate stay."""
    names = lambda groups: {name: i for group in groups
                            for name, i in zip(group.get('param_names', []), group['params'], strict=False)}
    own = opt.state_dict()
    places, before = names(own['param_groups']), names(state['param_groups'])
    if not before:
        distributed.print0('The averages of the optimisers begin anew: the state is of an earlier version, without the '
                           'names of the parameters.')
    shapes = {name: param.shape for name, param in names(opt.param_groups).items()}
    averages = {name: state['state'].get(before.get(name)) for name in places}
    opt.load_state_dict(dict(own, state={places[name]: found for name, found in averages.items()
                                         if found is not None and found['exp_avg'].shape == shapes[name]}))
