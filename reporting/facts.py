"""What is trained, on which data, and how far it is: rows of names and values for the tables of a page."""

import datetime
import statistics

from dnnlib.text import yes_or_no
from dnnlib.util import format_time
from training.run import files as run_files

from . import events
from .numbers import is_number, short
from .run_folder import as_table

RECENT = 10                     # latest ticks, whose speed the estimate of the time uses
KNOWN_TERMS = 'class_name'


def progress(run) -> dict:
    """For the head of a page: dict(kimg, total, share, finished, state, spent, left, seen_at)."""
    kimg = run.ticks[-1]['Progress/kimg'] if run.ticks else 0
    total = run.total_kimg
    finished = (total is not None and run.nimg >= run_files.total_images(run.config)) or events.has_ended(run)
    left = None if finished or total is None else _seconds_left(run, total)
    spent = run.ticks[-1].get('Timing/total_sec') if run.ticks else None
    return dict(kimg=round(kimg, 3), total=total, share=min(kimg / total, 1) if total else None, finished=finished,
                spent=None if spent is None else format_time(spent), left=None if left is None else format_time(left),
                seen_at=_seen_at(run))


def _seconds_left(run, total):
    """At the speed of the latest ticks, including measuring and saving between them."""
    known = [tick for tick in run.ticks[-RECENT:] if 'Timing/total_sec' in tick]
    done = known[-1]['Progress/kimg'] - known[0]['Progress/kimg'] if known else 0
    if done <= 0:
        return None
    seconds = known[-1]['Timing/total_sec'] - known[0]['Timing/total_sec']
    return max(seconds, 0) / done * max(total - known[-1]['Progress/kimg'], 0)


def _seen_at(run):
    """When the last tick ended, in UTC; None if it is not known."""
    stamp = run.ticks[-1].get('timestamp') if run.ticks else None
    if stamp is None or not 0 <= stamp < 2 ** 35:
        return None
    return datetime.datetime.fromtimestamp(stamp, datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC')


def data(run) -> list[tuple[str, str]]:
    found, kwargs = as_table(run.info.get('dataset')), run.part('training_set_kwargs')
    classes = found.get('class_names')
    rows = [('name', found.get('name') or kwargs.get('path')),
            ('images', found.get('images') or kwargs.get('max_size')), ('held out', found.get('held_out')),
            ('resolution', _side(kwargs.get('resolution'))), ('mirrored, too', yes_or_no(kwargs.get('xflip'))),
            ('labels used', yes_or_no(kwargs.get('use_labels'))),
            ('classes', ', '.join(map(str, classes)) if isinstance(classes, list) else None),
            ('SHA-256 of the content', _digest(found.get('content_hash')))]
    return _known(rows)


def training(run) -> list[tuple[str, str]]:
    c = run.config
    return _known([('batch', c.get('batch_size')), ('learning rate', run.part('G_opt_kwargs').get('lr')),
                   ('R1 weight', run.part('loss_kwargs').get('r1_gamma')),
                   ('augmentation', _object(c.get('augment_kwargs')) if 'augment_kwargs' in c else None),
                   ('target of ADA', c.get('ada_target')),
                   ('further methods', '; '.join(_object(term) for name, term in run.part('terms').items()
                                                 if name != 'kd') or None),
                   ('started from', c.get('init_from') or c.get('fork_from')), ('seed', c.get('random_seed'))])


def teacher(run) -> list[tuple[str, str]]:
    kd = as_table(run.part('terms').get('kd'))
    settings = as_table(kd.get('settings'))
    return _known([('teacher', kd.get('teacher')), ('methods', kd.get('methods')),
                   *[(name.replace('_', ' '), value) for name, value in settings.items() if value is not None]])


def machine(run) -> list[tuple[str, str]]:
    last = run.machines[-1] if run.machines else {}
    return _known([('version', run.info.get('project_version')), ('torch', last.get('torch')),
                   ('CUDA', last.get('cuda')), ('device', last.get('device') or run.config.get('device')),
                   ('processes', run.config.get('num_gpus')), ('starts', len(run.machines) or None),
                   ('seconds per kimg', _speed(run))])


def given(run) -> list[tuple[str, str]]:
    """The options of the command that are not at their defaults."""
    return _known([(f'--{name.replace("_", "-")}', value) for name, value in run.part('options_given').items()])


def _speed(run):
    values = [tick['Timing/sec_per_kimg'] for tick in run.ticks[-RECENT:] if 'Timing/sec_per_kimg' in tick]
    return short(statistics.median(values)) if values else None


def _known(rows):
    return [(name, _text(value)) for name, value in rows if value is not None and value != '']


def _text(value):
    if isinstance(value, float):
        return f'{value:g}'
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def _digest(value):
    return f'{value[:16]}…' if isinstance(value, str) else None


def _side(value):
    return f'{value} × {value}' if is_number(value) else None


def _object(kwargs):
    """{'class_name': 'a.b.LeCam', 'weight': 1} -> 'LeCam: weight 1'."""
    if not isinstance(kwargs, dict):
        return 'none'
    values = ', '.join(f'{key} {_text(value)}' for key, value in kwargs.items() if key != KNOWN_TERMS)
    name = str(kwargs.get(KNOWN_TERMS, '')).rsplit('.', 1)[-1]
    return f'{name}: {values}' if values else name
