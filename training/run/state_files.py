"""The training state on disk: the last two are kept, and a damaged one is skipped."""

import os

from dnnlib import UserError
from torch_utils import checkpoint

from . import bad_steps
from . import files as run_files

KIND = 'training-state'
REMEDY = 'delete it, or start afresh with --new-run=1'           # of a damaged one
ASIDE = '.damaged'


def write(run_dir, tensors, info):
    """The new state becomes the newest, and the newest becomes the previous; at any moment at least one of them is
    whole. A state saved while steps were left out never becomes the previous one, so that a good state to go back to
    always remains.
    """
    newest, previous = (os.path.join(run_dir, name) for name in (run_files.STATE_FILE, run_files.PREVIOUS_STATE_FILE))
    keeps = not os.path.isfile(previous) or _is_good(newest)
    checkpoint.save(newest, KIND, tensors, info, keep_old_as=previous if keeps else None)


def _is_good(path):
    try:
        return bad_steps.is_good(checkpoint.load_info(path, KIND))
    except UserError:
        return False


def find(run_dir, tell, accept=lambda _info: True, set_aside=True):
    """Path of the newest state that is whole, None if there is none at all.

    Args:
        tell:   function of a line of text, for warnings.
        accept: function of a state's info: whether to take this one.
        set_aside: rename a damaged state if there is a good one before it: otherwise it would replace the good one when
                   the next is written.
    Raises: UserError if there are states, all of them damaged.
    """
    damaged = []
    for path in run_files.state_paths(run_dir):
        try:
            info = checkpoint.load(path, KIND, remedy=REMEDY)[1]
        except UserError as err:
            damaged.append((path, err))
            continue
        for bad, err in damaged:
            if set_aside:
                os.replace(bad, bad + ASIDE)
            tell(f'Warning: {err.fact}. Going back to the state before it, at {info["cur_nimg"] / 1000:g} kimg.')
        damaged.clear()
        if accept(info):
            return path
    if damaged:
        raise damaged[0][1]
    return None


def newest_info(run_dir):
    """The record in the newest state whose header can be read; None if there is none."""
    for path in run_files.state_paths(run_dir):
        try:
            return checkpoint.load_info(path, KIND)
        except UserError:
            continue
    return None
