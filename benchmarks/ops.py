"""Speed of the operators: python benchmarks/ops.py [--device=cpu|cuda] [--quick]

For each operator, shape, layout and dtype it prints the time of the kernel (on a CPU: of the plain torch that serves
there), of the reference in plain torch on the same device, of a copy that reads and writes as many bytes, and of the
elementwise kernel torch.neg on the same tensor, all measured in the same run. `of copy` and `of neg` are their times
over the kernel's. Targets on a GPU: for large tensors 90 % of the copy for bias_act and scaled_bias_act and 75 % for
upfirdn2d; for small ones, where launching dominates, 83 % of neg (1.2 times its time).

These times are of the device: on a GPU, of calls recorded into a CUDA graph, so that Python does not count; on a CPU,
the best of several calls. `eager` is what one call costs outside of a graph when calls follow each other and no
gradient is asked for, Python included: for small tensors much more.
"""

import math
import os
import sys
import time
import warnings
from typing import NamedTuple

import click
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

from torch_utils import custom_ops  # noqa: E402
from torch_utils.custom_ops import references  # noqa: E402
from torch_utils.ops import bias_act, upfirdn2d  # noqa: E402

# Odd extents: a convolution that doubles the size passes 2 H + 1 to its filter, and such rows allow no access of 16
# bytes.
SHAPES = {'cuda': [(16, 512, 4, 4), (16, 512, 32, 32), (16, 512, 33, 33), (16, 256, 128, 128), (16, 256, 129, 129),
                   (16, 64, 256, 256), (16, 64, 257, 257), (16, 3, 256, 256)],
          'cpu': [(4, 128, 4, 4), (4, 128, 32, 32), (4, 32, 128, 128), (4, 3, 128, 128)]}
DTYPES = {'cuda': [torch.float16, torch.bfloat16, torch.float32], 'cpu': [torch.bfloat16, torch.float32]}


class Job(NamedTuple):
    """One operator with its arguments on one tensor."""
    name: str
    operator: str
    tensors: tuple
    args: tuple

    def kernel(self):
        return getattr(torch.ops.kdgan, self.operator)(*self.tensors, *self.args)

    def reference(self):
        return references[self.operator](*self.tensors, *self.args)


def jobs(shape, dtype, layout, device):
    """Yields what training calls most, on a tensor of this shape."""
    x, dy = (torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    b = torch.randn(shape[1], device=device).to(dtype)
    act = (1, 'lrelu', 0.2, bias_act.activation_funcs['lrelu'].def_gain, 256.0)
    yield Job('bias_act lrelu', 'bias_act', (x, b), act)
    yield Job('bias_act lrelu, backward', 'bias_act_slope', (dy, x, None), act)
    scale, noise = torch.randn(shape[:2], device=device), torch.randn([shape[0], 1, *shape[2:]], device=device)
    yield Job('scale, noise, lrelu', 'scaled_bias_act', (x, scale, noise, b.float()), act[2:])
    yield Job('scale, noise, backward', 'scaled_bias_act_grad', (dy, x, x, scale), act[2:])
    yield Job('scale, noise, second', 'scaled_bias_act_grad2', (dy, scale, None, None, dy, x, x, scale), act[2:])
    taps4 = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    yield Job('filter 4x4', 'upfirdn2d', (x, taps4), (1, 1, 1, 1, 2, 1, 2, 1, False, 1.0))
    yield Job('up 2, 4x4', 'upfirdn2d', (x, taps4), (2, 2, 1, 1, 2, 1, 2, 1, False, 4.0))
    yield Job('down 2, 4x4', 'upfirdn2d', (x, taps4), (1, 1, 2, 2, 1, 1, 1, 1, False, 1.0))


def device_ms(fn, device, seconds):
    """Milliseconds of one call, the best of several rounds that take about `seconds` together."""
    fn()
    return _cuda_ms(fn, seconds) if device.type == 'cuda' else _cpu_ms(fn, seconds)


def _cpu_ms(fn, seconds):
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end or best == math.inf:
        start = time.perf_counter()
        fn()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def _cuda_ms(fn, seconds, calls=20):
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            fn()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end or best == math.inf:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        best = min(best, start.elapsed_time(stop) / calls)
    return best


def eager_ms(fn, device, calls):
    """Milliseconds of one call in a row of them, as the program that makes them sees it."""
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    fn()
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        fn()
    wait()
    return (time.perf_counter() - start) / calls * 1e3


def measure(job, device, seconds):
    """-> milliseconds of kernel, reference, copy, neg, and of the kernel called eagerly."""
    y = job.kernel()
    tensors = [*(t for t in job.tensors if t is not None), *(y if isinstance(y, tuple) else [y])]
    moved = sum(t.numel() * t.element_size() for t in tensors)
    source = torch.empty(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    fns = job.kernel, job.reference, lambda: target.copy_(source), lambda: torch.neg(job.tensors[0])
    return *(device_ms(fn, device, seconds) for fn in fns), eager_ms(job.kernel, device,
                                                                     100 if device.type == 'cuda' else 3)


def require_kernels(device):
    """No fallback passes for a kernel here."""
    if not torch.cuda.is_available():
        raise click.ClickException(f'--device=cuda needs a CUDA GPU, torch {torch.__version__} sees none; python -m '
                                   'torch_utils.doctor says more')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                 # the error says the same
        for kernel in custom_ops.OPERATORS:
            try:
                custom_ops.require(kernel, device)
            except RuntimeError as err:
                raise click.ClickException(str(err)) from None


@click.command()
@click.option('--device', type=click.Choice(['cpu', 'cuda']), default='cuda' if torch.cuda.is_available() else 'cpu',
              show_default=True)
@click.option('--seconds', help='of each measurement', type=click.FloatRange(min=0, min_open=True), default=0.2,
              show_default=True)
@click.option('--quick', is_flag=True, help='only the smallest shape, 10 ms each: to see whether it runs')
def main(device, seconds, quick):
    """Measures the operators that have kernels."""
    device = torch.device(device)
    if device.type == 'cuda':
        require_kernels(device)
    name = (torch.cuda.get_device_name() if device.type == 'cuda'
            else f'CPU, {torch.get_num_threads()} threads, plain torch for kernel')
    print(f'torch {torch.__version__}, {name}; times in ms')
    print(f'{"operator":<26}{"shape":<22}{"dtype":<10}{"layout":<15}'
          f'{"kernel":>9}{"reference":>11}{"copy":>9}{"neg":>9}{"eager":>9}'
          f'{"speed-up":>10}{"of copy":>9}{"of neg":>8}')
    for shape in SHAPES[device.type][:1 if quick else None]:
        for dtype in DTYPES[device.type]:
            for layout in (torch.contiguous_format, torch.channels_last):
                for job in jobs(shape, dtype, layout, device):
                    kernel, reference, copy, neg, eager = measure(job, device, 0.01 if quick else seconds)
                    where = ['channels_last' if layout == torch.channels_last else 'contiguous',
                             str(dtype).removeprefix('torch.')]
                    print(f'{job.name:<26}{str(list(shape)):<22}{where[1]:<10}{where[0]:<15}'
                          f'{kernel:9.4f}{reference:11.4f}{copy:9.4f}'
                          f'{neg:9.4f}{eager:9.4f}{reference / kernel:9.2f}x{copy / kernel:9.0%}{neg / kernel:8.0%}')


if __name__ == '__main__':
    with torch.no_grad():
        main()
