"""What the CPU choices in torch_utils rest on: python benchmarks/ops_cpu.py"""

import os
import sys
import time

import click
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

from torch_utils.devices import keep_freed_memory  # noqa: E402
from torch_utils.ops import conv2d_gradfix, upfirdn2d  # noqa: E402

F = torch.nn.functional


def best_ms(fn, repeats=10):
    fn()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def table(title, rows):
    print(f'\n{title}')
    for name, ms in rows.items():
        print(f'  {name:<58} {ms:8.2f}')


def filters():
    f = torch.tensor([1., 3, 3, 1]) / 8
    for dtype, layout in [(torch.bfloat16, torch.channels_last), (torch.float32, torch.channels_last),
                          (torch.float32, torch.contiguous_format)]:
        x = torch.randn(8, 128, 64, 64).to(dtype).contiguous(memory_format=layout)
        w = f.outer(f).to(dtype).expand(128, 1, 4, 4)
        wv, wh = f.to(dtype)[:, None].expand(128, 1, 4, 1), f.to(dtype)[None].expand(128, 1, 1, 4)

        def shifts(x=x):
            for dim, pad in [(2, [0, 0, 2, 2]), (3, [2, 2, 0, 0])]:
                x = F.pad(x, pad)
                n = x.shape[dim] - 3
                x = sum(x.narrow(dim, i, n) * float(f[i]) for i in range(4))
            return x

        def boxes(x=x):
            x = F.pad(x, [2, 2, 2, 2])
            for _ in range(3):
                x = F.avg_pool2d(x, 2, stride=1)
            return x
        table(f'4-tap filter of [8, 128, 64, 64], {dtype}, '
              f'{"channels_last" if layout == torch.channels_last else "contiguous"}', {
            'copy': best_ms(x.clone),
            'depthwise convolution 4x4 (used)': best_ms(lambda x=x, w=w: F.conv2d(x, w, padding=2, groups=128)),
            'two depthwise convolutions': best_ms(lambda x=x, v=wv, h=wh: F.conv2d(
                F.conv2d(x, v, padding=(2, 0), groups=128), h, padding=(0, 2), groups=128)),
            'sum of shifted images': best_ms(shifts, 3),
            'three 2x2 means': best_ms(boxes, 3),
            'adjoint of stride 2 by the stock backward': best_ms(
                lambda x=x, w=w: F.conv_transpose2d(x[:, :, ::2, ::2], w, stride=2, groups=128), 2),
            'adjoint of stride 2 as zero insertion and filter (used)': best_ms(
                lambda x=x: upfirdn2d.upsample2d(x[:, :, ::2, ::2], upfirdn2d.setup_filter([1, 3, 3, 1]))),
        })


def double_backward():
    for n, c, size in [(8, 128, 64), (8, 512, 16)]:
        x = torch.randn(n, c, size, size).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_(True)
        w = torch.randn(c, c, 3, 3).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_(True)
        dy = torch.randn_like(x).requires_grad_(True)

        def penalty(conv, x=x, w=w, dy=dy):
            with conv2d_gradfix.no_weight_gradients():
                dx, = torch.autograd.grad(conv(x, w, padding=1), x, dy, create_graph=True)
            return torch.autograd.grad(dx, [w, dy], torch.ones_like(dx))
        table(f'convolution {c} -> {c} at {size}x{size}, batch {n}, bfloat16: derivative of a gradient', {
            'stock': best_ms(lambda: penalty(F.conv2d), 4),
            'conv2d_gradfix (used)': best_ms(lambda: penalty(conv2d_gradfix.conv2d), 4)})


def memory_formats():
    for dtype in (torch.float32, torch.bfloat16):
        rows = {}
        for layout, name in [(torch.contiguous_format, 'contiguous'), (torch.channels_last, 'channels_last')]:
            x = torch.randn(8, 256, 32, 32).to(dtype).contiguous(memory_format=layout).requires_grad_(True)
            w = torch.randn(256, 256, 3, 3).to(dtype).contiguous(memory_format=layout).requires_grad_(True)
            dy = torch.randn_like(x)
            ms = best_ms(lambda x=x, w=w, dy=dy: torch.autograd.grad(F.conv2d(x, w, padding=1), [x, w], dy), 4)
            rows[f'{name} ({3 * 2 * x.numel() * w[0].numel() / ms / 1e6:.0f} GFLOP/s)'] = ms
        table(f'convolution 256 -> 256 at 32x32, batch 8, {dtype}, forward and backward', rows)
    x = torch.randn(8, 512, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_(True)
    rows = {}
    for name, swap in [('channels_last', False), ('channels_last with channels exchanged (used)', True)]:
        w = torch.randn(512, 512, 3, 3).contiguous(memory_format=torch.channels_last)
        w = (w.transpose(0, 1) if swap else w).requires_grad_(True)
        y = lambda x=x, w=w: conv2d_gradfix.conv_transpose2d(x, w.bfloat16().transpose(0, 1), stride=2)
        dy = torch.randn_like(y())
        rows[f'weights {name}'] = best_ms(lambda y=y, w=w, dy=dy: torch.autograd.grad(y(), w, dy)[0] + w.detach(), 6)
    table('transposed convolution 512 -> 512 at 8x8, bfloat16, float32 weights: forward, weight gradient, sum with '
          'another one', rows)


def fresh_pages():
    x = torch.randn(8, 128, 128, 128).bfloat16()
    before = best_ms(lambda: x * 2)
    keep_freed_memory()
    table('multiplication of 32 MiB by a number', {'as the C library comes': before,
                                                   'after keep_freed_memory (used)': best_ms(lambda: x * 2)})


@click.command()
def main():
    """Measure what the CPU choices in torch_utils rest on; the best of several calls, in milliseconds.

    \b
    1. Ways to filter with 4 taps: one depthwise convolution is used
       (torch_utils/ops/upfirdn2d.py).
    2. The derivative of a gradient through stock and own convolutions
       (torch_utils/ops/conv2d_gradfix.py).
    3. Memory formats and layouts of weights for convolutions
       (training/networks_setup.py, use_channels_last).
    4. What fresh memory pages cost (torch_utils/devices.py, keep_freed_memory).
    """
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    filters()
    double_backward()
    memory_formats()
    fresh_pages()


if __name__ == '__main__':
    main()
