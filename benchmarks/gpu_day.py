"""What benchmarks/gpu_day.sh measures that no other program does: python benchmarks/gpu_day.py speed|exact|sheet"""

import contextlib
import glob
import io
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

import click
import PIL.Image
import torch

sys.path[:0] = [HERE := os.path.dirname(os.path.abspath(__file__)), os.path.join(HERE, os.pardir)]

import steps  # noqa: E402
from train_step import CONFIGS  # noqa: E402

from dnnlib import EasyDict  # noqa: E402
from dnnlib.text import gist  # noqa: E402
from torch_utils import checkpoint  # noqa: E402
from training.run.files import STATE_FILE  # noqa: E402
from training.training_loop import Run  # noqa: E402

# (configuration of train_step.py, further options of train.py), by value: what comes late may be cut off.
SPEED = [('256-auto', ''), ('256-auto', '--nobench=1'), ('256-auto', '--nhwc=0'), ('biggan-cifar', '--fp32=0'),
         ('64-auto', ''), ('512-auto', ''), ('1024-auto', ''), ('128-auto', ''),
         ('biggan-cifar', '--fp32=0 --nhwc=0'),
         ('256-auto', '--cuda-graphs=0'), ('256-auto', '--aug=noaug'), ('256-auto', '--kd=agkd,cgkd'),
         ('256-auto', '--cfg=low-shot'), ('1024-auto', '--nobench=1'), ('biggan-imagenet64', ''),
         ('256-auto', '--allow-tf32=0'), ('256-auto', '--batch=64'), ('256-auto', '--fp32=1'), ('512-auto', '--nhwc=0')]
TINY_SPEED = [('16-tiny', ''), ('16-tiny', '--aug=ada')]
# label -> (options of train.py, whether cuDNN may only take algorithms that repeat themselves)
EXACT = {'no augmentation, algorithms that repeat themselves': ('--aug=noaug --nobench=1', True),
         'the same in float32': ('--aug=noaug --nobench=1 --fp32=1', True),
         'the same without CUDA graphs': ('--aug=noaug --nobench=1 --cuda-graphs=0', True),
         'ADA, algorithms that repeat themselves': ('--aug=fixed --p=0.5 --nobench=1', True),
         'no augmentation, default algorithms': ('--aug=noaug --nobench=1', False),
         'ADA': ('--aug=fixed --p=0.5', False)}
SHOWN = ('Progress/kimg', 'Timing/sec_per_kimg', 'Timing/maintenance_sec', 'Progress/augment')      # of stats.jsonl


@click.group()
def main():
    """Parts of gpu_day.sh."""


@main.command()
@click.option('--out', help='File to which a line of JSON is added for each setting', required=True, metavar='FILE')
@click.option('--tiny', help='A network for a CPU, to see whether it runs', is_flag=True)
def speed(out, tiny):
    """Seconds per kimg of whole iterations in many settings, one after the other, each in a process of its own: the
    algorithms that cuDNN has chosen are kept in a process, so is the memory that it took to choose."""
    for name, options in TINY_SPEED if tiny else SPEED:
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
            try:
                result = pool.submit(speed_of, name, options.split(), 1 if tiny else 16).result()
            except Exception as err:                    # noqa: BLE001  the other settings go on
                result = dict(failed=gist(err))
        with open(out, 'a') as f:
            f.write(json.dumps(dict(config=name, options=options, **result)) + '\n')
        print(f'{name} {options}: ' + ' '.join(f'{key}={value}' for key, value in result.items()), flush=True)


def speed_of(name, options, iterations):
    config = CONFIGS[name]
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as run_dir:
        data = steps.pictures(data, config.resolution)
        made = steps.build_config(data, *config.options, *options, **config.changes)
        step = steps.Steps(made, run_dir)
        memory = step.warm_up(iterations)
        turn = steps.least([step.turn(iterations) for _ in range(2)])
    iteration, size = step.iteration(turn), made.batch_size
    on_gpu = {} if memory is None else dict(host_share=round(turn.host, 2), peak_GiB=round(memory / 2 ** 30, 2))
    phases = {f'{name}_ms': round(sec * 1e3, 1) for name, sec in turn.phases.items()}
    return dict(batch=size, sec_per_kimg=round(iteration / size * 1000, 3), iteration_ms=round(iteration * 1e3, 1),
                **on_gpu, **phases)


@main.command()
@click.option('--tiny', help='A network for a CPU, to see whether it runs', is_flag=True)
def exact(tiny):
    """Is a run repeatable, and is one that was stopped and continued the run that was not? After one iteration, and
    after many, which multiply what differs."""
    config, longest = CONFIGS['16-tiny' if tiny else '64-auto'], 4 if tiny else 40
    with tempfile.TemporaryDirectory() as folder:
        data = steps.pictures(os.path.join(folder, 'data'), config.resolution)
        for label, (options, repeatable) in ({'ADA': EXACT['ADA']} if tiny else EXACT).items():
            made = steps.build_config(data, *config.options, f'--batch={4 if tiny else 16}', '--snap=1',
                                      *options.split(), **config.changes)
            torch.backends.cudnn.deterministic = repeatable
            for count in (1, longest):
                whole = last_state(made, folder, [count])
                found = difference(whole, last_state(made, folder, [count]))
                print(f'{label}: the same run twice, after {count}: {found}', flush=True)
            found = difference(whole, last_state(made, folder, [longest // 2, longest]))
            print(f'{label}: stopped and continued: {found}', flush=True)


def last_state(config, folder, stops):
    """Runs until each number of iterations in turn, each time as a new job, in a new folder in `folder`. -> the tensors
    of the last state."""
    run_dir = tempfile.mkdtemp(dir=folder)
    for stop in stops:
        kimg = stop * config.batch_size / 1000
        with contextlib.redirect_stdout(io.StringIO()):
            job = Run(EasyDict(config, total_kimg=kimg, kimg_per_tick=kimg), run_dir, steps.device_of(config))
            job.resume()
            job.run()
    return checkpoint.load(os.path.join(run_dir, STATE_FILE), 'training-state')[0]


def difference(a, b):
    """Of two states in words: how many tensors are equal bit for bit, and the norm of the difference of all weights,
    relative to theirs."""
    tensors = {name: value for name, value in a.items() if torch.is_tensor(value)}
    equal = sum(torch.equal(value, b[name]) for name, value in tensors.items()) / len(tensors)
    weights = [name for name in tensors if name.startswith(('G.', 'D.')) and tensors[name].is_floating_point()]
    norm = lambda values: torch.stack([value.double().norm() for value in values]).norm()
    off = (norm([a[name] - b[name] for name in weights]) / norm([a[name] for name in weights])).item()
    return f'{equal:.0%} equal, weights differ by {off:.1e}'


@main.command()
@click.option('--run', 'run_dir', help='Run directory', required=True, metavar='DIR')
@click.option('--samples', help='Folder of generate.py --grid', required=True, metavar='DIR')
@click.option('--out', help='JPEG to write', required=True, metavar='FILE')
def sheet(run_dir, samples, out):
    """Reals, newest fakes and samples on one small picture, and the speed of each tick."""
    parts = [os.path.join(run_dir, 'reals.png'), *sorted(glob.glob(os.path.join(run_dir, 'fakes0*.png')))[-1:],
             *sorted(glob.glob(os.path.join(samples, '*.png')))[:1]]
    picture = PIL.Image.new('RGB', (1024, 768 * len(parts)))
    for i, path in enumerate(parts):
        with PIL.Image.open(path) as image:
            part = image.convert('RGB').crop((0, 0, min(2048, image.width), min(1536, image.height)))
        picture.paste(part.resize((1024, 768)), (0, 768 * i))
    picture.save(out, quality=88)
    with open(os.path.join(run_dir, 'stats.jsonl')) as f:
        for line in f:
            stats = json.loads(line)
            shown = {name: stats[name]['mean'] for name in SHOWN if name in stats}
            print('  '.join(f'{name} {value:.3f}' for name, value in shown.items()))


if __name__ == '__main__':
    main()
