"""The content of a run's folder. A run that is young, or was killed, moved or partly deleted, has less of it."""

import glob
import json
import os
import re
from typing import NamedTuple

from dnnlib import UserError
from dnnlib import metric_records as protocol
from dnnlib.published import without_folders
from training.run import files as run_files
from training.run.changes import as_now

from .numbers import is_number

OPTIONS_FILE, MACHINE_FILE = 'training_options.json', 'machine.jsonl'
REALS_FILE, FIRST_FAKES, PAGE_FILE = 'reals.png', 'fakes_init.png', 'report.html'
FAKES = re.compile(r'fakes(\d+)(?:\.(\d{3}))?\.png')
HEADER_LIMIT = 4 << 20          # bytes of a snapshot's header, as torch_utils/checkpoint.py reads them


class Run(NamedTuple):
    folder: str
    name: str                           # of the folder
    config: dict                        # training_options.json, of each path the last part; {} if there is none
    ticks: list[dict[str, float]]       # {statistic: mean} of each tick, by images seen
    frames: list[tuple[int, str]]       # (images seen, file) of each grid of fakes
    metrics: list[dict]                 # all records of measurements that can be read
    machines: list[dict]                # one per start of the training
    bad_steps: list[dict]
    log: list[str]
    snapshots: dict[str, int]           # {file: images seen}
    info: dict                          # the record of the training in the last snapshot

    @property
    def nimg(self) -> int:
        """Images seen at the last tick."""
        return round(self.ticks[-1]['Progress/kimg'] * 1000) if self.ticks else 0

    def part(self, name: str) -> dict:
        """A table of the configuration; {} if it has none of that name."""
        return as_table(self.config.get(name))

    @property
    def total_kimg(self) -> float | None:
        total = self.config.get('total_kimg')
        return total if is_number(total) and total > 0 else None


def as_table(value) -> dict:
    """A value from a file that should be a table; {} if it is none."""
    return value if isinstance(value, dict) else {}


def is_run(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in (OPTIONS_FILE, run_files.STATS_FILE))


def read(folder: str) -> Run:
    """Reads a run. Raises UserError if the folder is not that of a run, or cannot be read."""
    folder = os.path.abspath(folder)
    if os.path.isfile(folder):
        raise UserError(f'{folder}: is a file; name the directory of a run, such as {os.path.dirname(folder)}')
    if not os.path.isdir(folder):
        raise UserError(f'{folder}: there is no such folder; name the directory of a run')
    if not is_run(folder):
        raise UserError(f'{folder}: is not the directory of a run: there is no {OPTIONS_FILE} and no '
                        f'{run_files.STATS_FILE} in it; name one that train.py has made')
    try:
        return _read(folder)
    except OSError as err:
        raise UserError(f'{err.filename or folder}: cannot be read ({err.strerror or err}); '
                        'check the permissions') from err


def _read(folder):
    lines = lambda name: protocol.read_lines(os.path.join(folder, name))
    snapshots = run_files.find_snapshots(folder)
    last = max(snapshots, key=snapshots.get, default=None)
    return Run(folder, os.path.basename(folder), without_folders(as_now(_table(os.path.join(folder, OPTIONS_FILE)))),
               _ticks(lines(run_files.STATS_FILE)), _frames(folder), _metrics(folder),
               without_folders(lines(MACHINE_FILE)), lines(run_files.BAD_STEPS_FILE),
               _log(os.path.join(folder, run_files.LOG_FILE)), snapshots,
               {} if last is None else without_folders(_training_of(os.path.join(folder, last))))


def _table(path):
    """The JSON object in a file; {} if there is none that can be read."""
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            value = json.load(f)
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return as_table(value)


def _ticks(records):
    """Each once: a run that was continued may have written a line twice."""
    found = {}
    for record in records:
        tick = {name: entry['mean'] for name, entry in record.items()
                if isinstance(entry, dict) and is_number(entry.get('mean'))}
        if is_number(record.get('timestamp')):
            tick['timestamp'] = record['timestamp']
        if 'Progress/kimg' in tick:
            found[tick['Progress/kimg']] = tick
    return [found[kimg] for kimg in sorted(found)]


def _frames(folder):
    found = [(0, FIRST_FAKES)] if os.path.isfile(os.path.join(folder, FIRST_FAKES)) else []
    matches = [FAKES.fullmatch(name) for name in os.listdir(folder)]
    return found + sorted((int(m[1]) * 1000 + int(m[2] or 0), m[0]) for m in matches if m)


def _metrics(folder):
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), run_files.metric_name('*')))):
        found += [record for record in protocol.read_lines(path) if _is_measurement(record)]
    return without_folders(found)


def _is_measurement(record):
    tables = all(isinstance(record.get(part) or {}, dict) for part in ('detector', 'reference', 'generated', 'formula'))
    value, nimg = record.get('value'), record.get('cur_nimg')
    texts = isinstance(record.get('metric'), str) and isinstance(record.get('snapshot'), str)
    return tables and texts and (value is None or is_number(value)) and type(nimg) is int and is_number(nimg)


def _log(path):
    if not os.path.isfile(path):
        return []
    with open(path, encoding='utf-8', errors='replace') as f:
        return f.read().splitlines()


def _training_of(path):
    """The record of the training in the header of a snapshot; {} if it is damaged, or not from this project."""
    with open(path, 'rb') as f:
        size = int.from_bytes(f.read(8), 'little')
        header = f.read(size) if size <= HEADER_LIMIT else b''
    try:
        info = json.loads(json.loads(header)['__metadata__']['info'])
        return dict(as_table(info['training']), project_version=info.get('project_version'))
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
