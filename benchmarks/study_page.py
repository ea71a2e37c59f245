"""Tables and curves of the study, written between the marks of a page."""

import functools
import os
import re

import study_sheets
from study_statistics import paired
from study_table import PARTS

from dnnlib import UserError, files

COLUMNS = ('kid', 'fd', 'precision', 'recall')
SCALE = dict(kid=1000, fd=1, precision=1, recall=1)
NOT_RUN = ['*Not run yet.*']         # or one arm of several only
SIDES = dict(cifar500=32, cifar5000=32, cats=64)         # pixels of an image
DIGITS = dict(kid=0, fd=0, precision=2, recall=2)


def of_arm(lines, data, arm):
    return {line['seed']: line for line in lines if line['data'] == data and line['arm'] == arm}


def at(line, column, kimg):
    """A measurement of a run, scaled; None if there is none."""
    if kimg not in line['kimg'] or line[column][line['kimg'].index(kimg)] is None:
        return None
    return line[column][line['kimg'].index(kimg)] * SCALE[column]


def lengths(lines, part):
    """At which kimg the arms are compared: in the middle and at the end of each round."""
    wanted = sorted({kimg / 2 for kimg, _ in part.rounds} | {kimg for kimg, _ in part.rounds})
    return [kimg for kimg in wanted if any(kimg in line['kimg'] for line in lines if line['data'] == part.data
                                           and line['arm'] in part.arms)]


def table(lines, part):
    """Lines of Markdown: mean over seeds of what was measured at each length, and the paired difference to the first
    arm at the last one."""
    kimgs = lengths(lines, part)
    if not kimgs:
        return NOT_RUN
    heads = ['arm', 'seeds', *[f'KID, FD at {kimg:g} kimg' for kimg in kimgs], 'precision, recall',
             'best KID', 'copies',
             'KID against the first arm']
    rows = ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
    base = of_arm(lines, part.data, part.arms[0])
    for arm in part.arms:
        found = {seed: line for seed, line in of_arm(lines, part.data, arm).items() if set(kimgs) & set(line['kimg'])}
        if not found:
            continue
        means = lambda column, kimg, found=found: mean([at(line, column, kimg) for line in found.values()],
                                                       DIGITS[column])
        last = max(kimg for kimg in kimgs if any(kimg in line['kimg'] for line in found.values()))
        best = mean([min(value for value in line['kid'] if value is not None) * SCALE['kid']
                     for line in found.values()], 0)
        cells = [arm, str(len(found)), *[f'{means("kid", kimg)}, {means("fd", kimg)}' for kimg in kimgs],
                 f'{means("precision", last)}, {means("recall", last)}', best,
                 mean([line['copies'] for line in found.values()], 3),
                 '' if arm == part.arms[0] else comparison(found, base, last)]
        rows.append('| ' + ' | '.join(cells) + ' |')
    return rows if len(rows) - 2 >= min(2, len(part.arms)) else NOT_RUN


def mean(values, digits):
    values = [value for value in values if value is not None]
    return f'{sum(values) / len(values):.{digits}f}' if values else '–'


def comparison(found, base, kimg):
    values = lambda runs: {seed: value for seed, line in runs.items() if (value := at(line, 'kid', kimg)) is not None}
    result = paired(values(found), values(base))
    if result is None:
        return 'one seed'
    return (f'{result.mean:+.0f} [{result.low:+.0f}, {result.high:+.0f}], smaller in {result.smaller} of '
            f'{result.seeds}, sign test p = {result.p_value:.2f}')


def curves(lines, part, path):
    """KID over kimg, a line per run, a colour per arm."""
    try:
        import matplotlib
        matplotlib.use('Agg')
        from matplotlib import pyplot
    except ImportError as err:
        raise UserError('the curves need matplotlib; pip install matplotlib') from err
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for number, arm in enumerate(part.arms):
        for i, line in enumerate(of_arm(lines, part.data, arm).values()):
            axes.plot(line['kimg'], [None if value is None else value * SCALE['kid'] for value in line['kid']],
                      color=f'C{number % 10}',
                      linestyle='-' if number < 10 else '--', label=arm if i == 0 else None, linewidth=1.2)
    axes.set(xlabel='kimg', ylabel='KID x 1000', title=part.question, ylim=(0, None))
    axes.legend(fontsize=7)
    with files.atomic_path(path) as temp:
        figure.savefig(temp, format='png', dpi=110, bbox_inches='tight')
    pyplot.close(figure)


def samples(lines, part, runs, path):
    """The sheet of a part, from the grids at its longest length. runs: (arm, seed) -> folder of the run.
    -> its arms from above, in words; None where fewer than two have grids."""
    kimgs = lengths(lines, part)
    grids = {arm: [grid for seed in sorted(of_arm(lines, part.data, arm))
                   if (grid := study_sheets.latest_grid(runs(arm, seed), kimgs[-1]))] for arm in part.arms}
    if not study_sheets.write(grids, SIDES[part.data], path):
        return None
    return f'{"; ".join(arm for arm, found in grids.items() if found)}, at {kimgs[-1]:g} kimg'


def sheet(lines, name, runs, page, before):
    """-> lines of Markdown for the samples of a part whose arms all train to the same length. before: its present
    text, which stays where the grids are not at hand."""
    part, picture = PARTS[name], os.path.join('images', f'evidence-{name}-samples.png')
    old = re.search(r'!\[Samples: [^\n]*', before)
    if len(part.rounds) > 1:
        return []
    if runs is None:
        return ['', old[0]] if old else []
    arms = samples(lines, part, functools.partial(runs, part.data), os.path.join(os.path.dirname(page), picture))
    return ['', f'![Samples: a row for each of {arms}]({picture})'] if arms else []


def write(page, lines, runs=None):
    """Puts the table of part x between <!-- part x --> and <!-- end -->, its curves and samples into images/ beside the
    page. runs: (data, arm, seed) -> folder of a run; None = the samples stay as they are."""
    with open(page, encoding='utf-8') as f:
        text = f.read()
    for name, part in PARTS.items():
        mark = re.compile(rf'(<!-- part {re.escape(name)} -->\n).*?(<!-- end -->)', re.S)
        if mark.search(text) is None:
            raise UserError(f'{page}: has no place for part {name}; add "<!-- part {name} -->" and "<!-- end -->"')
        content = table(lines, part)
        if len(content) > 1:
            picture = os.path.join('images', f'evidence-{name}.png')
            curves(lines, part, os.path.join(os.path.dirname(page), picture))
            content += ['', f'![KID over kimg]({picture})']
            content += sheet(lines, name, runs, page, mark.search(text)[0])
        text = mark.sub(lambda match, content=content: match[1] + '\n'.join(content) + '\n' + match[2], text)
    with files.atomic_path(page) as temp, open(temp, 'w', encoding='utf-8') as f:
        f.write(text)
