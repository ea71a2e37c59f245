"""Speed of a training step: python benchmarks/train_step.py [--config=NAME] [--vary=...] [OPTIONS OF train.py]

    python benchmarks/train_step.py --config=256-auto --vary=--cuda-graphs=0 --vary='--nhwc=0 --kd=agkd,cgkd'
    python benchmarks/train_step.py --config=256-auto --beside=FOLDER

Runs iterations of the training loop's own `Training`: data in memory, augmentation, optimisers, average of the weights.
For each configuration it prints seconds per kimg of every phase and of the mean iteration, how much of it the host
needs to launch the work (on a GPU), peak memory, and how much of the device's peak the convolutions reach. The peak is
a large matrix product in the same dtype, measured in the same run: on a shared machine only such ratios mean anything.
So each `--vary` and `--beside` takes turns with the plain step, and what counts is the ratio. With --kd in a `--vary`,
the teacher has the size of ViT-B/32 and random weights.
"""

import contextlib
import os
import resource
import sys
import tempfile
import time
from typing import NamedTuple

import click
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [HERE := os.path.dirname(os.path.abspath(__file__)), os.path.join(HERE, os.pardir)]

import beside  # noqa: E402
import steps  # noqa: E402

from dnnlib.util import user_errors  # noqa: E402
from torch_utils.devices import keep_freed_memory  # noqa: E402


class Config(NamedTuple):
    """What is measured.

    reference_sec: the iteration of the reference implementation without data, optimisers and average of the weights, as
                   published for two CPU cores in float32.
    """
    resolution: int
    options: tuple
    changes: dict = {}              # of the configuration
    reference_sec: float | None = None


CONFIGS = {
    '16-tiny': Config(16, ('--cfg=auto', '--aug=noaug', '--batch=4', '--fp32=1', '--cbase=256')),     # whether it runs
    '32-cb1024': Config(32, ('--cfg=auto', '--aug=noaug', '--batch=16', '--cbase=1024'),
                        reference_sec=0.25 + 0.11 + 0.24 / 4 + 0.10 / 16),
    '32-cb4096': Config(32, ('--cfg=auto', '--aug=noaug', '--batch=16', '--cbase=4096'),
                        reference_sec=2.03 + 0.88 + 2.04 / 4 + 0.70 / 16),
    '64-cb8192': Config(64, ('--cfg=auto', '--aug=noaug', '--batch=8', '--cbase=8192'),
                        reference_sec=2.11 + 1.36 + 2.49 / 4 + 1.24 / 16),
    '64-auto': Config(64, ('--cfg=auto', '--aug=ada')),
    '128-auto': Config(128, ('--cfg=auto', '--aug=ada')),
    '256-auto': Config(256, ('--cfg=auto', '--aug=ada')),
    '512-auto': Config(512, ('--cfg=auto', '--aug=ada')),
    '1024-auto': Config(1024, ('--cfg=auto', '--aug=ada')),
    'biggan-narrow': Config(32, ('--cfg=biggan-cifar', '--cbase=16'), dict(D_steps=1)),     # a step of D for each of G
    'biggan-cifar': Config(32, ('--cfg=biggan-cifar',)),
    'biggan-imagenet64': Config(64, ('--cfg=biggan-imagenet64',)),
}
CONV_OPS = ('aten::mkldnn_convolution', 'aten::_convolution', 'aten::convolution_backward', 'aten::cudnn_convolution',
            'aten::cudnn_convolution_transpose', 'aten::_conv_depthwise2d')


def peak_flops(dtype, device):
    """FLOP/s of a large matrix product, the best of 20."""
    n = 2048 if device.type == 'cpu' else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(22):
        start = time.perf_counter()
        (a @ b)[0, 0].item()                            # waits for it
        times.append(time.perf_counter() - start)
    return 2 * n ** 3 / min(times[2:])


def convolution_flops_per_sec(step):
    """Over an iteration without regularisation: FLOP of all convolutions / time spent in them."""
    cuda = step.device.type == 'cuda'
    with FlopCounterMode(display=False) as counter:
        step.run(1, first=1)
    flops = sum(n for op, n in counter.get_flop_counts()['Global'].items() if 'conv' in str(op))
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as prof:
        step.run(1, first=1)
        step.wait()
    time_of = lambda e: e.self_device_time_total if cuda else e.self_cpu_time_total
    return flops / sum(time_of(e) * 1e-6 for e in prof.key_averages() if e.key in CONV_OPS)


def print_profile(step, rows=45):
    """Where the time of 16 iterations goes (of one on a CPU); on a GPU also how many kernels run and for how long."""
    cuda = step.device.type == 'cuda'
    count = 16 if cuda else 1
    step.warm_up(1)
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as prof:
        start = time.perf_counter()
        step.run(count)
        step.wait()
        wall = time.perf_counter() - start
    if cuda:
        kernels = [e for e in prof.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(e.self_device_time_total for e in kernels) * 1e-6
        print(f'{len(kernels) / count:.0f} launches per iteration, device busy for {busy / count * 1e3:.1f} of '
              f'{wall / count * 1e3:.1f} ms')
    order = f'self_{step.device.type}_time_total'
    print(prof.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=60))


def in_turn(measured, rounds):
    """{name: function -> result} -> {name: list of results}; each runs once per round."""
    found = {name: [] for name in measured}
    for _ in range(rounds):
        for name, fn in measured.items():
            found[name].append(fn())
    return found


def measure(config, options, data, varied, folder, iterations, rounds):
    """Prints what a configuration takes, and what with each of `varied` and in the implementation in `folder`."""
    with contextlib.ExitStack() as stack:
        temp = lambda: stack.enter_context(tempfile.TemporaryDirectory())
        data = data or steps.pictures(temp(), config.resolution)
        fixed = [data, *config.options, *options]
        build = lambda *more: steps.build_config(*fixed, *more, **config.changes)
        plain = steps.Steps(build(), temp())
        iterations = iterations or (16 if plain.device.type == 'cuda' else 2)
        memory = plain.warm_up(iterations)
        compared = {text: steps.Steps(build(*text.split()), temp()) for text in varied}
        memories = {text: step.warm_up(iterations) for text, step in compared.items()}
        measured = {None: lambda: plain.turn(iterations),
                    **{text: lambda step=step: step.turn(iterations) for text, step in compared.items()}}
        if folder is not None:
            other = beside.Beside(folder, beside.request(plain.config, plain.training.G.img_resolution,
                                                         steps.AUGMENTED))
            stack.callback(other.close)
            other.turn(2 if plain.device.type == 'cpu' else 8)
            measured[folder] = lambda: other.turn(iterations)
        turns = in_turn(measured, rounds)
        best = steps.least(turns.pop(None))
        print_step(plain, best, memory, config)
        for text, step in compared.items():
            print_varied(text, plain, best, step, steps.least(turns[text]), memories[text])
        if folder is not None:
            print_beside(folder, plain, best, turns[folder])


def print_step(step, turn, memory, config):
    c, total = step.config, step.iteration(turn)
    per_kimg = 1000 / c.batch_size
    half = steps.half_dtype(c)
    precision = str(half or torch.float32).removeprefix('torch.') + ' channels_last' * c.channels_last
    size = f'{config.resolution}x{config.resolution}'
    print(f'{size}, batch {c.batch_size} in micro-batches of {c.batch_gpu}, {precision}')
    line = '  '.join(f'{phase} {sec * per_kimg:.2f}' for phase, sec in turn.phases.items())
    print(f'  seconds per kimg: {line}  iteration {total * per_kimg:.2f}, '
          f'{turn.rest / total:.0%} of it outside of the phases')
    if step.device.type == 'cuda':
        print(f'  iteration {total * 1e3:.1f} ms, the host needs {turn.host:.0%} of it to launch; '
              f'peak memory {memory / 2 ** 30:.2f} GiB')
    else:
        print(f'  peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20:.2f} GiB')
        if config.reference_sec is not None:
            print(f'  iteration {total:.3f} s; the reference takes {config.reference_sec:.3f} s, '
                  f'{config.reference_sec / total:.2f} times that')
    if c.compile or c.cuda_graphs:
        return                              # their convolutions cannot be counted
    peak, conv = peak_flops(half or torch.float32, step.device), convolution_flops_per_sec(step)
    print(f'  convolutions {conv / 1e9:.0f} GFLOP/s, {conv / peak:.0%} of a matrix product ({peak / 1e9:.0f} GFLOP/s)',
          flush=True)


def print_varied(text, plain, turn, other, other_turn, memory):
    without, total = plain.iteration(turn), other.iteration(other_turn)
    phases = ', '.join(f'{name} {sec / turn.phases[name]:.2f}' for name, sec in other_turn.phases.items()
                       if name in turn.phases)
    also = '' if memory is None else f'; the host needs {other_turn.host:.0%}, peak memory {memory / 2 ** 30:.2f} GiB'
    print(f'  {text}: {total / other.config.batch_size * 1000:.2f} s/kimg, {total / without:.2f} of the time without '
          f'(what it adds is {1 - without / total:.0%} of the iteration): {phases}{also}', flush=True)


def print_beside(folder, plain, turn, answers):
    best = {name: min(answer[name] for answer in answers) for name in answers[0]}
    mean = lambda phases: sum(sec / plain.intervals[name] for name, sec in phases.items())
    print(f'  {folder}, same shapes and batch{"" if plain.device.type == "cuda" else ", float32"}: ' + ', '.join(
        f'{name} {sec / turn.phases[name]:.2f}' for name, sec in best.items())
        + f', all phases {mean(best) / mean(turn.phases):.2f} times as long as here', flush=True)


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--config', 'names', help='What to measure', type=click.Choice(list(CONFIGS)), multiple=True,
              default=['32-cb1024'], show_default=True)
@click.option('--data', help='Images in place of generated ones', metavar='PATH')
@click.option('--vary', 'varied', help='Also measure with these options of train.py in addition', multiple=True,
              metavar="'OPTIONS'")
@click.option('--beside', 'folder', help='Also measure the checkout of StyleGAN2-ADA in this folder',
              type=click.Path(exists=True, file_okay=False), metavar='FOLDER')
@click.option('--iterations', help='Of a turn  [default: 16 on a GPU, 2 on a CPU]', type=click.IntRange(min=1))
@click.option('--rounds', help='Turns of each, of which the fastest counts', type=click.IntRange(min=1), default=3,
              show_default=True)
@click.option('--profile', 'profiled', help='Only print where the time goes', is_flag=True)
@click.pass_context
def main(context, names, data, varied, folder, iterations, rounds, profiled):
    """Print the speed of a training step. Further options are those of train.py."""
    keep_freed_memory()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(f'torch {torch.__version__}, {gpu or f"{torch.get_num_threads()} CPU threads"}')
    with user_errors():
        for name in names:
            config = CONFIGS[name]
            if profiled:
                with tempfile.TemporaryDirectory() as temp:
                    pictures = data or steps.pictures(os.path.join(temp, 'data'), config.resolution)
                    made = steps.build_config(pictures, *config.options, *context.args, **config.changes)
                    print_profile(steps.Steps(made, temp))
            else:
                measure(config, context.args, data, varied, folder, iterations, rounds)


if __name__ == '__main__':
    main()
