"""The name of a run: the data set, --cfg, and every option that changes the training and is not at its default."""

import hashlib
import os
import re

from dnnlib import files

from .changes import without_processes

OF_DATA = ('cond', 'subset', 'val_fraction', 'mirror')          # options about the images, which come before --cfg
# Not in the name, because they train the same network: the place of the run, observers, what is kept, and options that
# only change rounding. --data and --cfg have their own place in the name.
UNNAMED = {
    'data', 'cfg', 'outdir', 'new_run', 'dry_run',
    'snap', 'snapshot_networks', 'snapshot_keep', 'tick', 'metrics', 'metric_data', 'detector', 'metric_teacher',
    'early_stop', 'health', 'max_bad_steps', 'on_bad_steps',
    'gpus', 'device', 'batch_gpu', 'nhwc', 'compile', 'cuda_graphs', 'nobench', 'workers',
}
# Options with another word in the name; '' = the value speaks for itself.
WORDS = dict(val_fraction='val', init_from='init', fork_from='fork', aug='', augpipe='', diffaug_policy='',
             kd_preset='', p_kimg='p-kimg')
MAX_BYTES = 120                 # file systems take 255, and some programs 260 for the whole path


def run_name(dataset_name, params, opts, num_gpus):
    """'photos-low-shot-gamma5-kd-agkd-weight-agkd1': safe as the name of a folder, at most MAX_BYTES long.

    Two commands that train differently have two names, except where the data sets have the same name, the number of
    processes differs, or files of the same path hold something else: `find_run` compares the configurations.

    Args:
        params: click parameters of the command, in the order of the name; they know the defaults.
        opts:   {parameter name: value}.
    """
    departs = {name: value for name, value in departing(params, opts).items() if name not in UNNAMED}
    parts = {name: _part(_word(name, departs), value) for name, value in departs.items()}
    of_data = [parts.pop(name) for name in OF_DATA if name in parts]
    cfg = f'auto{num_gpus}' if opts['cfg'] == 'auto' else opts['cfg']
    dataset_name = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', '-', dataset_name)
    return _bounded('-'.join([dataset_name, *of_data, cfg, *parts.values()]))


def departing(params, opts):
    """{parameter name: value} of the options that are not at their defaults; an option whose default depends on --cfg
    or another option counts whenever it is given."""
    unset = lambda param, value: value is None or (value is False and param.is_flag)
    values = [(param, opts.get(param.name)) for param in params]
    return {param.name: value for param, value in values if not unset(param, value) and value != param.default}


def _word(name, departs):
    """'kd_weight_agkd' -> 'weight-agkd' after the part of --kd."""
    family = max((other for other in departs if name.startswith(f'{other}_')), key=len, default='')
    return WORDS.get(name, name.removeprefix(f'{family}_' if family else '')).replace('_', '-')


def _part(word, value):
    if isinstance(value, bool):
        return word if value else f'no{word}'
    if isinstance(value, str):
        return '-'.join(part for part in (word, _text(value)) if part)
    return f'{word}{value:.12g}'


def _text(value):
    """Without what a file name cannot hold. Of files and addresses only the last part, since folders may be private,
    with a hash to tell apart files of the same name."""
    if files.is_address(value) or os.path.exists(value):
        place = files.public_address(value) if files.is_address(value) else os.path.abspath(value)
        value = f'{re.split(r"[/:]", place.replace(os.sep, "/").rstrip("/"))[-1][:24]}-{_hash(place)[:6]}'
    elif ',' in value:
        return '-'.join(_text(item) for item in value.split(','))
    return re.sub(r'[^A-Za-z0-9.]+', '-', value).strip('-.')


def _bounded(name):
    """Cuts a name that is too long; a hash of the whole name replaces the rest."""
    whole = os.fsencode(name)
    if len(whole) <= MAX_BYTES:
        return name
    return f'{whole[:MAX_BYTES - 9].decode(errors="ignore").rstrip("-. ")}-{_hash(without_processes(name))[:8]}'


def _hash(text):
    return hashlib.sha256(os.fsencode(text)).hexdigest()
