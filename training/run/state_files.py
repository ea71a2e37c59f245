"""The training state on the disk: the last two are kept, and a damaged one is passed over."""

import os

from dnnlib import UserError
from torch_utils import checkpoint

from . import bad_steps
from . import files as run_files

KIND = 'training-state'
REMEDY = 'delete it, or start afresh with --new-run=1'           # of a damaged one
ASIDE = '.damaged'


def write(run_dir, tensors, info):
    """The state becomes the newest one, and the newest one the previous one; at any moment at least one of them is
    whole.

    A state that no rollback would go to does not become the previous one, which stays: however often states are saved
    while steps are being left out, there is one to go back to.
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
        set_aside: rename a damaged state that a good one stands behind: else it would take the good one's place when
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
    """What the newest state whose header can be read says besides the tensors; None if there is none."""
    for path in run_files.state_paths(run_dir):
        try:
            return checkpoint.load_info(path, KIND)
        except UserError:
            continue
    return None
