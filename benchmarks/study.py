"""Does distillation help? The study of docs/evidence.md.

    python benchmarks/study.py list                               parts, arms, lengths
    python benchmarks/study.py run --folder=study --part=c        trains and measures; the same command continues
    python benchmarks/study.py page --folder=study                writes tables and curves into docs/evidence.md

`--folder` holds the archives and teachers that study_table.py names (docs/evidence.md has the commands that make them),
and the runs. A run that several parts need is trained once, by the code of train.py; each is a process of one thread.
After every run results.jsonl, a line per run, is written again. A run that is there but not in the folder, such as one
of another machine, is not trained again: with docs/evidence/results.jsonl in it a new folder has only the rest to do.
"""

import json
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import click

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir)]

import study_page  # noqa: E402
import study_runs  # noqa: E402
from study_statistics import differences  # noqa: E402
from study_table import ARMS, PARTS  # noqa: E402

from dnnlib import UserError, files, metric_records  # noqa: E402
from dnnlib.util import user_errors  # noqa: E402

RESULTS = 'results.jsonl'


def name_of(line):
    return study_runs.run_name(line['data'], line['arm'], line['seed'])


def rank(line):
    """Of several lines of a run the largest counts: one with the options that the arm has now, then the longest. So a
    run that is begun anew counts once it has got as far."""
    return has_present_options(line), line['kimg'][-1]


def has_present_options(line):
    return line['options'] == list(ARMS.get(line['arm'], []))


def write_results(folder):
    """Puts a line for every run into results.jsonl; those of runs that are not in the folder, such as of another
    machine, stay. -> the lines."""
    path, runs = os.path.join(folder, RESULTS), os.path.join(folder, 'runs')
    names = os.listdir(runs) if os.path.isdir(runs) else []
    at_hand = [line for name in names if (line := study_runs.read_run(os.path.join(runs, name))) is not None]
    of_run = {}
    for line in (*metric_records.read_lines(path), *at_hand):
        of_run[name_of(line)] = max(line, of_run.get(name_of(line), line), key=rank)        # of equals the later one
    lines = [of_run[name] for name in sorted(of_run)]
    if lines:
        files.write_text(path, ''.join(json.dumps(line) + '\n' for line in lines))
    return lines


def survivors(lines, part, kimg, keep):
    """The arms that go on: the baseline, and of the others those that are best against it, by the mean difference of
    KID at `kimg` over the seeds that both have; arms that were not measured there go no further."""
    base = study_page.kids(lines, part, part.arms[0], kimg)
    found = {arm: differences(study_page.kids(lines, part, arm, kimg), base) for arm in part.arms[1:]}
    means = {arm: sum(values) / len(values) for arm, values in found.items() if values}
    return [part.arms[0], *sorted(means, key=means.get)[:keep]]


def check_part(folder, name, device):
    """What is wrong with an arm is said before anything is trained."""
    part = PARTS[name]
    for arm in part.arms:
        try:
            study_runs.configuration(folder, part.data, arm, 0, part.rounds[0][0], device)
        except UserError as err:
            raise UserError(f'part {name}, {arm}: {err}') from err


def is_elsewhere(folder, line, kimg):
    """Whether a run of results.jsonl got to `kimg` with the options that its arm has now, and is not in the folder."""
    return (kimg in line['kimg'] and has_present_options(line)
            and not os.path.isdir(os.path.join(folder, 'runs', name_of(line))))


def run_part(folder, part, parallel, device, seeds):
    arms = list(part.arms)
    for kimg, keep in part.rounds:
        elsewhere = {name_of(line) for line in write_results(folder) if is_elsewhere(folder, line, kimg)}
        jobs = [(folder, part.data, arm, seed, kimg, device) for seed in seeds or range(part.seeds) for arm in arms
                if study_runs.run_name(part.data, arm, seed) not in elsewhere]
        for name, seconds in results_of(jobs, parallel):
            write_results(folder)
            print(f'{name}: {kimg:g} kimg, {seconds / 60:.1f} minutes', flush=True)
        if (kimg, keep) != part.rounds[-1]:
            arms = survivors(write_results(folder), part, kimg, keep)
            print(f'after {kimg:g} kimg go on: {"; ".join(arms)}', flush=True)


def results_of(jobs, parallel):
    """Results of `train_run` as they come. After an error no other run begins, nor after Ctrl-C, which the running ones
    take as a request to save and stop: none is handed to the pool before its turn."""
    waiting, running = list(reversed(jobs)), set()
    with ProcessPoolExecutor(parallel, multiprocessing.get_context('spawn'), max_tasks_per_child=1) as pool:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.add(pool.submit(study_runs.train_run, *waiting.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from [job.result() for job in done]


@click.group()
def main():
    """The study of distillation."""


@main.command('list')
def list_parts():
    """Print the parts of the study."""
    for name, part in PARTS.items():
        print(f'{name:<10}{part.question}\n          {part.data}, {part.seeds} seeds, '
              + ', '.join(f'{kimg} kimg' for kimg, _ in part.rounds))
        print(' ' * 10 + '; '.join(part.arms))


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
            check_part(folder, name, device)
            if too_large := [seed for seed in seeds if seed >= PARTS[name].seeds]:
                raise UserError(f'--seed={too_large[0]}: part {name} has {PARTS[name].seeds} seeds, from 0; a further '
                                'one would not be in its table')
        for name in names or PARTS:
            run_part(folder, PARTS[name], parallel, device, seeds)


@main.command()
@click.option('--folder', help='The one of the runs, or one with results.jsonl alone', required=True, metavar='DIR')
@click.option('--page', help='Whose tables and curves are written again', default='docs/evidence.md', show_default=True,
              metavar='FILE')
def page(folder, page):
    """Write what was measured into the page."""
    with user_errors():
        lines = write_results(folder)
        if not lines:
            raise UserError(f'--folder={folder}: there are no results; use the folder of study.py run')
        run_dir = lambda data, arm, seed: os.path.join(folder, 'runs', study_runs.run_name(data, arm, seed))
        study_page.write(page, lines, run_dir)


if __name__ == '__main__':
    main()
