"""Does distillation help? The study of docs/evidence.md.

    python benchmarks/study.py list                               parts, arms, lengths
    python benchmarks/study.py run --folder=study --part=c        trains and measures; the same command continues
    python benchmarks/study.py page --folder=study                writes tables and curves into docs/evidence.md

`--folder` holds the archives and teachers that study_table.py names (docs/evidence.md has the commands that make them),
and the runs. A run that several parts need is trained once, by the code of train.py; each is a process of one thread.
After every measurement results.jsonl, a line per run, is written again.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import click

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir)]

import study_page  # noqa: E402
from study_table import ARMS, DATA, NARROW, PARTS  # noqa: E402

import train  # noqa: E402
from dnnlib import EasyDict, UserError, metric_records  # noqa: E402
from dnnlib.util import user_errors  # noqa: E402
from training import launch  # noqa: E402
from training.run import files as run_files  # noqa: E402

RESULTS = 'results.jsonl'
METRICS = 'featkid2k_full,featfid2k_full,featpr2k3_full'
# Column -> where it is recorded.
FIGURES = {'kid': ('featkid2k_full', 'value'), 'fd': ('featfid2k_full', 'value'),
           'precision': ('featpr2k3_full', 'precision'), 'recall': ('featpr2k3_full', 'recall')}
TICK_KIMG, POINT_KIMG = 2.56, 12.8      # of a line of output, and between two measurements: whole steps of 16 images


def run_name(data, arm, seed):
    return f'{data}-{"".join(ch if ch.isalnum() or ch == "." else "-" for ch in arm.lower())}-seed{seed}'


def configuration(folder, data, arm, seed, kimg, device):
    """The run's configuration: that of train.py, narrowed; the images are the same with every seed."""
    row = DATA[data]
    options = list(ARMS[arm])
    if (any(option.startswith('--kd=') for option in options)
        and not any(option.startswith('--kd-teacher') for option in options)):
        options.append(f'--kd-teacher={row.teacher}')
    of_data = [f'--data={os.path.join(folder, row.train)}', f'--metric-data={os.path.join(folder, row.test)}',
               *row.options]
    of_run = [f'--outdir={folder}', f'--metrics={METRICS}', f'--metric-teacher={row.judge}', f'--kimg={kimg:g}',
              f'--tick={TICK_KIMG}',
              f'--snap={round(POINT_KIMG / TICK_KIMG)}', f'--seed={seed}', f'--device={device}',
              '--snapshot-keep=best=1,last=1']
    command = [option.replace('DIR/', folder + os.sep) for option in (*of_run, *of_data, *options)]
    config, _name = train.build_config(EasyDict(train.main.make_context('train.py', command).params))
    if config.training_set_kwargs.get('random_seed') is not None:
        config.training_set_kwargs['random_seed'] = 0
        if 'kd' in config.terms:
            config.terms['kd']['training_set_kwargs']['random_seed'] = 0
    for kwargs in (config.G_kwargs['synthesis_kwargs'], config.D_kwargs):
        kwargs['channel_base'] = NARROW['channel_base']
    config.G_kwargs.update(z_dim=NARROW['z_dim'], w_dim=NARROW['z_dim'])
    config.D_kwargs['epilogue_kwargs']['mbstd_group_size'] = NARROW['mbstd_group']
    config.G_opt_kwargs['lr'] = config.D_opt_kwargs['lr'] = row.lr
    config.ema_kimg = 5
    return config


def train_run(folder, data, arm, seed, kimg, device):
    """Trains and measures a run, or continues it, in a process of its own. -> its name, seconds that this took."""
    began, run_dir = time.monotonic(), os.path.join(folder, 'runs', run_name(data, arm, seed))
    config = configuration(folder, data, arm, seed, kimg, device)
    os.makedirs(run_dir, exist_ok=True)
    with open(os.path.join(run_dir, 'study.json'), 'w', encoding='utf-8') as f:
        json.dump(dict(data=data, arm=arm, seed=seed, options=ARMS[arm]), f)
    with open(os.path.join(run_dir, 'output.txt'), 'a', encoding='utf-8') as out, contextlib.redirect_stdout(out):
        launch.launch(config, run_dir)
    return run_name(data, arm, seed), time.monotonic() - began


def read_run(run_dir):
    """The line of a run in the results, or None where nothing is measured."""
    try:
        with open(os.path.join(run_dir, 'study.json'), encoding='utf-8') as f:
            line = json.load(f)
    except FileNotFoundError:
        return None
    curves = {}
    for column, (metric, figure) in FIGURES.items():
        for record in metric_records.read_metric(run_dir, metric):
            curves.setdefault(record['cur_nimg'] / 1000, {})[column] = record[figure]
            line['protocol'] = {key: record[key] for key in ('detector', 'num_gen', 'num_real') if key in record}
    if not curves:
        return None
    stats = metric_records.read_lines(os.path.join(run_dir, run_files.STATS_FILE))
    last = lambda name: next((record[name]['mean'] for record in reversed(stats) if name in record), None)
    curve = lambda name: [[record['Progress/kimg']['mean'], record[name]['mean']] for record in stats if name in record]
    kimgs = sorted(curves)
    line.update(kimg=kimgs, **{column: [curves[kimg].get(column) for kimg in kimgs] for column in FIGURES},
                copies=last('Health/copies'),
                r_t=curve('Loss/signs/real'), gradient_share=curve('KD/gradient_share'),
                hours=(last('Timing/total_sec') or 0) / 3600)
    return line


def write_results(folder):
    """-> the lines, which are also in results.jsonl."""
    names = sorted(os.listdir(os.path.join(folder, 'runs'))) if os.path.isdir(os.path.join(folder, 'runs')) else []
    lines = [line for name in names if (line := read_run(os.path.join(folder, 'runs', name))) is not None]
    with open(os.path.join(folder, RESULTS), 'w', encoding='utf-8') as f:
        f.writelines(json.dumps(line) + '\n' for line in lines)
    return lines


def survivors(lines, part, kimg, keep):
    """The arms that go on: the baseline, and the best of the others by mean KID at `kimg`."""
    scores = {}
    for line in lines:
        if line['data'] == part.data and line['arm'] in part.arms and kimg in line['kimg']:
            scores.setdefault(line['arm'], []).append(line['kid'][line['kimg'].index(kimg)])
    ranked = sorted(part.arms[1:], key=lambda arm: sum(scores[arm]) / len(scores[arm]))
    return [part.arms[0], *ranked[:keep]]


def run_part(folder, part, parallel, device, seeds):
    arms = list(part.arms)
    context = multiprocessing.get_context('spawn')
    for kimg, keep in part.rounds:
        with ProcessPoolExecutor(parallel, context, max_tasks_per_child=1) as pool:
            jobs = [pool.submit(train_run, folder, part.data, arm, seed, kimg, device) for seed in seeds
                    or range(part.seeds) for arm in arms]
            for job in jobs:
                name, seconds = job.result()
                write_results(folder)
                print(f'{name}: {kimg:g} kimg, {seconds / 60:.1f} minutes', flush=True)
        if (kimg, keep) != part.rounds[-1]:
            arms = survivors(write_results(folder), part, kimg, keep)
            print(f'after {kimg:g} kimg go on: {"; ".join(arms)}', flush=True)


@click.group()
def main():
    """The study of distillation."""


@main.command('list')
def list_parts():
    """Print the parts of the study."""
    for name, part in PARTS.items():
        print(f'{name:<8}{part.question}\n        {part.data}, {part.seeds} seeds, '
              + ', '.join(f'{kimg} kimg' for kimg, _ in part.rounds))
        print('        ' + '; '.join(part.arms))


@main.command()
@click.option('--folder', help='Archives, teachers and runs', required=True,
              type=click.Path(file_okay=False, exists=True), metavar='DIR')
@click.option('--part', 'names', help='Which  [default: all, in their order]', type=click.Choice(list(PARTS)),
              multiple=True)
@click.option('--parallel', help='Runs at a time', type=click.IntRange(min=1), default=2, show_default=True)
@click.option('--seed', 'seeds', help='Only these seeds', type=click.IntRange(min=0), multiple=True)
@click.option('--device', type=click.Choice(['cpu', 'cuda']), default='cpu', show_default=True)
def run(folder, names, parallel, seeds, device):
    """Train and measure. The same command continues."""
    folder = os.path.abspath(folder)
    os.environ.setdefault('OMP_NUM_THREADS', '1')               # of the processes
    with user_errors():
        for name in names or PARTS:
            part = PARTS[name]
            for arm in part.arms:                               # what is wrong with an arm is said now
                try:
                    configuration(folder, part.data, arm, 0, part.rounds[0][0], device)
                except UserError as err:
                    raise UserError(f'part {name}, {arm}: {err}') from err
            run_part(folder, part, parallel, device, seeds)


@main.command()
@click.option('--folder', help='The one of the runs, or one with results.jsonl alone', required=True, metavar='DIR')
@click.option('--page', help='Whose tables and curves are written again', default='docs/evidence.md', show_default=True,
              metavar='FILE')
def page(folder, page):
    """Write what was measured into the page."""
    with user_errors():
        at_hand = os.path.isdir(os.path.join(folder, 'runs'))
        lines = write_results(folder) if at_hand else metric_records.read_lines(os.path.join(folder, RESULTS))
        if not lines:
            raise UserError(f'--folder={folder}: there are no results; use the folder of study.py run')
        run_dir = lambda data, arm, seed: os.path.join(folder, 'runs', run_name(data, arm, seed))
        study_page.write(page, lines, run_dir if at_hand else None)


if __name__ == '__main__':
    main()
