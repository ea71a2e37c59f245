"""The methods side by side on a tenth of CIFAR-10: python benchmarks/evidence.py --data train.zip --test test.zip --teacher DIR --classifier FILE

Every arm trains the `cifar` preset, with fewer channels and smaller batches, on the same 5000 images for the same time (a seed is one of
weights and draws, not of the images). It is judged on the 10,000 test images by the features of a classifier that no teacher shares
(cifar_classifier.py). The same command again continues: arms that are complete are not trained twice. The full study, on a GPU:
--device=cuda --kimg=10000 --points=20 --tick=10 --batch=64 --channel-base=32768 --seeds=3 --fakes=10000
"""

import json
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor

import click
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

sys.path[:0] = [os.path.join(os.path.dirname(__file__), os.pardir)]

import train  # noqa: E402
from dnnlib import EasyDict, UserError, protocol  # noqa: E402
from dnnlib.util import user_errors  # noqa: E402
from metrics import metric_main  # noqa: E402
from training import run_files, runs, snapshots  # noqa: E402

DA = ('--aug=diffaug', '--diffaug-policy=translation,cutout')
BOTH = ('--kd=agkd,cgkd',)
ARMS = {                                    # name -> options; those of the first group run with every seed, the others with the first only
    'DA': DA,
    'DA + AGKD + CGKD': (*DA, *BOTH),
    'ADA': ('--aug=ada',),
    'ADA + AGKD + CGKD': ('--aug=ada', *BOTH),
    'DA + AGKD': (*DA, '--kd=agkd'),
    'DA + CGKD': (*DA, '--kd=cgkd'),
    'DA + both, released preset': (*DA, *BOTH, '--kd-preset=released'),
    'DA + both, PD off (R0)': (*DA, *BOTH, '--kd-pd=off'),
    'DA + both, PD in G (R2b)': (*DA, *BOTH, '--kd-pd=generator'),
    'DA + both, PD adapter (R3)': (*DA, *BOTH, '--kd-pd=adapter'),
    'DA + FitNets': (*DA, '--kd=fitnets'),
    'DA + label distillation': (*DA, '--kd=labeldist'),
    'DA + PKT': (*DA, '--kd=pkt'),
    'DA + SPKD': (*DA, '--kd=spkd'),
}
MAIN_ARMS = tuple(ARMS)[:4]
METRICS = ('clipfid{n}_full', 'clippr{n}3_full')


def configuration(arm, seed, study):
    """The arm's configuration: that of train.py, narrowed."""
    options = [*ARMS[arm], *([f'--kd-teacher={study.teacher}'] if any('--kd=' in option for option in ARMS[arm]) else [])]
    ticks = max(round(study.kimg / study.points / study.tick), 1)
    opts = EasyDict(train.main.make_context('train.py', [
        f'--outdir={study.out}', f'--data={study.data}', '--cfg=cifar', '--subset=5000', '--mirror=1', '--metrics=none', f'--seed={seed}',
        f'--device={study.device}', f'--kimg={study.kimg}', f'--tick={study.tick}', f'--snap={ticks}', f'--batch={study.batch}', *options]).params)
    config, _name = train.build_config(opts)
    config.training_set_kwargs['random_seed'] = 0           # with every seed the images that the teacher has not seen
    if 'kd_kwargs' in config.loss_kwargs:
        config.loss_kwargs['kd_kwargs']['training_set_kwargs']['random_seed'] = 0
    for kwargs in (config.G_kwargs['synthesis_kwargs'], config.D_kwargs):
        kwargs['channel_base'] = study.channel_base
    if study.lr is not None:
        config.G_opt_kwargs['lr'] = config.D_opt_kwargs['lr'] = study.lr
    return config


def run_dir_of(arm, seed, study):
    name = ''.join(ch if ch.isalnum() else '-' for ch in arm.lower())
    return os.path.join(study.out, f'{name}-seed{seed}')


def train_arm(arm, seed, study):
    """Trains an arm, or continues it; in a process of its own."""
    folder, config = run_dir_of(arm, seed, study), configuration(arm, seed, study)
    with user_errors():
        if not os.path.isfile(os.path.join(folder, run_files.CARD_FILE)):
            runs.launch(config, folder)


def measure_arm(arm, seed, study):
    """Measures all its snapshots."""
    folder = run_dir_of(arm, seed, study)
    with user_errors():
        for name, nimg in sorted(run_files.find_snapshots(folder).items(), key=lambda item: item[1]):
            measure(os.path.join(folder, name), nimg, folder, study)


def measure(snapshot, nimg, folder, study):
    count = f'{study.fakes // 1000}k' if study.fakes % 1000 == 0 else str(study.fakes)
    metrics = [metric.format(n=count) for metric in METRICS]
    if wanted := run_files.unmeasured(folder, snapshot, metrics):
        metric_main.calc_and_report(
            run_dir=folder, snapshot=snapshot, cur_nimg=nimg, metrics=wanted, G=snapshots.load_networks(snapshot, device=study.device).G_ema,
            dataset_kwargs=dict(class_name='training.dataset.ImageFolderDataset', path=study.test), device=study.device, progress=False,
            teacher_kwargs=dict(func_name='cifar_classifier.load', path=study.classifier))


def all_runs(study):
    arms = ARMS if study.arms == 'all' else [arm.strip() for arm in study.arms.split(';')]
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise UserError(f'--arms={study.arms}: there is no {unknown[0]!r}; there are {"; ".join(ARMS)}')
    return [(arm, seed) for seed in range(study.seeds) for arm in arms if seed == 0 or arm in MAIN_ARMS]


def records(arm, seed, study):
    """{metric: records in the order of training}."""
    folder = run_dir_of(arm, seed, study)
    names = [name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.startswith('metric-')]
    lines = [record for name in names for record in protocol.read_lines(os.path.join(folder, name))]
    return {metric: sorted((r for r in lines if r['metric'] == metric), key=lambda r: r['cur_nimg']) for metric in {r['metric'] for r in lines}}


def table(study):
    """Lines of Markdown: per arm the last and the best distance, precision and recall at the end."""
    lines = ['| arm | seeds | Frechet distance, last | best | precision | recall |', '|---|---|---|---|---|---|']
    for arm in ARMS:
        found = [r for seed in range(study.seeds) if (r := records(arm, seed, study))]
        if not found:
            continue
        distances = [next(v for k, v in r.items() if k.startswith('clipfid')) for r in found]
        manifolds = [next(v for k, v in r.items() if k.startswith('clippr'))[-1] for r in found]
        both = lambda values, form: ' / '.join(format(v, form) for v in values)
        lines.append(f'| {arm} | {len(found)} | {both([d[-1]["value"] for d in distances], ".2f")} | '
                     f'{both([min(x["value"] for x in d) for d in distances], ".2f")} | {both([m["precision"] for m in manifolds], ".3f")} | '
                     f'{both([m["recall"] for m in manifolds], ".3f")} |')
    return lines


def save_sheet(study, path):
    """The first row of each arm's last sample grid, one below the other."""
    rows = []
    for arm in ARMS:
        folder = run_dir_of(arm, 0, study)
        grids = sorted(name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if re.fullmatch(r'fakes[\d.]+\.png', name))
        if grids:
            with PIL.Image.open(os.path.join(folder, grids[-1])) as grid:
                rows.append((arm, grid.crop((0, 0, grid.width, 32))))
    sheet = PIL.Image.new('RGB', (190 + 2 * max(row.width for _, row in rows), 64 * len(rows)), 'white')
    draw = PIL.ImageDraw.Draw(sheet)
    for i, (arm, row) in enumerate(rows):
        draw.text((4, 64 * i + 26), arm, fill='black', font=PIL.ImageFont.load_default(12))
        sheet.paste(row.resize((row.width * 2, row.height * 2), PIL.Image.Resampling.NEAREST), (190, 64 * i))
    sheet.save(path)


@click.command()
@click.option('--data', help='CIFAR-10, training images with classes (dataset_tool.py)', required=True, metavar='ZIP')
@click.option('--test', help='CIFAR-10, test images', required=True, metavar='ZIP')
@click.option('--teacher', help='As --kd-teacher of train.py, trained without the 5000 images', required=True, metavar='NAME')
@click.option('--classifier', help='The judge, of cifar_classifier.py', required=True, metavar='FILE')
@click.option('--out', help='Where the runs go', default='runs/evidence', show_default=True, metavar='DIR')
@click.option('--arms', help='all, or names separated by ;', default='all', show_default=True)
@click.option('--seeds', help='Seeds of the main arms', type=click.IntRange(min=1), default=2, show_default=True)
@click.option('--kimg', type=click.FloatRange(min=0.1), default=20, show_default=True)
@click.option('--points', help='Snapshots per run', type=click.IntRange(min=1), default=4, show_default=True)
@click.option('--tick', type=click.FloatRange(min=0.1), default=1, show_default=True)
@click.option('--batch', type=click.IntRange(min=2), default=16, show_default=True)
@click.option('--lr', help='[default: that of the preset]', type=click.FloatRange(min=0, min_open=True))
@click.option('--channel-base', type=click.IntRange(min=64), default=1024, show_default=True)
@click.option('--fakes', help='Generated images per measurement', type=click.IntRange(min=100), default=5000, show_default=True)
@click.option('--device', type=click.Choice(['cpu', 'cuda']), default='cpu', show_default=True)
@click.option('--parallel', help='Runs at a time', type=click.IntRange(min=1), default=1, show_default=True)
def main(**options):
    """Train and measure all arms, then print the table."""
    study = EasyDict(options)
    with user_errors():
        pairs = all_runs(study)
        for arm, seed in pairs:
            configuration(arm, seed, study)             # what is wrong with the options is told now
        with ProcessPoolExecutor(study.parallel, multiprocessing.get_context('spawn'), max_tasks_per_child=1) as pool:
            for result in [pool.submit(work, arm, seed, study) for work in (train_arm, measure_arm) for arm, seed in pairs]:
                result.result()
        print('\n'.join(table(study)))
        save_sheet(study, os.path.join(study.out, 'sheet.png'))
        with open(os.path.join(study.out, 'study.json'), 'w', encoding='utf-8') as f:
            json.dump(study, f, indent=2)


if __name__ == '__main__':
    main()
