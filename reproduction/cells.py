"""Cells: a value in print, the training that gives it, and the protocol by which it is measured."""

import difflib
from typing import NamedTuple

from dnnlib import UserError

from .data_sets import DATA
from .paper import TABLES, Value, rows
from .systems import SYSTEMS

FAKES = {'low-shot': 5000, 'biggan-cifar': 10_000, 'biggan-imagenet64': 50_000}
# Of a scaled run: --cbase, and the least that is trained (some iterations) and measured
NARROW = {'low-shot': 1024, 'biggan-cifar': 4, 'biggan-imagenet64': 8}
LEAST_KIMG = {'low-shot': 0.128, 'biggan-cifar': 0.8, 'biggan-imagenet64': 1.024}
LEAST_FAKES = 50
STARTS = {'--lecam=': '--lecam-start', '--vision-aided=': '--vision-aided-warmup'}    # after a tenth of it
USE_TEXTS = {'cgkd', 'labeldist'}
NAMES = {'fid': 'fid{}_full', 'is': 'is{}', 'lpips': 'lpips_diversity{}'}
TITLES = {'fid': 'FID', 'is': 'IS', 'lpips': 'LPIPS'}
LPIPS = 'How many pairs, of one class or of any, the paper does not say; ours are of any.'


class Cell(NamedTuple):
    """One value of the paper."""
    table: int
    data: str
    system: str
    measure: str                    # 'fid', 'is', 'lpips'
    printed: Value

    @property
    def key(self):
        """'table1/obama/da+kd'; with the measure where a table has two."""
        parts = [f'table{self.table}', self.data, self.system]
        return '/'.join(parts + [self.measure] * (len(TABLES[self.table].measures) > 1))

    @property
    def training(self):
        """Cells of one name come from the same training."""
        return f'{self.data}/{self.system}'

    def system_options(self, teacher=None):
        """Options of train.py that make the system. teacher: in the place of CLIP."""
        data = DATA[self.data]
        options = list(SYSTEMS[self.system].options_for(data.cfg))
        methods = [name for option in options if option.startswith('--kd=')
                   for name in option.removeprefix('--kd=').split(',')]
        if data.texts and USE_TEXTS.intersection(methods):
            options.append(f'--kd-texts={data.texts}')
        if teacher and methods:
            options = [option for option in options if not option.startswith('--kd-teacher=')]
            options.append(f'--kd-teacher={teacher}')
        if teacher:
            options = [f'--vision-aided={teacher}' if option.startswith('--vision-aided=') else option
                       for option in options]
        return options

    def kimg(self, scale=1):
        """Length of the training."""
        data = DATA[self.data]
        return data.kimg if scale >= 1 else max(data.kimg * scale, LEAST_KIMG[data.cfg])

    def train_options(self, scale=1, teacher=None):
        """Options of train.py, except those that name files and seeds."""
        data = DATA[self.data]
        kimg = self.kimg(scale)
        options = [f'--cfg={data.cfg}', *self.system_options(teacher), f'--kimg={kimg:g}']
        if '--aug=linear' in options:
            options.append(f'--p-kimg={kimg:g}')
        if scale < 1:
            starts = [start for option, start in STARTS.items() if any(given.startswith(option) for given in options)]
            options += [f'--tick={kimg:g}', '--snap=1', f'--cbase={NARROW[data.cfg]}',
                        *[f'{start}={kimg / 10:g}' for start in starts]]
        return options

    def fakes(self, scale=1):
        """How many are measured."""
        fakes = FAKES[DATA[self.data].cfg]
        return fakes if scale >= 1 else max(round(fakes * scale), LEAST_FAKES)

    def metric(self, scale=1, judge=None, measure=None):
        """The name of a measure for calc_metrics.py. judge: a teacher whose features take the place of Inception's."""
        measure = measure or self.measure
        count = self.fakes(scale)
        number = f'{count // 1000}k' if count % 1000 == 0 else count
        return ('feat' if judge and measure == 'fid' else '') + NAMES[measure].format(number)

    def open_points(self):
        """What the paper leaves open, in sentences."""
        data, system = DATA[self.data], SYSTEMS[self.system]
        return [note for note in (system.note_for(data.cfg), data.note, LPIPS if self.measure == 'lpips' else '')
                if note]

    def departure(self):
        """What is done otherwise than in the paper, so that the value may differ; '' = nothing that is known."""
        return SYSTEMS[self.system].departure_for(DATA[self.data].cfg)


def all_cells(table=None):
    """Every cell in the order of print, or those of one table."""
    return [Cell(number, data, system, measure, value) for number in ([table] if table else TABLES)
            for system, row in rows(TABLES[number]) for data, measure, value in row]


def find(key):
    """The cell of a key. Raises UserError, with those that are spelled alike."""
    cells = {cell.key: cell for cell in all_cells()}
    if key not in cells:
        alike = difflib.get_close_matches(key, cells, 3, 0.5)
        hint = f'did you mean {", ".join(alike)}? ' if alike else ''
        raise UserError(f'{key}: there is no such cell; {hint}python reproduce.py list shows all')
    return cells[key]
