"""The programs that make a cell, one after the other, each in a process of its own."""

import os
import subprocess
import sys

from dnnlib import UserError, metric_records

from .data_sets import DATA

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Plan:
    """How a cell is to be made.

    Args:
        cell:    the `cells.Cell`.
        data:    folder with the files of its data set.
        outdir:  of all cells; a training has a folder there by its data, system and scale.
        scale:   share of the length and of the fakes; below 1 the networks are narrow, too.
        teacher: in the place of CLIP; None = as in the paper.
        judge:   a teacher whose features take the place of Inception's; None = Inception.
        files:   options of calc_metrics.py that name networks: {'--detector': file, ...}.
        device:  as of train.py.
        further: more options of train.py.
    Raises: UserError if a file of the data set is missing.
    """

    def __init__(self, cell, data, outdir, scale=1, teacher=None, judge=None, files=None, device='auto', further=()):
        self.cell, self.outdir, self.scale, self.teacher, self.judge = cell, outdir, scale, teacher, judge
        self.device, self.further = device, list(further)
        self.files = {option: file for option, file in (files or {}).items() if file}
        self.options = cell.train_options(scale, teacher) + self.further
        source = DATA[cell.data]
        self.data = self._find(data, source, source.file)
        self.reference = self._find(data, source, source.reference) if source.reference else None

    @staticmethod
    def _find(folder, source, file):
        path = os.path.join(folder, file)
        if not os.path.exists(path):
            made = '; '.join(f'python {command}' for command in source.preparation)
            raise UserError(f'--data={folder}: {file} is not there; it is made by: {made}')
        return os.path.abspath(path)

    def folder(self, seed):
        """Of a training: its runs, and what is measured."""
        scaled = '' if self.scale >= 1 else f'-scale{self.scale:g}'
        return os.path.join(self.outdir, self.cell.data + scaled, self.cell.system, f'seed{seed}')

    def train_command(self, seed):
        metric = self.cell.metric(self.scale, self.judge, 'fid')
        return ['train.py', f'--outdir={self.folder(seed)}', f'--data={self.data}', *self.options, f'--seed={seed}',
                f'--metrics={metric}', '--snapshot-keep=best=1,last=1', f'--device={self.device}',
                *([f'--metric-data={self.reference}'] if self.reference else []),
                *([f'--metric-teacher={self.judge}'] if self.judge else []),
                *[f'{name}={file}' for name, file in self.files.items() if name == '--detector']]

    def measure_command(self, seed, network, evaluation):
        return ['calc_metrics.py', f'--network={network}', f'--metrics={self.cell.metric(self.scale, self.judge)}',
                f'--outdir={self.folder(seed)}', f'--seed={evaluation}', f'--device={self.device}', '--bootstrap=0',
                *([f'--ref={self.reference or self.data}'] if self.cell.measure == 'fid' else []),
                *([f'--teacher={self.judge}'] if self.judge and self.cell.measure == 'fid' else []),
                *[f'{name}={file}' for name, file in self.files.items()]]

    def run_of(self, seed):
        """The folder that train.py made. Raises UserError if there is none, or more than one."""
        folder = self.folder(seed)
        runs = sorted(name for name in os.listdir(folder) if name[:5].isdigit()) if os.path.isdir(folder) else []
        if len(runs) != 1:
            raise UserError(f'{folder}: holds {len(runs)} runs where one is expected; name another --outdir')
        return os.path.join(folder, runs[0])

    def snapshots(self, seed):
        """-> {'best': file, 'last': file} of a finished training; the best by its own FID."""
        run = self.run_of(seed)
        records = [record for record in metric_records.read_metric(run, self.cell.metric(self.scale, self.judge, 'fid'))
                   if os.path.exists(os.path.join(run, record.get('snapshot') or ''))]
        best = metric_records.best(records)
        if best is None:
            raise UserError(f'{run}: no snapshot that is there has been measured; name another --outdir')
        last = max(records, key=lambda record: record['cur_nimg'])
        if last['cur_nimg'] < self.cell.kimg(self.scale) * 1000:
            raise UserError(f'{run}: has stopped after {last["cur_nimg"] / 1000:g} of {self.cell.kimg(self.scale):g} '
                            'kimg; the same command goes on from there')
        return {name: os.path.join(run, record['snapshot']) for name, record in (('best', best), ('last', last))}


def call(command):
    """Runs a program of the project; its output is the user's. Raises UserError if it fails, or after Ctrl-C."""
    process, interrupted = subprocess.Popen([sys.executable, os.path.join(ROOT, command[0]), *command[1:]]), False
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:               # the program has it, too, and saves its state
            interrupted = True
    if interrupted:
        raise UserError('interrupted; the same command goes on from there')
    if process.returncode:
        raise UserError(f'{command[0]} ended with code {process.returncode}, its message is above; the same command '
                        'goes on from there')
