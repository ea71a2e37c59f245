"""The programs that make a cell, one after the other, each in a process of its own."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import zipfile

from dnnlib import UserError, metric_records
from dnnlib.files import sha256_of_file

from .cells import NAMES
from .data_sets import DATA

NETWORKS = {'fid': ('--detector',), 'is': ('--detector',), 'lpips': ('--alexnet', '--lpips-heads')}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Plan:
    """How a cell is to be made.

    Args:
        cell:    the `cells.Cell`.
        data:    folder with the files of its data set, and of its teacher where that is a file.
        outdir:  of all cells. Trainings of equal facts share a folder there.
        scale:   share of the length and of the fakes; below 1 the networks are narrow, too.
        teacher: in the place of CLIP; None = as in the paper.
        judge:   a teacher whose features take the place of Inception's; None = Inception.
        files:   options of calc_metrics.py that name networks: {'--detector': file, ...}.
        device:  as of train.py.
        further: more options of train.py.
        dry:     only list in `missing` what is missing; the folders of the trainings are then called DIGEST, since
                 their names depend on it.
    Raises: UserError if a file of the data set is missing, or holds another number of images, unless `dry`.
    """

    def __init__(self, cell, data, outdir, scale=1, teacher=None, judge=None, files=None, device='auto', further=(),
                 dry=False):
        self.cell, self.outdir, self.scale, self.judge = cell, outdir, scale, judge
        self.teacher = teacher if cell.system_options(teacher) != cell.system_options() else None
        self.device, self.further = device, list(further)
        self.files = {option: file for option, file in (files or {}).items() if file}
        self.dry, self.missing = dry, []
        source = DATA[cell.data]
        self.data = self._find(data, source, source.file, source.images)
        self.reference = self._find(data, source, source.reference, source.reference_images)
        self.options = [self._with_file(data, option) for option in cell.train_options(scale, teacher)] + self.further
        values = [option.partition('=')[2] for option in self.options]
        self.digests = [digest_of(path) for path in (self.data, self.reference, judge, *self.files.values(), *values)
                        if path and os.path.exists(path)]

    def _find(self, folder, source, file, images):
        if file is None:
            return None
        path = os.path.join(folder, file)
        made = '; '.join(f'python {command}' for command in source.preparation)
        with self._told():
            if not os.path.isfile(path):
                raise UserError(f'--data={folder}: {file} is not there; it is made by: {made}')
            if self.scale >= 1 and (found := images_in(path)) != images:
                raise UserError(f'--data={folder}: {file} holds {found} images, the paper has {images}; it is made '
                                f'by: {made}')
        return os.path.abspath(path)

    @contextlib.contextmanager
    def _told(self):
        """Lists what is wrong, instead of an error, where nothing is to be done yet."""
        try:
            yield
        except UserError as err:
            if not self.dry:
                raise
            self.missing.append(str(err))

    def _with_file(self, folder, option):
        """A teacher that is a file lies with the data."""
        name, _, value = option.partition('=')
        if not value.endswith('.pth'):
            return option
        path = os.path.join(folder, value)
        with self._told():
            if not os.path.isfile(path):
                raise UserError(f'--data={folder}: the teacher {value} is not there; put it there, as its authors '
                                'released it, or take another one by --teacher')
        return f'{name}={os.path.abspath(path)}'

    def facts(self):
        """Everything that the values depend on, except the seed and the number of evaluations."""
        return dict(training=self.cell.training, scale=self.scale, digests=self.digests, files=sorted(self.files),
                    options=[nameless(option) for option in self.options], further=list(map(nameless, self.further)),
                    teacher=nameless(self.teacher), judge=nameless(self.judge))

    def folder(self, seed):
        """Of a training: its run, and what is measured of it."""
        digest = 'DIGEST' if self.missing else hashlib.sha256(json.dumps(self.facts()).encode()).hexdigest()[:8]
        return os.path.join(self.outdir, self.cell.data, f'{self.cell.system}-{digest}', f'seed{seed}')

    def train_command(self, seed):
        metric = self.cell.metric(self.scale, self.judge, 'fid')
        return ['train.py', f'--outdir={self.folder(seed)}', f'--data={self.data}', *self.options, f'--seed={seed}',
                f'--metrics={metric}', '--snapshot-keep=best=1,last=1', f'--device={self.device}',
                *([f'--metric-data={self.reference}'] if self.reference else []),
                *([f'--metric-teacher={self.judge}'] if self.judge else []),
                *self._files_of('fid')]

    def measure_command(self, network, evaluation, outdir):
        fid = self.cell.measure == 'fid'
        return ['calc_metrics.py', f'--network={network}', f'--metrics={self.cell.metric(self.scale, self.judge)}',
                f'--outdir={outdir}', f'--seed={evaluation}', f'--device={self.device}', '--bootstrap=0',
                *([f'--ref={self.reference or self.data}'] if fid else []),
                *([f'--teacher={self.judge}'] if self.judge and fid else []), *self._files_of(self.cell.measure)]

    def try_command(self, seed):
        """Measures a few images of the network that comes with the project: what the measure needs is there, or is
        missed before the training. None where the training itself measures so."""
        if self.cell.measure == 'fid':
            return None
        network = os.path.join(ROOT, 'training', 'demo_network.safetensors')
        return ['calc_metrics.py', f'--network={network}', f'--metrics={NAMES[self.cell.measure].format(10)}',
                f'--outdir={os.path.join(self.folder(seed), "try")}', f'--device={self.device}', '--bootstrap=0',
                *self._files_of(self.cell.measure)]

    def _files_of(self, measure):
        """The options that name the networks of a measure."""
        used = () if measure == 'fid' and self.judge else NETWORKS[measure]
        return [f'{name}={file}' for name, file in self.files.items() if name in used]

    def evaluations(self, seed):
        """Where its measurements are: with the run, so that those of another one are not taken for them."""
        return os.path.join(self.run_of(seed), 'evaluations')

    def run_of(self, seed):
        """The folder that train.py made. Raises UserError if there is none, or more than one."""
        folder = self.folder(seed)
        runs = sorted(name for name in os.listdir(folder) if name[:5].isdigit()) if os.path.isdir(folder) else []
        if len(runs) != 1:
            raise UserError(f'{folder}: holds {len(runs)} runs where one is expected; move the others away')
        return os.path.join(folder, runs[0])

    def snapshots(self, seed):
        """-> {'best': file, 'last': file} of a finished training; the best by its own FID."""
        run = self.run_of(seed)
        records = [record for record in metric_records.read_metric(run, self.cell.metric(self.scale, self.judge, 'fid'))
                   if os.path.exists(os.path.join(run, record.get('snapshot') or ''))]
        best = metric_records.best(records)
        if best is None:
            raise UserError(f'{run}: no snapshot that is there has been measured; move it away and start again')
        last = max(records, key=lambda record: record['cur_nimg'])
        if last['cur_nimg'] < self.cell.kimg(self.scale) * 1000:
            raise UserError(f'{run}: has stopped after {last["cur_nimg"] / 1000:g} of {self.cell.kimg(self.scale):g} '
                            'kimg; the same command goes on from there')
        return {name: os.path.join(run, record['snapshot']) for name, record in (('best', best), ('last', last))}


def nameless(option):
    """An option, or its value, without the folder of a file that it names: the digest tells what is in it."""
    name, _, value = (option or '').rpartition('=')
    if not os.path.exists(value):
        return option
    return f'{name}={os.path.basename(value)}' if name else os.path.basename(value)


def digest_of(path):
    """SHA-256 of a file, or of all in a folder."""
    if os.path.isfile(path):
        return sha256_of_file(path)
    paths = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return hashlib.sha256(''.join(sha256_of_file(file) for file in paths).encode()).hexdigest()


def images_in(path):
    """How many pictures an archive of dataset_tool.py holds. Raises UserError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(name.lower().endswith('.png') for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as err:
        raise UserError(f'{path}: is not a zip that can be read ({err}); make it again') from err


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
