"""Steps that were left out because a gradient was infinite or NaN: counted without waiting for the device, and
reported."""

import os

import torch

from dnnlib import UserError
from torch_utils import checkpoint
from torch_utils.seeds import step_seed

from . import files as run_files
from .records import append_line

LOOK_EVERY = 64                 # iterations between two looks, each of which waits for the device
DEFAULT_IN_A_ROW = 20


class BadSteps:
    """Which steps of a run were left out. The steps are the same on all processes. They are read late, but the count is
    exact.

    Args:
        max_in_a_row: steps of one phase, one after the other, that are too many.
        reaction:     'rollback' = go back to the last good state with a lower learning rate; 'stop' = end the run.
        lr_factor:    on the learning rates at each rollback.
        max_rollbacks: of a run, after which it ends.
    Attributes:
        in_a_row: {phase: steps left out at the end}, as of the last look.
        exceeded: the first phase that had too many; None = none.
    """

    def __init__(self, max_in_a_row=DEFAULT_IN_A_ROW, reaction='rollback', lr_factor=0.5, max_rollbacks=3):
        self.max_in_a_row, self.reaction = max_in_a_row, reaction
        self.lr_factor, self.max_rollbacks = lr_factor, max_rollbacks
        self.load_state_dict({})

    def note(self, phase, batch_idx, cur_nimg):
        """After a step of `phase`, in the iteration that began after `cur_nimg` images. Does not wait."""
        if phase.skipped is not None:
            self.pending.append((phase.name, batch_idx, cur_nimg, phase.skipped))

    def look(self):
        """Waits for the device. -> [dict(phase, batch_idx, cur_nimg, in_a_row)], the steps left out since the last
        look."""
        flags = torch.stack([flag for *_, flag in self.pending]).tolist() if self.pending else []
        found = []
        for (phase, batch_idx, cur_nimg, _), bad in zip(self.pending, flags, strict=True):
            self.in_a_row[phase] = self.in_a_row.get(phase, 0) + 1 if bad else 0
            if bad:
                found.append(dict(phase=phase, batch_idx=batch_idx, cur_nimg=cur_nimg, in_a_row=self.in_a_row[phase]))
            if self.in_a_row[phase] >= self.max_in_a_row:
                self.exceeded = self.exceeded or phase
        self.pending = []
        return found

    def check_rollback(self, run_dir, cur_nimg, num_rollbacks):
        """-> a clause that says what went wrong. Raises UserError if the run has to end instead."""
        what = (f'the last {self.max_in_a_row} steps of {self.exceeded} up to {cur_nimg / 1000:g} kimg were left out: '
                'a gradient was infinite or NaN')
        if self.reaction == 'stop':
            raise UserError(f'{run_dir}: {what}; the last state is kept, {advice(run_dir)}, or --on-bad-steps=rollback')
        if num_rollbacks >= self.max_rollbacks:
            raise UserError(f'{run_dir}: {what}, after {self.max_rollbacks} rollbacks; the last state is kept, '
                            f'{advice(run_dir)}')
        return what

    def state_dict(self):
        """As of the last `look`."""
        return dict(in_a_row=dict(self.in_a_row), exceeded=self.exceeded)

    def load_state_dict(self, state):
        self.pending = []
        self.in_a_row, self.exceeded = dict(state.get('in_a_row', {})), state.get('exceeded')


def record(run_dir, found, training, num_rollbacks):
    """Writes the steps that a look has found to bad-steps.jsonl, with their images and seeds."""
    c = training.config
    for step in found:
        images = training.reals.order.items(step['cur_nimg'], c.batch_size).tolist()
        seeds = [step_seed(c.random_seed, rank, step['cur_nimg']) for rank in range(training.num_ranks)]
        line = dict(step, rollbacks=num_rollbacks, images=images, seeds=seeds)
        append_line(os.path.join(run_dir, run_files.BAD_STEPS_FILE), line)


def warnings(phases, stats, num_ranks):
    """A sentence for each phase that has left out steps in this tick."""
    for phase in phases:
        stat = stats.get(f'Progress/skipped_steps/{phase.name}')
        if stat is not None and (skipped := round(stat['mean'] * stat['num'] / num_ranks)) > 0:
            yield (f'Warning: {skipped} of {stat["num"] // num_ranks} {phase.name} steps were left out: a gradient was '
                   f'infinite or NaN ({run_files.BAD_STEPS_FILE}). If this goes on, try --fp32=1 or a larger --gamma.')


def advice(run_dir):
    """Advice on bad steps, for messages."""
    return (f'{run_files.BAD_STEPS_FILE} lists them. Try --fp32=1 or a larger --gamma, with --fork-from={run_dir} if '
            'there is a state')


def is_good(progress):
    """Whether a state was saved while no steps were left out; a state from before they were counted passes."""
    state = checkpoint.unflatten(progress['state'].get('bad_steps', {'$dict': []}), {})
    return state.get('exceeded') is None and not any(state.get('in_a_row', {}).values())
