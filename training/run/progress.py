"""The output of a run: a row per tick, stats.jsonl, TensorBoard if installed, a progress bar."""

import contextlib
import os
import time

import torch
import tqdm

from dnnlib import files
from torch_utils import training_stats

from . import files as run_files
from .records import append_line, forget_after
from .tick_table import TickTable

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None

try:
    import psutil
except ImportError:                 # the memory of the host is not reported
    psutil = None


class Progress:
    """Collects and writes the statistics of a run; used on the first process, except for `collect`, which all must
    call.

    Args:
        run_dir:     where to write; None on the other processes.
        total_kimg:  thousands of images of the whole run.
        start_nimg:  images seen before this process started.
        start_tick:  number of the first tick that ends in this process.
        elapsed_sec: seconds that earlier processes of the run took.
        rollbacks:   of the run so far.
        columns:     `training_stats.Column`s of its methods and observers.
        pending:     statistics reported earlier in this tick, from `Collector.state_dict`.
    """

    def __init__(self, run_dir, total_kimg, start_nimg=0, start_tick=0, elapsed_sec=0.0, rollbacks=0, columns=(),
                 pending=None):
        self.run_dir = run_dir
        self.total_nimg = total_kimg * 1000
        self.start_nimg = start_nimg
        self.start_time = time.time() - elapsed_sec
        self.process_start = self.tick_start = time.time()
        self.tick_start_nimg = start_nimg
        self.maintenance_sec = 0.0
        self.table = TickTable(columns)
        self.collector = training_stats.Collector(keep_previous=False)
        self.collector.load_state_dict(pending or {})
        if run_dir is not None:
            forget_after(run_dir, start_nimg, start_tick, rollbacks)
        purge = start_nimg // 1000 + 1 if start_nimg > 0 else None
        self.writer = (SummaryWriter(run_dir, purge_step=purge) if run_dir is not None
                       and SummaryWriter is not None else None)
        self.bar = tqdm.tqdm(total=total_kimg, initial=start_nimg / 1000, unit='kimg',
                             disable=None if run_dir is not None else True,
                             bar_format='{l_bar}{bar}| {n:.1f}/{total} kimg [{elapsed}<{remaining}]')

    @property
    def elapsed_sec(self):
        return time.time() - self.start_time

    def advance(self, nimg):
        """After an iteration of `nimg` images."""
        self.bar.update(nimg / 1000)

    def message(self, text):
        """Prints a line without breaking the bar; on the first process only."""
        if self.run_dir is not None:
            self.bar.clear()
            print(text, flush=True)
            self.bar.refresh()

    def collect(self, cur_nimg, cur_tick, timers, device):
        """Ends a tick: gathers the statistics of all processes. -> {name: {'num', 'mean', 'std'}}."""
        sec = time.time() - self.tick_start
        nimg = max(cur_nimg - self.tick_start_nimg, 1)
        report = training_stats.report
        report('Progress/tick', cur_tick)
        report('Progress/kimg', cur_nimg / 1000)
        report('Timing/total_sec', self.elapsed_sec)
        report('Timing/sec_per_tick', sec)
        report('Timing/sec_per_kimg', sec / nimg * 1000)
        report('Timing/maintenance_sec', self.maintenance_sec)
        for name, timer in timers.items():
            phase_sec, count = timer.take()
            if count > 0:
                report(f'Timing/{name}', phase_sec / count)
        if psutil is not None:
            report('Resources/cpu_mem_gb', psutil.Process(os.getpid()).memory_info().rss / 2 ** 30)
        if device.type == 'cuda':
            report('Resources/peak_gpu_mem_gb', torch.cuda.max_memory_allocated(device) / 2 ** 30)
            torch.cuda.reset_peak_memory_stats(device)
        self.collector.update()
        return {name: value for name, value in self.collector.as_dict().items() if value['num'] > 0}

    def write(self, stats, cur_nimg):
        """Prints the row of a tick and appends the statistics to the files."""
        if self.run_dir is None:
            return
        done = max(cur_nimg - self.start_nimg, 1)
        eta = (time.time() - self.process_start) / done * max(self.total_nimg - cur_nimg, 0)
        means = {name: value['mean'] for name, value in stats.items()}
        for line in self.table.lines(round(means['Progress/tick']), dict(means, ETA=eta)):
            self.message(line)
        append_line(os.path.join(self.run_dir, run_files.STATS_FILE), dict(stats, timestamp=time.time()))
        if self.writer is not None:
            self._write_events(stats, cur_nimg)

    def _write_events(self, stats, cur_nimg):
        try:
            for name, value in stats.items():
                self.writer.add_scalar(name, value['mean'], global_step=cur_nimg // 1000, walltime=time.time())
            self.writer.flush()
        except OSError as err:
            raise files.write_error(os.path.join(self.run_dir, 'events.out.tfevents...'), err) from err

    def start_tick(self, cur_nimg, maintenance_sec):
        """After everything that is done between two ticks."""
        self.tick_start = time.time()
        self.tick_start_nimg = cur_nimg
        self.maintenance_sec = maintenance_sec

    def close(self):
        self.bar.close()
        if self.writer is not None:
            with contextlib.suppress(OSError):          # `write` has reported it
                self.writer.close()
