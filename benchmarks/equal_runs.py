"""Whether two checkouts train the same, bit for bit: python benchmarks/equal_runs.py --before=DIR [--after=DIR]
[--only=NAME ...]

Each case is a short run by the command line of each checkout, compared tensor by tensor in its last state: networks,
optimisers, averages, terms. In 'continued' the first half is trained by the one checkout and the second by the other.
CPU only, one thread.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir)]

import click  # noqa: E402
import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE, IMAGES, BATCH, STEPS = 16, 24, 4, 20          # D is regularised every 16 steps
PRESETS = ('auto', 'stylegan2', 'paper256', 'paper512', 'paper1024', 'cifar', 'low-shot', 'demo')
METHODS = {
    'classes': ('--cond=1',),
    'ada': ('--aug=ada', '--target=0.6'),
    'linear': ('--aug=linear', '--p=0.5', '--p-kimg=1'),
    'diffaug': ('--aug=diffaug',),
    'distillation': ('--kd=agkd,cgkd', '--kd-preset=paper', '--kd-teacher=demo'),
    'distillation, by share': ('--kd=agkd,cgkd', '--kd-preset=paper', '--kd-teacher=demo', '--kd-share=1',
                               '--kd-target-norm=centred'),
    'baselines of distillation': ('--kd=fitnets,labeldist,pkt,spkd', '--kd-preset=paper', '--kd-teacher=demo',
                                  '--cond=1'),
    'apa': ('--apa',),
    'lecam': ('--lecam=0.2',),
    'ortho': ('--ortho=1e-3',),
    'chain': ('--chain',),
    'insgen': ('--insgen', '--aug=ada'),
    'fakeclr': ('--fakeclr', '--aug=diffaug'),
    'vision-aided': ('--vision-aided=demo', '--vision-aided-warmup=0.02'),
    'two micro-batches': ('--batch-gpu=2',),
    'validation': ('--val-fraction=0.25', '--health=8'),
}
CASES = {**{f'--cfg={name}': (f'--cfg={name}',) for name in PRESETS},
         **{name: ('--cfg=demo', *options) for name, options in METHODS.items()}}


def make_data(folder):
    """Noise in two classes: the same bytes every time."""
    rng = np.random.RandomState(0)
    for i in range(IMAGES):
        path = folder / 'data' / 'ab'[i % 2] / f'{i:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.randint(0, 256, [SIDE, SIDE, 3], dtype=np.uint8)).save(path)
    return folder / 'data'


def train(checkout, outdir, data, options, steps):
    """A run of so many steps in all; what is there is continued. -> its state's path."""
    command = [sys.executable, 'train.py', f'--outdir={outdir}', f'--data={data}', f'--batch={BATCH}',
               f'--kimg={steps * BATCH / 1000}', f'--tick={STEPS * BATCH / 1000}', '--metrics=none', '--workers=0',
               '--device=cpu', '--health=0', *options]
    result = subprocess.run(command, cwd=checkout, text=True, capture_output=True,
                            env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(checkout)))
    if result.returncode != 0:
        raise click.ClickException(f'{checkout}: {" ".join(options)} ended with '
                                   f'{result.returncode}:\n{result.stderr[-2000:]}')
    return max(outdir.glob('*/training-state.safetensors'))


def tensors(path):
    with safe_open(path, 'pt') as f:
        return {name: f.get_tensor(name) for name in f.keys()}      # noqa: SIM118 (not a dictionary)


def difference(before, after):
    """'' or where two states differ first."""
    a, b = tensors(before), tensors(after)
    if a.keys() != b.keys():
        return f'other tensors: {sorted(a.keys() ^ b.keys())[:4]}'
    odd = [name for name in a if not torch.equal(a[name], b[name])]
    return f'{len(odd)} of {len(a)} tensors differ, such as {odd[0]}' if odd else ''


@click.command()
@click.option('--before', help='A checkout', type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
              required=True)
@click.option('--after', help='The other one  [default: this one]',
              type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
              default=ROOT)
@click.option('--only', help='These cases', type=click.Choice([*CASES, 'continued']), multiple=True)
def main(before, after, only):
    """Whether two checkouts train the same, bit for bit."""
    unequal = []
    with tempfile.TemporaryDirectory() as temp:
        folder = pathlib.Path(temp)
        data = make_data(folder)
        for name in only or [*CASES, 'continued']:
            options, here = CASES.get(name, CASES['ada']), folder / name.replace('=', '-')
            old = train(before, here / 'before', data, options, STEPS)
            if name == 'continued':
                train(before, here / 'after', data, options, STEPS // 2)
            new = train(after, here / 'after', data, options, STEPS)
            what = difference(old, new)
            print(f'{name:<28}{what or "equal"}', flush=True)
            unequal += [name] if what else []
    if unequal:
        raise click.ClickException(f'not equal: {", ".join(unequal)}')


if __name__ == '__main__':
    main()
