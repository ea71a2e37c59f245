"""Tables and curves of the study, written between the marks of a page."""

import functools
import os
import re

import study_sheets
from study_statistics import differences, paired
from study_table import DATA, PARTS

from dnnlib import UserError, files

SCALE = dict(kid=1000, fd=1, precision=1, recall=1)
DIGITS = dict(kid=0, fd=0, precision=2, recall=2)
NOT_RUN = ['*Not run yet.*']                             # or less than half of the arms


def of_arm(lines, part, arm):
    """{seed: line} of the part's seeds."""
    return {line['seed']: line for line in lines
            if line['data'] == part.data and line['arm'] == arm and line['seed'] < part.seeds}


def at(line, column, kimg):
    """A measurement of a run, scaled; None if there is none."""
    if kimg not in line['kimg'] or line[column][line['kimg'].index(kimg)] is None:
        return None
    return line[column][line['kimg'].index(kimg)] * SCALE[column]


def kids(lines, part, arm, kimg):
    """{seed: KID} of the runs that were measured there."""
    return {seed: value for seed, line in of_arm(lines, part, arm).items()
            if (value := at(line, 'kid', kimg)) is not None}


def lengths(part):
    """At which kimg the arms are compared: the end of each round, and half of a single one."""
    return [*([part.rounds[0][0] / 2] if len(part.rounds) == 1 else []), *[kimg for kimg, _ in part.rounds]]


def is_run(lines, part):
    """Whether at least half of the arms, and two where there are several, have gone through the first round."""
    reached = [arm for arm in part.arms
               if any(part.rounds[0][0] in line['kimg'] for line in of_arm(lines, part, arm).values())]
    return len(reached) >= max(len(part.arms) / 2, min(2, len(part.arms)))


def table(lines, part):
    """Lines of Markdown. A row has the means over the seeds that got as far as any of the arm, and the paired
    difference to the first arm there."""
    if not is_run(lines, part):
        return NOT_RUN
    heads = ['arm', 'seeds', *[f'KID, FD at {kimg:g} kimg' for kimg in lengths(part)], 'precision, recall', 'best KID',
             'nearer to training', 'KID against the first arm']
    rows = ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
    for arm in part.arms:
        runs = of_arm(lines, part, arm)
        reached = [kimg for kimg in lengths(part) if any(kimg in line['kimg'] for line in runs.values())]
        if reached:
            rows.append('| ' + ' | '.join([arm, *row(lines, part, arm, reached[-1])]) + ' |')
    missing = [arm for arm in part.arms if not of_arm(lines, part, arm)]
    rows += ['', f'Not run yet: {"; ".join(missing)}.'] if missing else []
    return rows + arithmetics(lines, part)


def arithmetics(lines, part):
    """A sentence where not all arms were trained alike."""
    of_arms = {arm: {line.get('arithmetic', 'not recorded') for line in of_arm(lines, part, arm).values()}
               for arm in part.arms}
    kinds = sorted({kind for found in of_arms.values() for kind in found})
    if len(kinds) < 2:
        return []
    return ['', 'Trained in ' + '; in '.join(
        f'{kind}: {", ".join(arm for arm in part.arms if kind in of_arms[arm])}' for kind in kinds) + '.']


def row(lines, part, arm, last):
    """Its cells but the first, from the seeds that were measured at `last` kimg."""
    runs = [line for line in of_arm(lines, part, arm).values() if last in line['kimg']]
    means = lambda column, kimg: mean([at(line, column, kimg) for line in runs], DIGITS[column])
    best = [min((value for kimg in line['kimg'] if kimg <= last and (value := at(line, 'kid', kimg)) is not None),
                default=None) for line in runs]
    nearer = [record['value'] for line in runs for record in line['nearness'] if record['kimg'] == last]
    return [str(len(runs)), *[f'{means("kid", kimg)}, {means("fd", kimg)}' for kimg in lengths(part)],
            f'{means("precision", last)}, {means("recall", last)}', mean(best, 0), mean(nearer, 2),
            '' if arm == part.arms[0] else comparison(lines, part, arm, last)]


def mean(values, digits):
    values = [value for value in values if value is not None]
    return f'{sum(values) / len(values):.{digits}f}' if values else '–'


def comparison(lines, part, arm, kimg):
    arm, base = kids(lines, part, arm, kimg), kids(lines, part, part.arms[0], kimg)
    result = paired(arm, base)
    where = f' at {kimg:g} kimg' if len(part.rounds) > 1 else ''           # arms end at different lengths
    if result is None:
        single = differences(arm, base)
        return f'{single[0]:+.0f}{where}, one seed' if single else 'no seed in common'
    return (f'{result.mean:+.0f} [{result.low:+.0f}, {result.high:+.0f}]{where}, smaller in {result.smaller} of '
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
        for i, line in enumerate(of_arm(lines, part, arm).values()):
            kimgs = [kimg for kimg in line['kimg'] if kimg <= lengths(part)[-1]]
            axes.plot(kimgs, [at(line, 'kid', kimg) for kimg in kimgs], color=f'C{number % 10}',
                      linestyle='-' if number < 10 else '--', label=arm if i == 0 else None, linewidth=1.2)
    axes.set(xlabel='kimg', ylabel='KID x 1000', title=part.question, ylim=(0, None))
    axes.legend(fontsize=7)
    with files.atomic_path(path) as temp:
        figure.savefig(temp, format='png', dpi=110, bbox_inches='tight')
    pyplot.close(figure)


def sheet(lines, name, runs, page, before):
    """Writes the samples of a part whose arms all train to the same length, from the grids there. -> lines of Markdown
    for them. runs: (arm, seed) -> folder of the run. before: the part's present text; where the grids of an arm of its
    sheet are not at hand, that one stays."""
    part, picture = PARTS[name], os.path.join('images', f'evidence-{name}-samples.png')
    if len(part.rounds) > 1:
        return []
    longest = lengths(part)[-1]
    grids = {arm: [grid for seed in sorted(of_arm(lines, part, arm))
                   if (grid := study_sheets.latest_grid(runs(arm, seed), longest))] for arm in part.arms}
    old = re.search(r'!\[Samples: a row for each of (.*), at [^\n]*', before)
    if old and not all(grids.get(arm) for arm in old[1].split('; ')):
        return ['', old[0]]
    if not study_sheets.write(grids, DATA[part.data].side, os.path.join(os.path.dirname(page), picture)):
        return []
    arms = '; '.join(arm for arm, found in grids.items() if found)
    return ['', f'![Samples: a row for each of {arms}, at {longest:g} kimg]({picture})']


def write(page, lines, runs):
    """Puts the table of part x between <!-- part x --> and <!-- end -->, its curves and samples into images/ beside the
    page. runs: (data, arm, seed) -> folder of a run."""
    try:
        with open(page, encoding='utf-8') as f:
            text = f.read()
    except OSError as err:
        raise UserError(f'--page={page}: {err.strerror}; name a file that has <!-- part NAME --> and <!-- end --> for '
                        'every part, such as docs/evidence.md') from err
    for name, part in PARTS.items():
        mark = re.compile(rf'(<!-- part {re.escape(name)} -->\n).*?(<!-- end -->)', re.S)
        if mark.search(text) is None:
            raise UserError(f'{page}: has no place for part {name}; add "<!-- part {name} -->" and "<!-- end -->"')
        content = table(lines, part)
        if len(content) > 1:
            picture = os.path.join('images', f'evidence-{name}.png')
            curves(lines, part, os.path.join(os.path.dirname(page), picture))
            content += ['', f'![KID over kimg]({picture})']
            content += sheet(lines, name, functools.partial(runs, part.data), page, mark.search(text)[0])
        text = mark.sub(lambda match, content=content: match[1] + '\n'.join(content) + '\n' + match[2], text)
    with files.atomic_path(page) as temp, open(temp, 'w', encoding='utf-8') as f:
        f.write(text)
