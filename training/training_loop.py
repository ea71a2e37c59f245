"""A training in its folder: iterate, and at the end of a tick report, save and measure."""

import os
import time

import dnnlib
from dnnlib import UserError
from torch_utils import distributed, misc, training_stats
from torch_utils.stop_request import StopRequest

from .run import bad_steps, fork, found_out, machine
from .run import files as run_files
from .run.progress import Progress
from .run.sample_grid import SampleGrid
from .run.state import RunState
from .run.store import RunStore
from .speed import batch_probe
from .training import Training


class Run:
    """The run in `run_dir`, which exists: a `Training`, its ticks, records, states and snapshots, and how it continues, forks and recovers.

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
        dataset = self.training.dataset
        self.grid = SampleGrid(dataset, run_dir, device, c.grid_images, c.random_seed, c.batch_gpu)
        self.observers = {name: dnnlib.util.construct_class_by_name(**kwargs) for name, kwargs in c.observers.items()}
        self.bad_steps = bad_steps.BadSteps(**c.bad_steps_kwargs)
        self.store = RunStore(run_dir, c, dataset, self.training.network_kwargs)
        self.total_nimg = run_files.total_images(c)
        for note in self.training.notes:
            distributed.print0(note)

    @property
    def cur_nimg(self):
        return self.training.cur_nimg

    @property
    def is_over(self):
        """Whether the run has its full length, or an observer has ended it."""
        return self.cur_nimg >= self.total_nimg or self.state.ended is not None

    # -- the run from its start to its end

    def run(self):
        """Trains until total_kimg, until an observer ends the run, or until a signal, upon which the state is saved. -> whether it is complete."""
        machine.tell(self.run_dir if self.is_first else None, self.training.device, self.cur_nimg, distributed.print0)
        if not self.is_over:
            self.training.speed_up(distributed.print0)
        self._start()
        try:
            with StopRequest(lambda text: self.progress.message(text)) as stop:
                while not self.is_over and not stop.agreed(self.training.batch_idx):
                    self._iteration()
                    self._end_iteration()
                if not self.is_over:
                    self.save_state()
                if self.is_first:
                    self.store.write_report()
                self.store.wait()
        except KeyboardInterrupt:
            self.store.close(cancel=True)
            raise
        finally:
            self.store.close()
            self.progress.close()
        return self.is_over

    def _start(self):
        self._start_progress()
        if self.is_first:
            self.store.read_facts(self.state.dataset_hash)
        if not self.continues:
            self._begin()
        if self.cur_nimg > 0:
            self._catch_up()
        for observer in self.observers.values():
            observer.start(self.training)
        if 0 < self.cur_nimg < self.total_nimg:
            self._resume_verdict()
        self.progress.start_tick(self.cur_nimg, 0)

    def _begin(self):
        if self.is_first:
            self.grid.save_reals('reals.png')
            self.grid.save_fakes(self.training.G_ema, 'fakes_init.png')
        if self.cur_nimg > 0:
            self.save_state()               # the state that this run is a fork of may change

    def _catch_up(self):
        """After a crash between saving the state and the last of what follows it."""
        missing = lambda: not os.path.isfile(self.store.snapshot_path(self.cur_nimg))
        if self.is_over and distributed.agree(missing):
            self.save_fakes()
            self.save_snapshot()
            self.store.wait()
        if not distributed.agree(missing):
            self.evaluate()

    def _start_progress(self):
        """At the start of the run and of what follows a rollback."""
        if self.progress is not None:
            self.state.elapsed_sec = self.progress.elapsed_sec
            self.progress.close()
        self.progress = Progress(self.run_dir if self.is_first else None, self.config.total_kimg, self.cur_nimg, self.state.cur_tick,
                                 self.state.elapsed_sec, self.state.num_rollbacks, self.state.pending_stats)

    def _iteration(self):
        at = self.training.batch_idx, self.cur_nimg
        for phase in self.training.step():
            self.bad_steps.note(phase, *at)
        self.progress.advance(self.config.batch_size)
        self.store.check()

    def _end_iteration(self):
        """Looks for bad steps now and then, and ends the tick where it is over."""
        ends_tick = self.cur_nimg >= min(self.state.tick_end, self.total_nimg)
        if (ends_tick or self.training.batch_idx % bad_steps.LOOK_EVERY == 0) and self._too_many_bad_steps():
            self._roll_back()
        elif ends_tick:
            self._end_tick()

    # -- the end of a tick

    def _end_tick(self):
        c, training = self.config, self.training
        began, done = time.time(), self.cur_nimg >= self.total_nimg
        if hasattr(training.augment_pipe, 'p'):
            training_stats.report('Progress/augment', training.augment_pipe.p)
        for observer in self.observers.values():
            observer.report(training)
        timers = {phase.name: phase.timer for phase in training.phases}
        stats = self.progress.collect(self.cur_nimg, self.state.cur_tick, timers, training.device)
        self.progress.write(stats, self.cur_nimg)
        self._warn(stats)
        self.state.cur_tick += 1
        self.state.tick_end = self.cur_nimg + c.kimg_per_tick * 1000
        at = lambda ticks: ticks is not None and (done or self.state.cur_tick % ticks == 0)
        if at(c.image_snapshot_ticks):
            self.save_fakes()
        if at(c.network_snapshot_ticks):
            self.save_snapshot()
            self.save_state()
            self.evaluate()
        if not done:
            self._ask_observers(saved=at(c.network_snapshot_ticks))
        self.progress.start_tick(self.cur_nimg, time.time() - began)

    def _warn(self, stats):
        ada = self.training.ada
        if ada is not None and (text := ada.warning()) is not None:
            self.progress.message(text)
        for text in bad_steps.warnings(self.training.phases, stats, self.training.num_ranks):
            self.progress.message(text)

    def save_fakes(self):
        if self.is_first:
            self.grid.save_fakes(self.training.G_ema, f'fakes{run_files.kimg_label(self.cur_nimg, self.config.kimg_per_tick)}.png')

    def save_snapshot(self):
        if self.is_first:
            networks = dict(G_ema=self.training.G_ema, G=self.training.G, D=self.training.D)
            self.store.save_snapshot(self.cur_nimg, networks, self.state.history)

    def evaluate(self):
        """Metrics of the averaged generator that are not on record yet, by the function that the configuration names."""
        c = self.config
        snapshot = self.store.snapshot_path(self.cur_nimg)
        if metrics := distributed.agree(lambda: run_files.unmeasured(self.run_dir, snapshot, c.metrics)):
            self.store.wait()               # a value on record belongs to a snapshot on the disk
            self.progress.bar.clear()
            dnnlib.util.call_func_by_name(metrics=metrics, G=self.training.G_ema, device=self.training.device, seed=c.random_seed,
                                          dataset_kwargs=c.get('metric_set_kwargs', c.training_set_kwargs),
                                          progress=False, run_dir=self.run_dir, snapshot=snapshot, cur_nimg=self.cur_nimg,
                                          **c.metric_kwargs)
        if self.is_first:
            self.store.metrics_measured(self.cur_nimg)

    # -- observers that end the run

    def _ask_observers(self, saved=True):
        """Lets an observer end the run, which then is saved and measured as at its full length. All processes decide as the first one."""
        verdicts = {name: observer.verdict(self.run_dir, self.cur_nimg) for name, observer in self.observers.items()}
        by, why = distributed.agree(lambda: next(((name, why) for name, why in verdicts.items() if why is not None), (None, None)))
        if by is None:
            return
        if not saved:
            self.save_fakes()
            self.save_snapshot()
            self.evaluate()
        self.state.ended = run_files.ending(by, why, self.config)
        self.save_state()
        self.progress.message(f'Ended at {self.cur_nimg / 1000:g} kimg by {by}: {why}.')

    def _resume_verdict(self):
        """A verdict in the state holds while its terms do; one that a crash has prevented is made up for."""
        if self.state.ended is None:
            self._ask_observers()
        elif not run_files.is_ended(self.state.ended, self.config):
            self.state.ended = None

    # -- the state

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
            self.store.save_state(states, dict(cur_nimg=self.cur_nimg, batch_idx=self.training.batch_idx, **self.state.saved()))

    def resume(self):
        """Continues from the run's state, if there is one, else from the state that the run is a fork of. -> whether there is any."""
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
                part.load_state_dict(states[name])
            elif name != 'bad_steps' and not name.startswith('observer_'):      # those may have joined since
                raise UserError(f'{self.run_dir}: its state has no {name}; use --new-run=1, or --fork-from={self.run_dir}')
        self._go_on_at(progress)
        self.continues = True
        return True

    def _fork(self):
        progress, self.config.found_out['fork_origin'] = fork.take_over(self.training, self._parts(), self.config)
        if self.is_first:
            found_out.write(self.run_dir, self.config.found_out)
        distributed.print0(f'Starting from the state of {self.config.fork_from} at {progress["cur_nimg"] / 1000:g} kimg.')
        self._go_on_at(progress)

    def _go_on_at(self, progress):
        """After the states of all parts were loaded."""
        self.training.restore_layout()
        self.training.cur_nimg, self.training.batch_idx = progress['cur_nimg'], progress['batch_idx']
        self.state = RunState.of(progress)

    # -- bad steps

    def _record_bad_steps(self):
        """Looks for steps that were left out, which waits for the device, and writes each to bad-steps.jsonl."""
        found = self.bad_steps.look()
        if self.is_first:
            bad_steps.record(self.run_dir, found, self.training, self.state.num_rollbacks)

    def _too_many_bad_steps(self):
        self._record_bad_steps()
        return self.bad_steps.exceeded is not None

    def _roll_back(self):
        """After too many bad steps in a row: back to the last good state with a lower learning rate. Raises UserError to end the run."""
        bad, came_to = self.bad_steps, self.cur_nimg
        what, phase = bad.check_rollback(self.run_dir, came_to, self.state.num_rollbacks), bad.exceeded
        if not self._restore(bad_steps.is_good):
            raise UserError(f'{self.run_dir}: {what}, and there is no good state to go back to; {bad_steps.advice(self.run_dir)}')
        self.state.history.append(dict(event='rollback', cur_nimg=came_to, phase=phase, lr_factor=bad.lr_factor, to=self.cur_nimg))
        self.training.scale_learning_rates(bad.lr_factor)
        self._start_progress()
        self.progress.message(f'Warning: {what}. Back to {self.cur_nimg / 1000:g} kimg, with {bad.lr_factor:g} times the learning rate.')
        self.save_state()


def training_loop(config, run_dir, device_type):
    """Trains or continues the run in `run_dir`. -> whether it is complete (False: stopped by a signal, state saved)."""
    device = distributed.init(device_type)
    try:
        if config['batch_gpu_auto']:
            batch_probe.settle(config, run_dir, lambda c: Training(c, device))
        run = Run(config, run_dir, device)
        run.resume()
        return run.run()
    except RuntimeError as err:
        if not misc.out_of_memory(err):
            raise
        raise batch_probe.advice(config, run_dir, err) from err
