"""The training loop: set up, iterate over the phases, and at the end of a tick report, save and measure."""

import functools
import os
import time

import torch

import dnnlib
from torch_utils import distributed, misc, training_stats
from torch_utils.image_grid import SampleGrid
from torch_utils.stop_request import StopRequest

from .augment.ada import AdaptiveProbability, LinearProbability, set_probability
from .dataset.real_images import RealImages
from .ema import WeightAverage
from .networks_setup import build_networks
from .observers import observer as observers
from .phases import make_phases
from .run import bad_steps, machine, rollback
from .run import files as run_files
from .run import state as trainer_state
from .run.progress import Progress
from .run.store import RunStore
from .speed import batch_probe
from .speed.compiling import compile_main_phases
from .speed.cuda_graphs import record_phases


class Trainer:
    """One run. `config` is what training_options.json holds (see train.py); `run_dir` exists."""

    def __init__(self, config, run_dir, device):
        self.config = dnnlib.EasyDict(config)
        self.run_dir = run_dir
        self.device = device
        self.rank, self.num_ranks = distributed.get_rank(), distributed.get_world_size()
        trainer_state.set_progress(self, dict(cur_nimg=0, batch_idx=0, cur_tick=0, tick_end=config['kimg_per_tick'] * 1000, elapsed_sec=0.0))
        self.progress, self.continues = None, False
        self._set_backends()
        self._load_data()
        networks, self.network_kwargs = build_networks(self.config, self.dataset, device)
        self.G, self.D, self.G_ema = networks['G'], networks['D'], networks['G_ema']
        self._build_training()
        self.store = RunStore(run_dir, self.config, self.dataset, self.network_kwargs)

    # -- set up

    def _set_backends(self):
        torch.backends.cudnn.benchmark = self.config.cudnn_benchmark
        torch.backends.cuda.matmul.allow_tf32 = self.config.allow_tf32
        torch.backends.cudnn.allow_tf32 = self.config.conv_tf32
        if self.device.type == 'cpu':
            misc.keep_freed_memory()

    def _load_data(self):
        c = self.config
        self.dataset = dnnlib.util.construct_class_by_name(**c.training_set_kwargs)
        self.batch_rank = c.batch_size // self.num_ranks
        self.reals = RealImages(self.dataset, self.batch_rank, self.device, rank=self.rank, num_ranks=self.num_ranks, seed=c.random_seed,
                                **c.data_loader_kwargs)
        self.labels = self.reals.labels
        self.grid = SampleGrid(self.dataset, self.run_dir, self.device, c.grid_images, c.random_seed, c.batch_gpu)

    def _build_training(self):
        c = self.config
        build = dnnlib.util.construct_class_by_name
        self.augment_pipe = self.ada = None
        if c.augment_kwargs is not None:
            self.augment_pipe = build(**c.augment_kwargs).train().requires_grad_(False).to(self.device)
        if c.ada_target is not None or c.augment_p is not None:
            moves = c.ada_target is not None or c.augment_ramp_kimg is not None
            set_probability(self.augment_pipe, 0 if moves else c.augment_p)
        terms = {name: build(**kwargs).to(self.device) for name, kwargs in c.terms.items()}
        self.loss = build(device=self.device, G_mapping=self.G.mapping, G_synthesis=self.G.synthesis, D=self.D,
                          augment_pipe=self.augment_pipe, terms=terms, **c.loss_kwargs)
        distributed.broadcast_from_main(self.loss.terms)
        if c.ada_target is not None:
            self.ada = AdaptiveProbability(self.augment_pipe.p, c.ada_target, c.ada_interval, c.ada_kimg, c.batch_size)
        elif c.augment_ramp_kimg is not None:
            self.ada = LinearProbability(self.augment_pipe.p, c.augment_p, c.augment_ramp_kimg, c.batch_size)
        trained = [param for param in self.loss.terms.parameters() if param.requires_grad]
        self.phases = make_phases(self.G, self.D, trained, c.G_opt_kwargs, c.D_opt_kwargs, c.G_reg_interval,
                                  c.D_reg_interval, self.device, c.D_steps)
        self.loss.terms.requires_grad_(False)
        self.ema = WeightAverage(self.G, self.G_ema, c.ema_kimg, c.ema_rampup, c.ema_start_kimg)
        self.accumulate = {phase.name: functools.partial(self._accumulate, phase) for phase in self.phases}
        self.bad_steps = bad_steps.BadSteps(**c.bad_steps_kwargs)
        self.observers = {name: build(**kwargs) for name, kwargs in c.observers.items()}

    # -- run

    def speed_up(self):
        """Before the first step, once: has the phases compiled and recorded as the configuration asks for. Needs no other process."""
        if self.config.compile:
            compile_main_phases(self.loss, self.config.batch_gpu, distributed.print0)
        if self.config.cuda_graphs:
            record_phases(self.accumulate, self.phases, self.loss, distributed.print0)

    def resume(self):
        """Continues from the state of the run, or of the one that it is a fork of. -> whether there is one."""
        return trainer_state.resume(self)

    def run(self):
        """Trains until total_kimg, until an observer ends the run, or until a signal, upon which the state is saved. -> whether it is complete."""
        total_nimg = run_files.total_images(self.config)
        machine.tell(self.run_dir if self.rank == 0 else None, self.device, self.cur_nimg, distributed.print0)
        if self.cur_nimg < total_nimg and self.ended is None:
            self.speed_up()
        self.start_progress()
        if self.rank == 0:
            self.store.read_facts(self.dataset_hash)
        self._begin(done=self.cur_nimg >= total_nimg or self.ended is not None)
        for observer in self.observers.values():
            observer.start(self)
        if 0 < self.cur_nimg < total_nimg:
            observers.resume_verdict(self)
        self.progress.start_tick(self.cur_nimg, 0)
        try:
            with StopRequest(lambda text: self.progress.message(text)) as stop:
                while self.cur_nimg < total_nimg and self.ended is None and not stop.agreed(self.batch_idx):
                    self._iteration()
                    ends_tick = self.cur_nimg >= self.tick_end or self.cur_nimg >= total_nimg
                    if bad_steps.too_many(self, ends_tick):
                        rollback.react(self)
                    elif ends_tick:
                        self._end_tick(done=self.cur_nimg >= total_nimg)
                if self.cur_nimg < total_nimg and self.ended is None:
                    trainer_state.save(self)
                self.store.wait()
        except KeyboardInterrupt:
            self.store.close(cancel=True)
            raise
        finally:
            self.store.close()
            self.progress.close()
        return self.cur_nimg >= total_nimg or self.ended is not None

    def start_progress(self):
        """At the start of the run and of what follows a rollback."""
        if self.progress is not None:
            self.elapsed_sec = self.progress.elapsed_sec
            self.progress.close()
        self.progress = Progress(self.run_dir if self.rank == 0 else None, self.config.total_kimg, self.cur_nimg, self.cur_tick, self.elapsed_sec,
                                 bad_steps.num_rollbacks(self), self.pending_stats)

    def _begin(self, done):
        if not self.continues:
            if self.rank == 0:
                self.grid.save_reals('reals.png')
                self.grid.save_fakes(self.G_ema, 'fakes_init.png')
            if self.cur_nimg > 0:
                trainer_state.save(self)        # the state that this run is a fork of may change
        if self.cur_nimg > 0:
            self._catch_up(done)

    def _iteration(self):
        self.step()
        self.cur_nimg += self.config.batch_size
        self.batch_idx += 1
        self.progress.advance(self.config.batch_size)
        self.store.check()

    def step(self):
        """One step of the networks: all phases that are due."""
        c = self.config
        torch.manual_seed(misc.step_seed(c.random_seed, self.rank, self.cur_nimg))
        batch = self.reals.batch(self.cur_nimg)
        self.loss.start_step(self.cur_nimg)
        for phase in self.phases:
            gen_z = torch.randn([self.batch_rank, self.G.z_dim], device=self.device)
            gen_c = self.labels[torch.randint(len(self.labels), [self.batch_rank]).to(self.device, non_blocking=True)]
            if self.batch_idx % phase.interval == 0:
                self._run_phase(phase, batch, gen_z, gen_c)
        self.loss.finish_step(self.batch_idx)
        if self.batch_idx % c.D_steps == 0:             # G has taken a step
            self.ema.update(self.cur_nimg, c.batch_size * c.D_steps)
        if self.ada is not None:
            self.ada.update(self.batch_idx)

    def _run_phase(self, phase, batch, gen_z, gen_c):
        phase.begin()
        self.accumulate[phase.name](*batch, gen_z, gen_c)
        phase.end()
        self.bad_steps.note(phase, self.batch_idx, self.cur_nimg)

    def _accumulate(self, phase, *tensors):
        """Gradients over micro-batches; they are the mean over the whole batch whatever the number of those."""
        rounds = -(-self.batch_rank // self.config.batch_gpu)
        parts = zip(*[x.split(self.config.batch_gpu) for x in tensors], strict=True)
        for i, (img, c, idx, z, cz) in enumerate(parts):
            self.loss.accumulate_gradients(phase=phase.name, real_img=img, real_c=c, real_idx=idx, gen_z=z, gen_c=cz,
                                           gain=phase.gain / rounds, round_idx=i)

    # -- end of a tick

    def _end_tick(self, done):
        c = self.config
        began = time.time()
        if hasattr(self.augment_pipe, 'p'):
            training_stats.report('Progress/augment', self.augment_pipe.p)
        for observer in self.observers.values():
            observer.report(self)
        stats = self.progress.collect(self.cur_nimg, self.cur_tick, {phase.name: phase.timer for phase in self.phases}, self.device)
        self.progress.write(stats, self.cur_nimg)
        self._warn(stats)
        self.cur_tick += 1
        self.tick_end = self.cur_nimg + c.kimg_per_tick * 1000
        at = lambda ticks: ticks is not None and (done or self.cur_tick % ticks == 0)
        if at(c.image_snapshot_ticks):
            self.save_fakes()
        if at(c.network_snapshot_ticks):
            self.save_snapshot()
            trainer_state.save(self)
            self.evaluate()
        if not done:
            observers.ask(self, saved=at(c.network_snapshot_ticks))
        self.progress.start_tick(self.cur_nimg, time.time() - began)

    def _warn(self, stats):
        if self.ada is not None and (text := self.ada.warning()) is not None:
            self.progress.message(text)
        for text in bad_steps.warnings(self, stats):
            self.progress.message(text)

    def _catch_up(self, done):
        """After a crash between saving the state and the last of what follows it."""
        missing = lambda: not os.path.isfile(self.store.snapshot_path(self.cur_nimg))
        if done and distributed.agree(missing):
            self.save_fakes()
            self.save_snapshot()
            self.store.wait()
        if not distributed.agree(missing):
            self.evaluate()

    def save_fakes(self):
        if self.rank == 0:
            self.grid.save_fakes(self.G_ema, f'fakes{run_files.kimg_label(self.cur_nimg, self.config.kimg_per_tick)}.png')

    def save_snapshot(self):
        if self.rank == 0:
            self.store.save_snapshot(self.cur_nimg, dict(G_ema=self.G_ema, G=self.G, D=self.D), self.history)

    def evaluate(self):
        """Metrics of the averaged generator that are not on record yet, by the function that the configuration names."""
        c = self.config
        snapshot = self.store.snapshot_path(self.cur_nimg)
        if metrics := distributed.agree(lambda: run_files.unmeasured(self.run_dir, snapshot, c.metrics)):
            self.store.wait()               # a value on record belongs to a snapshot on the disk
            self.progress.bar.clear()
            dnnlib.util.call_func_by_name(metrics=metrics, G=self.G_ema, device=self.device, seed=c.random_seed,
                                          dataset_kwargs=c.get('metric_set_kwargs', c.training_set_kwargs),
                                          progress=False, run_dir=self.run_dir, snapshot=snapshot, cur_nimg=self.cur_nimg,
                                          **c.metric_kwargs)
        if self.rank == 0:
            self.store.metrics_measured(self.cur_nimg)


def training_loop(config, run_dir, device_type):
    """Trains or continues the run in `run_dir`. -> whether it is complete (False: stopped by a signal, state saved)."""
    device = distributed.init(device_type)
    try:
        if config['batch_gpu_auto']:
            batch_probe.settle(config, run_dir, lambda c: Trainer(c, run_dir, device))
        trainer = Trainer(config, run_dir, device)
        trainer.resume()
        return trainer.run()
    except RuntimeError as err:
        if not misc.out_of_memory(err):
            raise
        raise batch_probe.advice(config, run_dir, err) from err
