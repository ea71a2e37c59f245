"""A training in its folder: iterations, and at the end of each tick reports, snapshots and metrics."""

import os
import time

import dnnlib
from torch_utils import distributed, training_stats
from torch_utils.devices import out_of_memory
from torch_utils.stop_request import StopRequest

from .run import bad_steps, machine
from .run import files as run_files
from .run.sample_grid import SampleGrid
from .saved_run import SavedRun
from .speed import batch_probe
from .training import Training


class Run(SavedRun):
    """A run from its start to its end: iterations, ticks with their records, snapshots and metrics, and observers that
    may end it."""

    def __init__(self, config, run_dir, device):
        super().__init__(config, run_dir, device)
        c = self.config
        self.grid = SampleGrid(self.training.dataset, run_dir, device, c.grid_images, c.random_seed, c.batch_gpu)
        self.total_nimg = run_files.total_images(c)
        for note in self.training.notes:
            distributed.print0(note)

    @property
    def is_over(self):
        """Whether the run has its full length, or an observer has ended it."""
        return self.cur_nimg >= self.total_nimg or self.state.ended is not None

    # -- the run from its start to its end

    def run(self):
        """Trains until total_kimg, until an observer ends the run, or until a signal, which saves the state. -> whether
        the run is complete."""
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
            self.save_state()               # the run that this one is a fork of may change its state

    def _catch_up(self):
        """Makes up for what a crash right after saving the state has prevented."""
        missing = lambda: not os.path.isfile(self.store.snapshot_path(self.cur_nimg))
        if self.is_over and distributed.agree(missing):
            self.save_fakes()
            self.save_snapshot()
            self.store.wait()
        if not distributed.agree(missing):
            self.evaluate()

    def _iteration(self):
        at = self.training.batch_idx, self.cur_nimg
        for phase in self.training.step():
            self.bad_steps.note(phase, *at)
        self.progress.advance(self.config.batch_size)
        self.store.check()

    def _end_iteration(self):
        """Looks for bad steps now and then, and ends the tick when it is due."""
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
            self.grid.save_fakes(self.training.G_ema,
                                 f'fakes{run_files.kimg_label(self.cur_nimg, self.config.kimg_per_tick)}.png')

    def save_snapshot(self):
        if self.is_first:
            networks = dict(G_ema=self.training.G_ema, G=self.training.G, D=self.training.D)
            self.store.save_snapshot(self.cur_nimg, networks, self.state.history)

    def evaluate(self):
        """Metrics of the averaged generator that are not on record yet, by the function that the configuration
        names."""
        c = self.config
        snapshot = self.store.snapshot_path(self.cur_nimg)
        missing = lambda: run_files.unmeasured(self.run_dir, snapshot, c.metrics, self.cur_nimg)
        if metrics := distributed.agree(missing):
            self.store.wait()               # a recorded value needs its snapshot on disk
            self.progress.bar.clear()
            dnnlib.util.call_func_by_name(metrics=metrics, G=self.training.G_ema, device=self.training.device,
                                          seed=c.random_seed,
                                          dataset_kwargs=c.get('metric_set_kwargs', c.training_set_kwargs),
                                          progress=False, run_dir=self.run_dir, snapshot=snapshot,
                                          cur_nimg=self.cur_nimg, **c.metric_kwargs)
        if self.is_first:
            self.store.metrics_measured(self.cur_nimg)

    # -- observers that end the run

    def _ask_observers(self, saved=True):
        """Lets an observer end the run, which is then saved and measured as at its full length. All processes follow
        the first one."""
        verdicts = {name: observer.verdict(self.run_dir, self.cur_nimg) for name, observer in self.observers.items()}
        by, why = distributed.agree(lambda: next(((name, why) for name, why in verdicts.items() if why is not None),
                                                 (None, None)))
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
        """A verdict in the state holds while its settings do; asks again if a crash prevented one."""
        if self.state.ended is None:
            self._ask_observers()
        elif not run_files.is_ended(self.state.ended, self.config):
            self.state.ended = None


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
        if not out_of_memory(err):
            raise
        raise batch_probe.advice(config, run_dir, err) from err
