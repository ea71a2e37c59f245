"""benchmarks/trace_step.py: what it counts, by hand; and what a step of `auto` at 256x256 may ask of a GPU."""

import importlib
import os
import sys

import pytest
import torch

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir, 'benchmarks'))
trace_step = importlib.import_module('trace_step')


def test_counts_by_hand():
    a, b = torch.zeros(100, 200, device='meta'), torch.zeros(200, 50, device='meta', dtype=torch.float32)
    with trace_step.Trace() as trace:
        c = a @ b                           # reads 20000 + 10000 numbers, writes 5000
        # Reads 5000 + 1, writes 5000; the zero is written, too
        d = c.t() + torch.zeros(1, device='meta').expand(50, 100)
        del c
        d.mul_(2)                           # reads and writes 5000
    table = trace_step.summary(trace)
    assert table['matrix product'] == [1, 4 * 35000, 0, 2 * 100 * 200 * 50]
    assert table['elementwise'] == [2, 4 * (10001 + 10000), 0, 0]
    assert table['zeros'][0] == 1
    assert trace.peak == 4 * (5000 + 1 + 5000)


def test_half_precision_and_convolutions():
    half_zeros = lambda *shape: torch.zeros(shape, device='meta', dtype=torch.float16)
    x, w, dy = half_zeros(2, 8, 16, 16), half_zeros(4, 8, 3, 3).requires_grad_(), half_zeros(2, 4, 16, 16)
    with trace_step.Trace() as trace:
        torch.nn.functional.conv2d(x, w, padding=1).backward(dy)
    launches, moved, half, single = trace_step.summary(trace)['convolution']
    forward = 2 * 2 * 4 * 16 * 16 * 8 * 9
    assert (launches, half, single) == (2, 2 * forward, 0)              # x needs no gradient
    assert moved == 2 * (x.numel() + w.numel() + 2048) + 2 * (2048 + x.numel() + w.numel() + w.numel())


def test_least_time():
    gpu = trace_step.Gpu(memory=1e12, float16=100e12, tf32=50e12, float32=10e12)
    plain = trace_step.Call('mm', 'matrix product', 1, 0, 0, torch.float32)
    call = lambda **changes: plain._replace(**changes).seconds(gpu, {True: True, False: False})
    assert call() == trace_step.LAUNCH_SEC
    assert call(bytes=8 * 10 ** 9) == pytest.approx(0.01)               # 0.8 of 1 TB/s
    assert call(flops=10 ** 12) == pytest.approx(0.2)                   # half of 10 TFLOP/s
    assert call(flops=10 ** 12, kind='convolution') == pytest.approx(0.04)
    assert call(flops=10 ** 12, dtype=torch.float16) == pytest.approx(0.02)
    assert call(launches=0) == 0


# Of 256x256, --cfg=auto --aug=ada, batch 16: launches, GB and peak GiB of each phase, rounded up. Whoever makes a step
# lighter lowers them. With channels_last, tensors change their layout between blocks of half precision and others.
LIMITS = {'--nhwc=0': {'Gmain': (2241, 33.6, 3.0), 'Greg': (2610, 23.9, 1.9), 'Dmain': (2110, 37.5, 1.4),
                       'Dreg': (1290, 39.0, 2.9), 'EMA': (5, 0.2, 0.1)},
          '--nhwc=1': {'Gmain': (2255, 34.1, 3.1), 'Greg': (2617, 24.0, 1.9), 'Dmain': (2121, 38.2, 1.4),
                       'Dreg': (1299, 39.3, 2.9), 'EMA': (5, 0.2, 0.1)}}


@pytest.mark.parametrize('layout', LIMITS)
def test_a_step_at_256_asks_for_no_more(layout):
    config, dataset = trace_step.build_config(256, '--cfg=auto', '--aug=ada', layout)
    assert config.batch_size == 16 and config.G_kwargs['synthesis_kwargs']['num_fp16_res'] == 4
    step = trace_step.MetaStep(config, dataset)
    traces = step.traces()
    assert set(traces) == set(LIMITS[layout])
    for name, (trace, _every) in traces.items():
        launches, moved, half, _single = trace_step.summary(trace)['all']
        limits = LIMITS[layout][name]
        assert 0.8 * limits[0] <= launches <= limits[0], f'{name}: {launches} launches'
        assert 0.8 * limits[1] <= moved / 1e9 <= limits[1], f'{name}: {moved / 1e9:.2f} GB'
        assert trace.peak / 2 ** 30 <= limits[2], f'{name}: {trace.peak / 2 ** 30:.2f} GiB'
    weights = [sum(p.numel() for p in network.parameters()) for network in (step.G, step.D)]
    # Two averages each of Adam, one of G
    assert step.kept_bytes() == pytest.approx(4 * (4 * weights[0] + 3 * weights[1]), rel=0.01)
    flops = {name: trace_step.summary(trace)['all'][2] for name, (trace, _every) in traces.items()}
    # The convolutions of three passes over 16 images, forward and backward
    assert flops['Dmain'] == pytest.approx(3.204e12, rel=0.01)
