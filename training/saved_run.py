"""A training with its saved state: saving, continuing, forking, and going back after bad steps."""

import dnnlib
from dnnlib import UserError
from dnnlib.text import gist
from torch_utils import distributed

from .run import bad_steps, fork, found_out
from .run.progress import Progress
from .run.state import RunState
from .run.store import RunStore
from .training import Training


class SavedRun:
    """The training of the run in `run_dir`, which exists, with its observers and records.

    Args:
        config: what training_options.json holds (see train.py).
        device: torch device.
    """

    def __init__(self, config, run_dir, device):
        self.training = Training(config, device)
        c = self.config = self.training.config
        c.setdefault('found_out', {})
        self.run_dir, self.rank = run_dir, self.training.rank
        self.is_first = self.rank == 0
        self.state = RunState(tick_end=c.kimg_per_tick * 1000)
        self.progress, self.continues = None, False
        self.observers = {name: dnnlib.util.construct_class_by_name(**kwargs) for name, kwargs in c.observers.items()}
        self.bad_steps = bad_steps.BadSteps(**c.bad_steps_kwargs)
        self.store = RunStore(run_dir, c, self.training.dataset, self.training.network_kwargs)

    @property
    def cur_nimg(self):
        return self.training.cur_nimg

    def _start_progress(self):
        """At the start of the run, and again after a rollback."""
        if self.progress is not None:
            self.state.elapsed_sec = self.progress.elapsed_sec
            self.progress.close()
        watching = [*self.observers.values(), *self.training.loss.terms.values()]
        columns = [column for part in watching for column in part.columns]
        self.progress = Progress(self.run_dir if self.is_first else None, self.config.total_kimg, self.cur_nimg,
                                 self.state.cur_tick, self.state.elapsed_sec, self.state.num_rollbacks, columns,
                                 self.state.pending_stats)

    def _parts(self):
        """{name: object with `state_dict` and `load_state_dict`}: everything that changes."""
        observers = {f'observer_{name}': observer for name, observer in self.observers.items()}
        return {**self.training.parts(), **observers, 'bad_steps': self.bad_steps}

    def save_state(self):
        """Writes the state: the first process, but all must call it."""
        self._record_bad_steps()
        states = {name: part.state_dict() for name, part in self._parts().items()}
        self.state.pending_stats = self.progress.collector.state_dict()
        self.state.elapsed_sec = self.progress.elapsed_sec
        if self.is_first:
            self.store.save_state(states, dict(cur_nimg=self.cur_nimg, batch_idx=self.training.batch_idx,
                                               **self.state.saved()))

    def resume(self):
        """Continues from the state of the run, or else from the state that it is a fork of. -> whether there is one."""
        if self._restore():
            distributed.print0(f'Continuing {self.run_dir} at {self.cur_nimg / 1000:.1f} kimg.')
        elif self.config.fork_from:
            self._fork()
        else:
            return False
        return True

    def _restore(self, accept=lambda _progress: True):
        """Goes to the newest good state in the run directory that `accept(progress)` takes. -> whether there is one."""
        saved = self.store.load_state(distributed.print0, accept)
        if saved is None:
            return False
        states, progress = saved
        for name, part in self._parts().items():
            if name in states:
                self._load(name, part, states[name])
            elif name != 'bad_steps' and not name.startswith('observer_'):      # these may be newer than the state
                raise UserError(f'{self.run_dir}: its state has no {name}; use --new-run=1, or '
                                f'--fork-from={self.run_dir}')
        self._go_on_at(progress)
        self.continues = True
        return True

    def _load(self, name, part, state):
        try:
            part.load_state_dict(state)
        except RuntimeError as err:                     # an earlier version of the project may have other tensors
            raise UserError(f'{self.run_dir}: its state has another {name} than this version of the project '
                            f'({gist(err)}); use --new-run=1, or --fork-from={self.run_dir}, which takes what '
                            'fits') from err

    def _fork(self):
        progress, self.config.found_out['fork_origin'] = fork.take_over(self.training, self._parts(), self.config)
        if self.is_first:
            found_out.write(self.run_dir, self.config.found_out)
        distributed.print0(f'Starting from the state of {self.config.fork_from} at '
                           f'{progress["cur_nimg"] / 1000:g} kimg.')
        self._go_on_at(progress)

    def _go_on_at(self, progress):
        """After the states of all parts were loaded."""
        self.training.restore_layout()
        self.training.cur_nimg, self.training.batch_idx = progress['cur_nimg'], progress['batch_idx']
        self.state = RunState.of(progress)

    # -- bad steps

    def _record_bad_steps(self):
        """Waits for the device, and writes the steps that were left out to bad-steps.jsonl."""
        found = self.bad_steps.look()
        if self.is_first:
            bad_steps.record(self.run_dir, found, self.training, self.state.num_rollbacks)

    def _too_many_bad_steps(self):
        self._record_bad_steps()
        return self.bad_steps.exceeded is not None

    def _roll_back(self):
        """After too many bad steps in a row: back to the last good state with a lower learning rate. Raises UserError
        to end the run."""
        bad, came_to = self.bad_steps, self.cur_nimg
        what, phase = bad.check_rollback(self.run_dir, came_to, self.state.num_rollbacks), bad.exceeded
        if not self._restore(bad_steps.is_good):
            raise UserError(f'{self.run_dir}: {what}, and there is no good state to go back to; '
                            f'{bad_steps.advice(self.run_dir)}')
        self.state.history.append(dict(event='rollback', cur_nimg=came_to, phase=phase, lr_factor=bad.lr_factor,
                                       to=self.cur_nimg))
        self.training.scale_learning_rates(bad.lr_factor)
        self._start_progress()
        self.progress.message(f'Warning: {what}. Back to {self.cur_nimg / 1000:g} kimg, with {bad.lr_factor:g} times '
                              'the learning rate.')
        self.save_state()
