"""Which run directory a command means."""

import contextlib
import functools
import json
import os
import re

import dnnlib
from dnnlib import UserError, files

from . import changes as run_changes
from . import files as run_files
from . import found_out, state_files

OPTIONS_FILE = 'training_options.json'


def find_run(outdir, config, description, new_run):
    """-> (run directory, 'new' | 'continue' | 'complete'): the last run of the same configuration, else the next free
    number.

    Raises UserError if the last run of the same name is unfinished and has other options.
    """
    if os.path.exists(outdir) and not os.path.isdir(outdir):
        raise UserError(f'--outdir={outdir}: is a file; name a folder')
    # Several runs have one number where their commands were given at once
    runs = sorted([(int(m[0]), name) for name in (os.listdir(outdir) if os.path.isdir(outdir) else [])
                   if (m := re.match(r'\d{5,}', name))], reverse=True)
    paths = [os.path.join(outdir, name) for _number, name in runs]
    found = {path: saved for path in paths if not new_run and (saved := read_options(path)) is not None}
    content_hash = functools.cache(lambda: _content_hash(config))
    for path, saved in found.items():
        if _is_same(path, saved, config, content_hash):
            return path, 'complete' if run_files.is_complete(path, progress_of(path), config) else 'continue'
    alike = next((path for path in found if run_changes.same_name(os.path.basename(path), description)), None)
    if alike is not None and not config.get('fork_from') and is_under_way(alike, found[alike]):
        raise UserError(run_changes.refusal(alike, run_changes.differences(found[alike], config)))
    return os.path.join(outdir, f'{runs[0][0] + 1 if runs else 0:05d}-{description}'), 'new'


def _is_same(run_dir, saved, config, content_hash):
    """Whether a configuration is that of a run. content_hash() reads all images, only if they may have moved."""
    if not run_changes.differences(saved, config):
        return True
    trained_on = progress_of(run_dir).get('dataset_hash')
    if trained_on is None:
        return False
    moved = run_changes.with_data_at(saved, config['training_set_kwargs']['path'])
    return not run_changes.differences(moved, config) and trained_on == content_hash()


def _content_hash(config):
    with contextlib.closing(dnnlib.util.construct_class_by_name(**config['training_set_kwargs'])) as dataset:
        return dataset.content_hash()


def read_options(run_dir):
    """The configuration of a run, with the table `found_out`; None if there is none that can be read."""
    try:
        with open(os.path.join(run_dir, OPTIONS_FILE), encoding='utf-8') as f:
            config = run_changes.as_now(json.load(f))
    except (OSError, json.JSONDecodeError):
        return None
    return dict(config, found_out=found_out.read(run_dir, config.get('found_out')))


def write_options(run_dir, config):
    files.write_text(os.path.join(run_dir, OPTIONS_FILE), json.dumps(dict(config, run_dir=run_dir), indent=2) + '\n')


def is_under_way(run_dir, config):
    """Whether the run has done some work and is not complete."""
    progress = progress_of(run_dir)
    return progress['cur_nimg'] > 0 and not run_files.is_complete(run_dir, progress, config)


def progress_of(run_dir):
    """The progress in the newest state."""
    return state_files.newest_info(run_dir) or dict(cur_nimg=0)
