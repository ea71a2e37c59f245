"""Speed of a training step: python benchmarks/train_step.py [--config=NAME] [--batch=N] [--device=cpu|cuda] [--kd] [--compile] [--cuda-graphs]

For each configuration it prints seconds per kimg of every phase, of a whole iteration (Gmain + Dmain + Greg/4 + Dreg/16) with and
without knowledge distillation, and how much of the device's peak the convolutions reach. The peak is a large matrix product in the same
dtype, measured in the same run: on a shared machine only such ratios mean anything.
"""

import functools
import os
import sys
import time
from typing import NamedTuple

import click
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

from kd_plugin.loss import Distillation  # noqa: E402
from kd_plugin.presets import PRESETS  # noqa: E402
from kd_plugin.teacher import Preprocess, Teacher  # noqa: E402
from torch_utils import misc  # noqa: E402
from training.compiling import compile_main_phases  # noqa: E402
from training.cuda_graphs import WARM_UP, RecordedPhase  # noqa: E402
from training.loss import StyleGAN2Loss  # noqa: E402
from training.networks import Discriminator, Generator  # noqa: E402
from training.networks_setup import use_channels_last  # noqa: E402


class Config(NamedTuple):
    """What is measured; `reference_sec` is the reference implementation's iteration, as published for two CPU cores in float32."""
    resolution: int
    channel_base: int
    batch: int
    reference_sec: float | None = None


CONFIGS = {
    '32-cb1024': Config(32, 1024, 16, 0.25 + 0.11 + 0.24 / 4 + 0.10 / 16),
    '32-cb4096': Config(32, 4096, 16, 2.03 + 0.88 + 2.04 / 4 + 0.70 / 16),
    '64-cb8192': Config(64, 8192, 8, 2.11 + 1.36 + 2.49 / 4 + 1.24 / 16),
    '128-auto': Config(128, 16384, 16),
    '256-auto': Config(256, 16384, 16),
    '512-auto': Config(512, 32768, 8),
}
IMAGES = 200                    # whose features by the teacher are at hand
INTERVALS = dict(Gmain=1, Dmain=1, Greg=4, Dreg=16)
CONV_OPS = ('aten::mkldnn_convolution', 'aten::_convolution', 'aten::convolution_backward', 'aten::cudnn_convolution',
            'aten::cudnn_convolution_transpose', 'aten::_conv_depthwise2d')


class RandomVit(torch.nn.Module):
    """The size of CLIP's ViT-B/32 image tower, with random weights: what a teacher costs, not what it knows."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 768, 32, stride=32)
        layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, dropout=0, activation='gelu', batch_first=True, norm_first=True)
        self.blocks = torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.projection = torch.nn.Linear(768, 512, bias=False)

    def image_features(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.projection(self.blocks(torch.cat([x[:, :1], x], dim=1))[:, 0])

    def text_features(self, texts):
        return torch.randn(len(texts), 512, device=self.projection.weight.device)


def synchronize(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def best_time(fn, device, repeats):
    """Least seconds of a call, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        fn()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[2:])


def peak_flops(dtype, device):
    """FLOP/s of a large matrix product."""
    n = 2048 if device.type == 'cpu' else 8192
    a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
    return 2 * n ** 3 / best_time(lambda: a @ b, device, repeats=20)


def build(config, precision, channels_last, device):
    """-> G, D in training mode, and the dtype of most of their work."""
    half = precision != 'fp32'
    dtype = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[precision]
    blocks = dict(fp16_channels_last=channels_last, half_dtype='float16' if precision == 'fp16' else 'bfloat16')
    common = dict(channel_base=config.channel_base, channel_max=512, num_fp16_res=0 if not half else 16 if device.type == 'cpu' else 4,
                  conv_clamp=256 if precision == 'fp16' else None)
    G = Generator(512, 0, 512, config.resolution, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(common, **blocks))
    D = Discriminator(0, config.resolution, 3, block_kwargs=blocks, **common)
    for network in (G, D):
        network.train().requires_grad_(False).to(device)
        if channels_last:
            use_channels_last(network)
    return G, D, dtype


def make_step(config, G, D, device, kd, compiled=False, graphs=False, teacher_fp32=False):
    """-> function that runs a phase once, forward and backward."""
    terms = {}
    if kd:
        teacher = Teacher(RandomVit().to(device), Preprocess(224, (0.5,) * 3, (0.5,) * 3), 512, 'random',
                          torch.float16 if device.type == 'cuda' and not teacher_fp32 else torch.float32).to(device)
        teacher.encoder.to(teacher.dtype)
        teacher.bf16 = device.type == 'cpu' and not teacher_fp32
        cache = torch.randn(IMAGES, 512, device=device)
        terms['kd'] = Distillation(teacher, D.feature_dim, ('agkd', 'cgkd'), ['text'] * 32, PRESETS['paper'], cache).to(device)
    loss = StyleGAN2Loss(device, G.mapping, G.synthesis, D, r1_gamma=1, terms=terms)
    if compiled:
        compile_main_phases(loss, config.batch, print)
    n = config.batch
    img, z, c = torch.randn(n, 3, config.resolution, config.resolution, device=device) * 0.5, torch.randn(n, 512, device=device), None
    c = torch.zeros(n, 0, device=device)
    idx = torch.arange(n, device=device) % IMAGES

    run = {phase: functools.partial(accumulate, loss, phase, idx) for phase in INTERVALS}
    if graphs:
        pool = torch.cuda.graph_pool_handle()
        for phase, module in (('Gmain', G), ('Dmain', D)):
            run[phase] = RecordedPhase(run[phase], [*module.parameters()], functools.partial(loss.recording_key, phase), pool, print, phase)

    def step(phase):
        module = G if phase[0] == 'G' else D
        module.requires_grad_(True).zero_grad(set_to_none=True)
        loss.start_step(0)
        run[phase](img, z, c)
        module.requires_grad_(False)
    return step


def accumulate(loss, phase, idx, img, z, c):
    loss.accumulate_gradients(phase, img, c, z, c, gain=1, real_idx=idx)


def convolution_flops_per_sec(step, device):
    """Over Gmain and Dmain: FLOP of all convolutions / time spent in them."""
    def run():
        step('Gmain')
        step('Dmain')
    run()
    with FlopCounterMode(display=False) as counter:
        run()
    flops = sum(n for op, n in counter.get_flop_counts()['Global'].items() if 'conv' in str(op))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == 'cuda' else [])
    with profile(activities=activities) as prof:
        run()
        synchronize(device)
    time_of = lambda e: e.self_device_time_total if device.type == 'cuda' else e.self_cpu_time_total
    return flops / sum(time_of(e) * 1e-6 for e in prof.key_averages() if e.key in CONV_OPS)


def seconds_of(step, device, repeats, phases=tuple(INTERVALS)):
    return {phase: best_time(lambda phase=phase: step(phase), device, repeats) for phase in phases}


def measure(name, config, precision, channels_last, device, repeats, kd, options):
    torch.manual_seed(0)
    G, D, dtype = build(config, precision, channels_last, device)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    step = make_step(config, G, D, device, kd=False)
    seconds = seconds_of(step, device, repeats)
    memory = torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else None         # of the steps, not of what is measured beside them
    per_kimg = 1000 / config.batch
    iteration = sum(seconds[phase] / every for phase, every in INTERVALS.items())
    line = '  '.join(f'{phase} {sec * per_kimg:.2f}' for phase, sec in seconds.items())
    print(f'{name}  batch {config.batch}  {precision}{" channels_last" if channels_last else ""}', flush=True)
    print(f'  seconds per kimg: {line}  iteration {iteration * per_kimg:.2f}')
    if config.reference_sec is not None and device.type == 'cpu' and config.batch == CONFIGS[name].batch:
        print(f'  iteration {iteration:.3f} s; the reference takes {config.reference_sec:.3f} s, {config.reference_sec / iteration:.2f} times that')
    peak, conv = peak_flops(dtype, device), convolution_flops_per_sec(step, device)
    print(f'  convolutions {conv / 1e9:.0f} GFLOP/s, {conv / peak:.0%} of a matrix product ({peak / 1e9:.0f} GFLOP/s)')
    if memory is not None:
        print(f'  peak memory {memory / 2 ** 30:.2f} GiB')
    for option in options:              # beside the plain step, measured again: a shared machine changes its pace
        fast = make_step(config, G, D, device, kd=False, **{option: True})
        seconds_of(fast, device, WARM_UP, ('Gmain', 'Dmain'))
        ours, plain = (seconds_of(s, device, repeats, ('Gmain', 'Dmain')) for s in (fast, step))
        print(f'  {option}: ' + ', '.join(f'{phase} {ours[phase] / plain[phase]:.2f} of the time without' for phase in ours))
    if kd:
        distilling = make_step(config, G, D, device, kd=True, teacher_fp32=precision == 'fp32')
        extra = best_time(lambda: distilling('Dmain'), device, repeats) - best_time(lambda: step('Dmain'), device, repeats)
        print(f'  distillation (teacher of the size of ViT-B/32, reals cached): iteration {(iteration + extra) * per_kimg:.2f}, '
              f'share of it {extra / (iteration + extra):.0%}')


def print_profile(name, config, precision, channels_last, device):
    """Where the time of Gmain and Dmain goes."""
    G, D, _dtype = build(config, precision, channels_last, device)
    step = make_step(config, G, D, device, kd=False)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == 'cuda' else [])
    for _ in range(2):
        with profile(activities=activities) as prof:
            step('Gmain')
            step('Dmain')
            synchronize(device)
    print(prof.key_averages().table(sort_by=f'self_{device.type}_time_total', row_limit=12, max_name_column_width=40))


@click.command()
@click.option('--config', 'names', help='What to measure', type=click.Choice(list(CONFIGS)), multiple=True,
              default=['32-cb1024', '32-cb4096', '64-cb8192'])
@click.option('--device', type=click.Choice(['cpu', 'cuda']), default='cpu', show_default=True)
@click.option('--precision', type=click.Choice(['fp32', 'bf16', 'fp16']), multiple=True,
              help='[default: fp32 and bf16 on a CPU, fp32 and fp16 on a GPU]')
@click.option('--nhwc', help='channels_last memory format  [default: on a CPU, as train.py does]', type=bool)
@click.option('--repeats', type=click.IntRange(min=1), default=5, show_default=True)
@click.option('--batch', help='In place of that of the configuration', type=click.IntRange(min=4))
@click.option('--kd', help='Also measure knowledge distillation', is_flag=True)
@click.option('--compile', 'compiled', help='Also measure torch.compile', is_flag=True)
@click.option('--cuda-graphs', 'graphs', help='Also measure CUDA graphs', is_flag=True)
@click.option('--profile', 'profiled', help='Only print where the time goes', is_flag=True)
def main(names, device, precision, nhwc, repeats, batch, kd, compiled, graphs, profiled):
    """Print the speed of a training step."""
    device = torch.device(device)
    nhwc = device.type == 'cpu' if nhwc is None else nhwc
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, True               # as train.py does
    misc.keep_freed_memory()
    print(f'torch {torch.__version__}, {torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"}')
    options = [option for option, wanted in (('compiled', compiled), ('graphs', graphs)) if wanted]
    for name in names:
        config = CONFIGS[name] if batch is None else CONFIGS[name]._replace(batch=batch)
        for p in precision or (('fp32', 'bf16') if device.type == 'cpu' else ('fp32', 'fp16')):
            if profiled:
                print_profile(name, config, p, nhwc, device)
            else:
                measure(name, config, p, nhwc, device, repeats, kd, options)


if __name__ == '__main__':
    main()
