"""Several runs on one page: curves over each other, values of equal protocol, options that differ, grids."""

import os
import re

from dnnlib import UserError, files
from dnnlib import metric_records as protocol
from training.run import changes as run_changes

from . import curves, events, facts, measured, page, pictures, run_folder
from .numbers import rounded

PAGE_FILE = 'compare.html'
MOST_RUNS = 8                   # as many as there are colours
MOST_LISTED = 4                 # entries of a value
MOST_POINTS = 400               # of a curve
STATISTICS = {                  # statistics that are drawn, and their titles
    'Loss/signs/real': 'r_t: mean sign of D on training images',
    'Health/overfitting': 'r_v: 0 = held-out images pass for training images, 1 = for fakes',
    'Progress/augment': 'p: how often images are augmented',
    'Health/copies': 'Copies: fakes that are nearly a training image',
    'Health/repeats': 'Repeats: fakes that are nearly each other',
    'Loss/G/loss': 'Loss of G', 'Loss/D/loss': 'Loss of D', 'Loss/r1_penalty': 'R1',
    'KD/agreement_real': 'Agreement with the teacher on training images',
    'KD/agreement_fake': 'Agreement with the teacher on fakes',
    'KD/gradient_share': 'Gradient of the distillation over the adversarial one',
    'Timing/sec_per_kimg': 'Seconds per kimg', 'Resources/cpu_mem_gb': 'Memory in GiB',
    'Resources/peak_gpu_mem_gb': 'Memory of the GPU in GiB'}
# Entries that do not distinguish runs, or repeat what another entry says.
UNTOLD = re.compile(r'(run_dir|options_given|report_kwargs|found_out|fp32_auto|metric_kwargs)\b.*'
                    r'|terms\.\w+\.(training_set_kwargs\..*|texts_origin|settings\.texts|seed)')


def write(run_dirs: list[str], out: str = PAGE_FILE, assets: str | None = None) -> str:
    """Writes the page about several runs. -> its path.

    Raises UserError if a folder is not that of a run, or if there are too few or too many.
    """
    folders = list(dict.fromkeys(os.path.realpath(folder) for folder in run_dirs))
    if not 2 <= len(folders) <= MOST_RUNS:
        raise UserError(f'compare: runs given: {len(folders)}; name 2 to {MOST_RUNS} different ones')
    runs = [run_folder.read(folder) for folder in folders]
    files.write_text(out, make(runs, page.Inline() if assets is None else page.Linked(assets, out)))
    return out


def make(runs: list[run_folder.Run], how, live=None) -> str:
    """The page as HTML; how and live as of `run_page.make`."""
    names = distinct([run.name for run in runs])
    panels = [*metric_panels(runs, names), *statistic_panels(runs, names)]
    sets = [_grids(run, how, number, len(runs)) for number, run in enumerate(runs)]
    shown = [dict(name=name, head=facts.progress(run), last=frames[-1] if frames else None)
             for name, run, frames in zip(names, runs, sets, strict=True)]
    data = dict(kind='compare', live=live, panels=panels, events=[], sets=[dict(frames=frames) for frames in sets])
    stops = {frame['kimg'] for frames in sets for frame in frames}
    return page.render('compare.html', how, data, live=live, runs=shown, panels=panels, metrics=metric_rows(runs),
                       options=option_rows(runs), stops=len(stops), happened=[len(events.collect(run)) for run in runs])


def distinct(names: list[str]) -> list[str]:
    """Names that occur again are numbered: 'a', 'a (2)'."""
    return [name if names.index(name) == i else f'{name} ({names[:i + 1].count(name)})' for i, name in enumerate(names)]


def _grids(run, how, number, count):
    address = lambda name, jpeg: how.picture(f'run{number}-{name.replace(".png", ".jpg")}', jpeg)
    return [dict(kimg=nimg / 1000, label=pictures.label(nimg, name), src=address(name, jpeg))
            for nimg, name, jpeg in pictures.frames(run, pictures.MOST_BYTES // count)]


def overlaid(lines: list[tuple[str, list, list]]) -> tuple[list, list[dict]]:
    """[(label, x, y)] -> (all x, [dict(label, name, y, colour)]) with gaps where a line has no value."""
    xs = sorted({x for _, line, _ in lines for x in line})
    series = []
    for number, (label, line, y) in enumerate(lines):
        known = dict(zip(line, y, strict=True))
        if any(value is not None for value in y):
            series.append(dict(label=label, name=label, y=[known.get(x) for x in xs], colour=number))
    return xs, series


def statistic_panels(runs, names) -> list[dict]:
    binned = [curves.binned(run.ticks, MOST_POINTS) for run in runs]
    places = [[curves.rounded_kimg(part[-1]['Progress/kimg']) for part in bins] for bins in binned]
    found = []
    for statistic, title in STATISTICS.items():
        values = [[rounded(value) for value in curves.column(bins, statistic)] for bins in binned]
        xs, series = overlaid(list(zip(names, places, values, strict=True)))
        if series:
            found.append(dict(title=title, note='', unit='', x=xs, series=series,
                              log=statistic.startswith('Timing/') and curves.has_outliers(series)))
    return found


def metric_panels(runs, names) -> list[dict]:
    """One for each protocol that two runs or more were measured by."""
    panels = []
    for groups in _shared(runs).values():
        if sum(group is not None for group in groups) > 1:
            records = [group.records if group else [] for group in groups]
            places = [[record['cur_nimg'] / 1000 for record in found] for found in records]
            values = [[rounded(record['value']) for record in found] for found in records]
            xs, series = overlaid(list(zip(names, places, values, strict=True)))
            example = next(group for group in groups if group)
            if series:
                note = f'{example.better.capitalize()} is better. {measured.in_words(example.last)}.'
                panels.append(dict(title=example.metric, note=note, unit='', x=xs, series=series))
    return panels


def _shared(runs):
    """{key of a protocol: [values of each run, None where it was not measured so]}, by name of the metric."""
    found = [measured.by_protocol(run.metrics) for run in runs]
    keys = list(dict.fromkeys(key for groups in found for key in groups))
    metric = lambda key: next(groups[key].metric for groups in found if key in groups)
    return {key: [groups.get(key) for groups in found] for key in sorted(keys, key=metric)}


def metric_rows(runs) -> list[dict]:
    """A row for each protocol. Only values that can be compared are in one row."""
    shared = _shared(runs)
    first = {}
    rows = []
    for groups in shared.values():
        example = next(group for group in groups if group)
        other = first.setdefault(example.metric, example)
        odd = protocol.differences(other.last, example.last) if other is not example else []
        rows.append(dict(measured.row(example), odd='; '.join(odd), winner=_winner(groups),
                         cells=[None if group is None else measured.row(group) for group in groups]))
    return rows


def _winner(groups):
    """Number of the run whose last value is the best of several; None if there is nothing to compare."""
    lasts = [(protocol.badness(group.last), number) for number, group in enumerate(groups)
             if group and group.last['value'] is not None]
    return min(lasts)[1] if len(lasts) > 1 else None


def option_rows(runs) -> list[tuple[str, list[str]]]:
    """[(option, [value of each run])] where configurations differ; '–' where a run has no such entry."""
    flats = [run_changes.flattened(run.config) for run in runs]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    rows = [(_option(key), [_value(key, flat) for flat in flats]) for key in keys if not UNTOLD.fullmatch(key)]
    differ = lambda values: len({'off' if value == '–' else value for value in values}) > 1
    return list({(name, tuple(values)): (name, values) for name, values in rows if differ(values)}.values())


def _option(key):
    """A method is a class among the terms of the loss."""
    method = re.fullmatch(r'terms\.(\w+)\.class_name', key)
    return f'method {method[1]}' if method else run_changes.option_name(key)


def _value(key, flat):
    if key not in flat:
        return '–'
    value = flat[key]
    return value.rpartition('.')[2] if key.endswith('class_name') and isinstance(value, str) else _text(value)


def _text(value):
    if value is None or value is False:
        return 'off'
    if isinstance(value, list) and len(value) > MOST_LISTED:
        text = f'{value[0]}, ... ({len(value)} in all)'
    else:
        text = ', '.join(map(str, value)) if isinstance(value, list) else 'on' if value is True else str(value)
    return text if len(text) <= 120 else f'{text[:117]}...'
