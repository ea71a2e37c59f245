"""Which run directory a command means."""

import json
import os
import re

from dnnlib import UserError, files

from . import run_changes, run_files, state_files

OPTIONS_FILE = 'training_options.json'


def find_run(outdir, config, description, new_run):
    """-> (run directory, 'new' | 'continue' | 'complete'): the last run of the same configuration, else the next free number.

    Raises UserError where the last run of the same name has got somewhere, is not complete, and differs.
    """
    if os.path.exists(outdir) and not os.path.isdir(outdir):
        raise UserError(f'--outdir={outdir}: is a file; name a folder')
    runs = {int(m[0]): name for name in sorted(os.listdir(outdir) if os.path.isdir(outdir) else []) if (m := re.match(r'\d{5,}', name))}
    paths = [os.path.join(outdir, runs[number]) for number in sorted(runs, reverse=True)]
    found = {path: saved for path in paths if not new_run and (saved := read_options(path)) is not None}
    for path, saved in found.items():
        if not run_changes.differences(saved, config):
            return path, 'complete' if run_files.is_complete(path, progress_of(path), config) else 'continue'
    alike = next((path for path in found if run_changes.same_name(os.path.basename(path), description)), None)
    if alike is not None and not config.get('fork_from') and is_under_way(alike, found[alike]):
        raise UserError(run_changes.refusal(alike, run_changes.differences(found[alike], config)))
    return os.path.join(outdir, f'{max(runs, default=-1) + 1:05d}-{description}'), 'new'


def read_options(run_dir):
    """The configuration of a run; None if there is none that can be read."""
    try:
        with open(os.path.join(run_dir, OPTIONS_FILE), encoding='utf-8') as f:
            return json.load(f)
    except (OSError, json.JSONDecodeError):
        return None


def write_options(run_dir, config):
    files.write_text(os.path.join(run_dir, OPTIONS_FILE), json.dumps(dict(config, run_dir=run_dir), indent=2) + '\n')


def is_under_way(run_dir, config):
    """Whether the run has got somewhere and is not complete."""
    progress = progress_of(run_dir)
    return progress['cur_nimg'] > 0 and not run_files.is_complete(run_dir, progress, config)


def progress_of(run_dir):
    """What the newest state says besides the tensors."""
    return state_files.newest_info(run_dir) or dict(cur_nimg=0)
