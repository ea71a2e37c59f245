"""A page for each table, in Markdown: what is in print, what was measured here, and why the two may not be compared."""

import os
import statistics

from dnnlib import UserError, files
from dnnlib.metric_records import FRECHET

from . import making
from .cells import TITLES, all_cells
from .data_sets import DATA
from .paper import TABLES
from .systems import SYSTEMS

SEEDS, EVALUATIONS = 3, 3                               # of a whole cell
INTRODUCTION = '''# Table {number}: {title}

In each field: the value in print, below it ours: the mean over training seeds ± their standard deviation, the number of
seeds in brackets. *b* is the best snapshot by its own FID, as in print, which flatters; *l* the last. A figure marked
with * must not be compared with the printed one; below is why. The figure behind ± in print is probably that of
repeated evaluations.
'''


def write(outdir):
    """Writes `tableN.md` for every table that has records. -> files. Raises UserError if nothing is on record."""
    records, paths = making.read(outdir), []
    for number in TABLES:
        text = page(number, records)
        if text:
            paths.append(os.path.join(outdir, f'table{number}.md'))
            files.write_text(paths[-1], text)
    if not paths:
        raise UserError(f'--outdir={outdir}: nothing is on record there; python reproduce.py run CELL makes a cell')
    return paths


def page(number, records):
    """The text about a table; None if none of its cells is on record."""
    cells = all_cells(number)
    found = {cell: _records_of(cell, records) for cell in cells}
    if not any(found.values()):
        return None
    table = TABLES[number]
    columns = [(data, measure) for data in table.data for measure in table.measures]
    lines = [INTRODUCTION.format(number=number, title=table.title),
             '| | ' + ' | '.join(f'{DATA[data].title}, {TITLES[measure]}' for data, measure in columns) + ' |',
             '|---' * (len(columns) + 1) + '|']
    for system in dict.fromkeys(cell.system for cell in cells):
        fields = ['<br>'.join([str(cell.printed), *[_ours(cell, group) for group in found[cell]]])
                  for cell in cells if cell.system == system]
        lines.append(f'| {" | ".join([SYSTEMS[system].title, *fields])} |')
    lines += ['', '## What was measured', '']
    for cell in cells:
        for group in found[cell]:
            lines += [f'**{cell.key}**', '', *[f'- {line}' for line in _details(cell, group)], '']
    return '\n'.join(lines).rstrip() + '\n'


def _records_of(cell, records):
    """-> lists of records of the cell; those of a list differ in the seed alone."""
    groups = {}
    for record in records:
        if (record['training'], record['measure']) == (cell.training, cell.measure):
            protocols = [sorted(part['protocol'].items(), key=str) for part in record['measured'].values()]
            same = [record[name] for name in ('options', 'metric', 'scale', 'judge', 'digests')] + protocols
            groups.setdefault(str(same), []).append(record)
    return list(groups.values())


def _ours(cell, group):
    means = lambda which: [_mean(record['measured'][which]['values']) for record in group]
    mark = '*' if _reasons(cell, group) else ''
    return f'b {_spread(means("best"))}{mark}, l {_spread(means("last"))}{mark} ({len(group)})'


def _mean(values):
    """None where one is no number."""
    return None if None in values else statistics.fmean(values)


def _spread(values):
    if None in values:
        return 'NaN'
    decimals = 3 if abs(statistics.fmean(values)) < 1 else 2
    spread = f' ± {statistics.stdev(values):.{decimals}f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.{decimals}f}{spread}'


def _reasons(cell, group):
    """Why the values are not those of the paper's protocol."""
    record, protocol = group[0], group[0]['measured']['best']['protocol']
    data, reasons = DATA[cell.data], []
    if record['scale'] < 1:
        scale = record['scale']
        reasons.append(f'made with --scale={scale:g}: narrow networks, {cell.kimg(scale):g} kimg instead of '
                       f'{cell.kimg():g}, {cell.fakes(scale)} fakes instead of {cell.fakes()}')
    if cell.departure():
        reasons.append(cell.departure().rstrip('.'))
    if FRECHET.match(record['metric']) and record['metric'].startswith('feat'):
        reasons.append(f'another detector: {protocol["detector.identity"]} instead of Inception')
    if record['teacher'] is not None:
        reasons.append(f'another teacher: {record["teacher"]}')
    images, whole = protocol.get('reference.images'), data.reference_images or data.images
    if images not in (None, whole):
        reasons.append(f'{images} real images instead of {whole}')
    if record['files']:
        reasons.append(f'networks of the measure from files: {" ".join(record["files"])}')
    if record['further']:
        reasons.append(f'further options: {" ".join(record["further"])}')
    if len(group) < SEEDS:
        reasons.append(f'{len(group)} of {SEEDS} training seeds')
    evaluations = min(len(part['values']) for line in group for part in line['measured'].values())
    if evaluations < EVALUATIONS:
        reasons.append(f'{evaluations} of {EVALUATIONS} evaluations')
    return reasons


def _details(cell, group):
    record, best = group[0], group[0]['measured']['best']
    evaluated = [part['values'] for record in group for part in record['measured'].values()]
    spreads = [statistics.stdev(values) for values in evaluated if len(values) > 1 and None not in values]
    kimg = ', '.join(f'{other["measured"]["best"]["kimg"]:g}' for other in group)
    reasons = _reasons(cell, group)
    lines = [f'`train.py {" ".join(record["options"])}`',
             f'best at {kimg} kimg; {record["metric"]}, {len(best["values"])} evaluations each'
             + (f', which differ by ± {max(spreads):.3f} at most' if spreads else ''),
             'protocol: ' + ', '.join(f'{key} {value}' for key, value in best['protocol'].items()
                                      if value is not None and key != 'metric')]
    if reasons:
        lines.append(f'not to be compared with the printed value: {"; ".join(reasons)}')
    return lines + [f'open: {note}' for note in cell.open_points()]
