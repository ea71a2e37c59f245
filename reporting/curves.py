"""The curves of a run: which statistics share a panel and under which name, thinned to what a page can draw."""

import math
import re
import statistics
from typing import NamedTuple

from .numbers import is_number, rounded

OUTLIER = 8                     # times the median: higher values come from a machine that was busy otherwise
MOST_POINTS = 800               # of a curve; of more ticks, several are averaged into one point


class Group(NamedTuple):
    """Curves that share a panel. `pattern` picks statistics by name; what it captures, or `names`, labels them."""
    title: str
    note: str
    pattern: str
    names: dict[str, str] = {}
    unit: str = ''


SECONDS = 's/kimg'
ADVERSARIAL = '[GD]/(?:loss|reg)|r1_penalty|pl_penalty'
GROUPS = [
    Group('Is D overfitting?', 'r_t: mean sign of D on training images. r_v: 0 = held-out images pass for training '
          'images, 1 = for fakes. p: how often images are augmented.',
          'Loss/signs/real|Health/overfitting|Progress/augment|Progress/apa_p',
          {'Loss/signs/real': 'r_t', 'Health/overfitting': 'r_v', 'Progress/augment': 'p',
           'Progress/apa_p': 'p of APA'}),
    Group('Copies and repeats', 'Shares of fakes that are nearly a training image, or nearly each other. New photos '
          'of the same kind would give about 0.05.', 'Health/(copies|repeats)'),
    Group('Losses', 'Means over each tick.', f'Loss/({ADVERSARIAL})',
          {'G/loss': 'G', 'D/loss': 'D', 'G/reg': 'G regularisation', 'D/reg': 'R1, weighted', 'r1_penalty': 'R1',
           'pl_penalty': 'path length'}),
    Group('Losses of the methods', 'Of distillation and others; means over each tick.',
          f'Loss/(?!signs|scores|(?:{ADVERSARIAL})$)(.+)'),
    Group('Scores of D', 'Mean logits, over each tick; where images are held out, also by the same D at its end.',
          '(?:Loss|Health)/scores/(.+)'),
    Group('Agreement with the teacher', "Cosine of D's embedding and the teacher's.", 'KD/agreement_(.+)'),
    Group('Share and factor of the distillation', 'Norm of its gradient in D over that of the adversarial loss; factor '
          'on its weights.', 'KD/(gradient_share|weight_factor)',
          {'gradient_share': 'gradient share', 'weight_factor': 'factor'}),
    Group('Further statistics of the methods', '',
          '((?:KD|CHAIN|LeCam|APA)/(?!agreement_|gradient_share|weight_factor).+)'),
    Group('Time', 'Seconds per thousand images: all of the training, and by phase.',
          'Timing/(sec_per_kimg|[GD](?:main|reg|both))',
          {'sec_per_kimg': 'all'}, SECONDS),
    Group('Memory', 'Of the first process, and the most that its GPU had in use.', 'Resources/(.+)',
          {'cpu_mem_gb': 'memory', 'peak_gpu_mem_gb': 'GPU'}, 'GiB'),
]


def panels(run) -> tuple[list[dict], int]:
    """-> ([dict(title, note, unit, x: [kimg], series: [dict(label, name, y)], log: whether its
    scale is logarithmic at first)], ticks that a point is the mean of)."""
    bins = binned(run.ticks, MOST_POINTS)
    names = list(dict.fromkeys(name for tick in run.ticks for name in tick))
    x = [rounded_kimg(part[-1]['Progress/kimg']) for part in bins]
    found = []
    for group in GROUPS:
        scales = {name: _scale(name, run.config) for name in names if label_of(group, name)}
        series = [dict(label=label_of(group, name), name=name,
                       y=[None if value is None else rounded(scale * value) for value in column(bins, name)])
                  for name, scale in scales.items() if scale is not None]
        if series:
            found.append(dict(title=group.title, note=group.note, unit=group.unit, x=x, series=_distinct(series),
                              log=group.unit == SECONDS and has_outliers(series)))
    return found, len(bins[0]) if bins else 1


def has_outliers(series: list[dict]) -> bool:
    """Whether a value is so far above the usual ones of its curve that a linear scale would flatten those."""
    found = [[value for value in entry['y'] if value is not None] for entry in series]
    return any(max(values) > OUTLIER * statistics.median(values) > 0 for values in found if values)


def label_of(group: Group, name: str) -> str | None:
    """The name of a statistic in a panel; None if it is not part of it."""
    match = re.fullmatch(group.pattern, name)
    if match is None:
        return None
    found = match[1] if match.lastindex else match[0]
    return group.names.get(found, found.replace('_', ' '))


def binned(ticks: list, most: int) -> list[list]:
    """Ticks in groups of equal size, so few that there are at most `most`."""
    size = max(math.ceil(len(ticks) / most), 1)
    return [ticks[i:i + size] for i in range(0, len(ticks), size)]


def column(bins: list[list], name: str) -> list[float | None]:
    """The mean of a statistic in each bin; None where it was not reported."""
    values = ([tick[name] for tick in part if name in tick] for part in bins)
    return [sum(found) / len(found) if found else None for found in values]


def rounded_kimg(value: float) -> float:
    """Exact to one image."""
    return round(value, 3)


def _scale(name, config):
    """The factor on a value: a phase is timed per call and drawn per thousand images. None = unknown."""
    phase = re.fullmatch(r'Timing/([GD])(main|reg|both)', name)
    if phase is None:
        return 1
    batch, interval = config.get('batch_size'), config.get(f'{phase[1]}_reg_interval') if phase[2] == 'reg' else 1
    usable = all(is_number(number) and number > 0 for number in (batch, interval))
    return 1000 / batch / interval if usable else None


def _distinct(series):
    """Adds the full name to labels that occur more than once."""
    labels = [entry['label'] for entry in series]
    full = lambda entry: dict(entry, label=f'{entry["label"]} ({entry["name"]})')
    return [full(entry) if labels.count(entry['label']) > 1 else entry for entry in series]
