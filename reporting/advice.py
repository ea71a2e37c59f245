"""Explains the statistics of a run in words, and what to do next: the rules of docs/health.md."""

import statistics
from typing import NamedTuple

from dnnlib import metric_records as protocol

from . import measured
from .curves import column
from .numbers import kimg, short

LATEST = 3                      # ticks that count as now
EARLY = 0.1                     # first share of a run, in which fakes are still blurred and alike
LEAKS, SURE, OVERFITS, RISE = 0.8, 0.9, 0.5, 0.2
LARGEST_FACTOR = 999            # of weights; what --kd-share may choose ends at 1000
NEAR, TEACHER_ONLY, LOSES_VIEW, SLOWER = 0.15, 10, 0.1, 1.5
WORSE_IN_A_ROW = 3


def give(run, finished: bool) -> list[dict]:
    """[dict(level: 'act' | 'watch' | 'good' | 'next', title, text)], the most urgent first; `commands` in backticks."""
    if not run.ticks:
        return _item('next', 'The run is young', 'No tick has ended yet. The first curves come with the first tick.')
    rules = [_overfitting, _limits, _teacher, _skipped, _metric]
    rules += [] if finished else [_slower]
    found = [item for rule in rules for item in rule(run)]
    if not any(item['level'] in ('act', 'watch') for item in found):
        found += _item('good', 'Nothing stands out', 'No statistic is where docs/health.md says to worry.')
    order = ['act', 'watch', 'good', 'next']
    return sorted([*found, *_next(run, finished)], key=lambda item: order.index(item['level']))


def _item(level, title, text):
    return [dict(level=level, title=title, text=text)]


def _values(run, name):
    return [value for value in column([[tick] for tick in run.ticks], name) if value is not None]


def _now(run, name):
    """The mean over the latest ticks; None if it is not reported."""
    values = _values(run, name)[-LATEST:]
    return statistics.fmean(values) if values else None


def _is_early(run):
    return run.total_kimg is not None and run.ticks[-1]['Progress/kimg'] < EARLY * run.total_kimg


def _remedies(run):
    """Remedies against overfitting that are not yet in use."""
    unused = [('`--mirror=1`', not run.part('training_set_kwargs').get('xflip')),
              ('`--aug=ada`', not run.part('augment_kwargs')), ('`--kd`', 'kd' not in run.part('terms'))]
    return ', '.join(['more data', *[option for option, missing in unused if missing], 'a larger `--gamma`'])


def _overfitting(run):
    values = _values(run, 'Health/overfitting')
    now = _now(run, 'Health/overfitting')
    if now is not None and now > OVERFITS and now - min(values) > RISE and not _is_early(run):
        text = (f'r_v is {now:.2f}: D takes held-out images for fakes (1) rather than for training images (0). '
                f'It helps to have {_remedies(run)}, or an end with `--early-stop`.')
        return _item('act', 'D overfits', text)
    return []


class Limit(NamedTuple):
    """A statistic, as the mean of the latest ticks, that is to stay below a value."""
    statistic: str
    limit: float
    level: str
    title: str
    text: str                       # with {now} and {remedies}
    late: bool = False              # says nothing in the early part of a run
    if_set: str | None = None       # an entry of the configuration without which it means nothing


LIMITS = [
    Limit('Loss/signs/real', SURE, 'watch', 'D is sure of every training image',
          'r_t is {now:.2f}. It helps to have {remedies}.'),
    Limit('Progress/augment', LEAKS, 'act', 'Augmentations may leak into the fakes',
          'p is {now:.2f}. Look for rotated or discoloured fakes in the grid; more data, `--kd` or a weaker '
          '`--augpipe` may help.', if_set='ada_target'),
    Limit('Health/copies', NEAR, 'act', 'G copies training images',
          '{now:.0%} of the fakes are nearly a training image, where new photos would have about 5 %. '
          'Look at them with `generate.py neighbors` before you publish any.'),
    Limit('Health/repeats', NEAR, 'watch', 'Fakes repeat each other',
          '{now:.0%} of the fakes nearly repeat another one, where new photos would have about 5 %: few motifs, '
          'or a collapse where it came within a few ticks. An earlier snapshot may be better.', late=True),
    Limit('KD/calibration', LARGEST_FACTOR, 'watch', 'The share of distillation is not reached',
          'The factor of `--kd-share` is at its limit, 1000: with these weights distillation has next to no gradient. '
          'Give the methods larger ones.'),
]


def _limits(run):
    found = []
    for row in LIMITS:
        now = _now(run, row.statistic)
        meant = row.if_set is None or run.config.get(row.if_set) is not None
        if now is not None and now > row.limit and meant and not (row.late and _is_early(run)):
            found += _item(row.level, row.title, row.text.format(now=now, remedies=_remedies(run)))
    return found


def _teacher(run):
    share, agreement = _now(run, 'KD/gradient_share'), _values(run, 'KD/agreement_real')
    found = []
    if share is not None and share > TEACHER_ONLY:
        text = (f'The gradient of the distillation is {share:.1f} times that of the adversarial loss. '
                'Lower its weights, or use `--kd-share`.')
        found += _item('watch', 'D learns the teacher and little else', text)
    now = statistics.fmean(agreement[-LATEST:]) if agreement else None
    if agreement and max(agreement) - now > LOSES_VIEW:
        text = (f'Their agreement on training images fell from {max(agreement):.2f} to {now:.2f}. '
                'A larger weight of the distillation holds it.')
        found += _item('watch', "D gives up the teacher's view", text)
    return found


def _skipped(run):
    shares = [_now(run, name) or 0 for name in run.ticks[-1] if name.startswith('Progress/skipped_steps/')]
    if max(shares, default=0) > 0.01:
        text = (f'{max(shares):.0%} of the latest steps of a phase: a gradient was infinite or NaN. Try `--fp32=1` '
                'or a larger `--gamma`.')
        return _item('act', 'Steps are being left out', text)
    return []


def _slower(run):
    values = _values(run, 'Timing/sec_per_kimg')
    if len(values) <= 3 * LATEST:
        return []
    now, usual = statistics.median(values[-LATEST:]), statistics.median(values)     # a single slow tick is no trend
    if now > SLOWER * usual:
        text = (f'{now:.3g} seconds per kimg in the latest ticks, {usual:.3g} as a rule. '
                'Other programs may be on the same cores or GPU.')
        return _item('watch', 'The training has become slower', text)
    return []


def _metric(run):
    groups = list(measured.by_protocol(run.metrics).values())
    if not groups:
        return []
    wanted = run.config.get('metrics')
    group = next((group for group in groups if isinstance(wanted, list) and group.metric in wanted[:1]), groups[0])
    if group.best is None:
        return []
    since = len(group.records) - 1 - group.records.index(group.best)
    best = group.best
    where = f'{group.metric} was best at {kimg(best["cur_nimg"])} ({short(best["value"])}, {best["snapshot"]})'
    if since >= WORSE_IN_A_ROW:
        text = f'{where}, {since} evaluations ago. {_what_to_use(run, group)} More training may not pay.'
        return _item('act', 'It has not got better lately', text)
    if since > 0:
        text = f'{where}. The best of many is a little better than it should be.'
        return _item('good', 'The best snapshot is not the last', text)
    return _item('good', 'The last snapshot is the best so far', f'{where}.')


def _what_to_use(run, group):
    if not run.snapshots or group.best['snapshot'] in run.snapshots:
        return 'Use that snapshot.'
    kept = protocol.best([record for record in group.records if record['snapshot'] in run.snapshots])
    there = f'the best that is there is {kept["snapshot"]} ({short(kept["value"])})' if kept else 'none is measured'
    return f'That snapshot is not in the folder any more; {there}. `--snapshot-keep=best=1` keeps the best.'


def _next(run, finished):
    if not finished:
        return []
    text = ('Look at the nearest training images (`generate.py neighbors`), measure with more images '
            '(`calc_metrics.py`), sample (`generate.py --grid=8x6`), publish with its card '
            '(`push_to_hub.py --dry-run`).')
    return _item('next', 'The run is complete', text)
