"""What a training step asks of a GPU, traced without one: python benchmarks/trace_step.py [--resolution=256]
[--gpu=A100] [OPTIONS OF train.py]

    python benchmarks/trace_step.py --resolution=512 --cfg=auto --aug=ada --batch=8

Builds the configuration that train.py would on a GPU, runs each phase on meta tensors, which have shapes but no data,
and records every operator that torch dispatches. Prints launches, bytes moved, FLOP by precision and peak memory per
phase and kind of work, and the time that named GPUs need at least: the larger of what the bytes and the FLOP take at
the rates of `GPUS`, at least `LAUNCH_SEC` per launch. An operator counts as reading its inputs and writing its outputs
once. That is a model, not a measurement; it shows what a change saves, and a test holds its figures.
"""

import contextlib
import os
import sys
import tempfile
from typing import NamedTuple
from unittest import mock

import click
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path[:0] = [HERE := os.path.dirname(os.path.abspath(__file__)), os.path.join(HERE, os.pardir)]

import steps  # noqa: E402

import dnnlib  # noqa: E402
from dnnlib.util import user_errors  # noqa: E402
from torch_utils import training_stats  # noqa: E402
from training import networks_setup  # noqa: E402
from training.augment.ada import set_probability  # noqa: E402
from training.ema import WeightAverage  # noqa: E402
from training.phases import make_phases  # noqa: E402

META = torch.device('meta')
LAUNCH_SEC = 2e-6                       # the shortest time from one kernel to the next
# Of the rates below: usual for large elementwise kernels, and for cuDNN at these sizes
EFFICIENCY = dict(memory=0.8, flops=0.5)


class Gpu(NamedTuple):
    """Rates as their makers state them: bytes per second, dense FLOP per second of the tensor cores and of float32
    units."""
    memory: float
    float16: float
    tf32: float
    float32: float


GPUS = {
    'H200': Gpu(4.8e12, 990e12, 495e12, 67e12),
    'A100': Gpu(2.0e12, 312e12, 156e12, 19.5e12),
    '4090': Gpu(1.0e12, 165e12, 82e12, 82e12),
    '3060': Gpu(0.36e12, 51e12, 25e12, 12.7e12),
    'T4': Gpu(0.32e12, 65e12, 8.1e12, 8.1e12),          # has no TF32
}

KINDS = {                               # kind of work -> parts of the names of its operators, the first match counts
    'convolution': ('convolution',),
    'matrix product': ('mm', 'matmul', 'addmv', 'dot'),
    'upfirdn2d': ('upfirdn2d',),
    'bias_act': ('bias_act',),
    'sampling': ('grid_sampler',),
    'optimiser': ('_fused_adam', '_foreach'),
    'random': ('rand', 'normal', 'uniform', 'bernoulli'),
    'copy': ('copy', 'clone', 'cat', 'contiguous', '_to_', 'stack', 'index', 'gather', 'constant_pad', 'repeat',
             'flip', 'roll'),
    'zeros': ('zero', 'fill', 'full', 'ones', 'slice_backward', 'select_backward'),
    'reduction': ('sum', 'mean', 'amax', 'amin', 'norm', 'var', 'prod', 'softmax'),
}
OWN_LAUNCHES = {'scaled_bias_act_grad': 4, 'scaled_bias_act_grad2': 2}       # the kernel, and sums over its tiles
FREE = ('empty', 'detach', 'alias', 'view', 'lift', 'size', 'stride', '_local_scalar', 'record_stream', 'is_same_size')


class Call(NamedTuple):
    """One operator as it ran."""
    name: str
    kind: str
    launches: int
    bytes: int
    flops: int
    dtype: torch.dtype

    def seconds(self, gpu, tf32):
        """At least, on this `Gpu`."""
        if self.launches == 0:
            return 0.0
        half = self.dtype in (torch.float16, torch.bfloat16)
        rate = gpu.float16 if half else gpu.tf32 if tf32[self.kind == 'convolution'] else gpu.float32
        times = self.bytes / gpu.memory / EFFICIENCY['memory'], self.flops / rate / EFFICIENCY['flops']
        return max(*times, self.launches * LAUNCH_SEC)


class Trace(TorchDispatchMode):
    """Records the operators that run inside, and how much memory their results hold at most.

    Attributes:
        calls: list of `Call`.
        peak:  bytes of all storages made inside that were alive at the same time, at most.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.peak = [], 0
        self._alive, self._held = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self._follow(outputs)
        if any(t.device == META for t in (*inputs, *outputs)):
            self.calls.append(_call(func, inputs, outputs, args, kwargs, result))
        return result

    def _follow(self, outputs):
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if tensor.device == META and storage._cdata not in self._alive:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self._held += storage.nbytes()
        if self._held > self.peak:                      # what was freed in between is looked for only here
            self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
            self._held = sum(size for _, size in self._alive.values())
            self.peak = max(self.peak, self._held)


def _call(func, inputs, outputs, args, kwargs, result):
    name = func._schema.name.split('::')[1]
    dtype = next((t.dtype for t in inputs if t.is_floating_point()), torch.float32)
    if any(name.startswith(free) for free in FREE) or _is_view(func):
        return Call(name, 'view', 0, 0, 0, dtype)
    kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), 'elementwise')
    flops = flop_registry[func._overloadpacket](*args, **(kwargs or {}),
                                                out_val=result) if func._overloadpacket in flop_registry else 0
    launches = OWN_LAUNCHES.get(name, 1)
    if name == 'convolution_backward':
        launches = sum(args[-1])
    elif kind == 'optimiser':
        launches = _multi_tensor_launches(inputs)
    return Call(name, kind, launches, sum(map(_bytes, inputs)) + sum(map(_bytes, outputs)), int(flops), dtype)


def _multi_tensor_launches(tensors):
    """One kernel of torch's takes about 36 tensors of each list, and 320 chunks of 64k numbers."""
    chunks = sum(-(-t.numel() // 65536) for t in tensors)
    return max(-(-len(tensors) // 144), -(-chunks // 320), 1)


def _is_view(func):
    """Whether the result shares memory with an input that is not written."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _bytes(tensor):
    """Memory behind a tensor: an expanded one has fewer numbers than elements."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride != 0 else 1
    return distinct * tensor.element_size()


# ---------------------------------------------------------------------------
# The step of a configuration.

def build_config(resolution, *options):
    """The configuration that train.py makes with these options on a GPU, for RGB images of this size (two classes), and
    the data set."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(torch.cuda, 'is_available', return_value=True):
        config = steps.build_config(steps.pictures(folder, resolution, 8), '--device=cuda', *options)
        with contextlib.closing(dnnlib.util.construct_class_by_name(**config.training_set_kwargs)) as dataset:
            shape = dnnlib.EasyDict({name: getattr(dataset, name)
                                     for name in ('label_dim', 'resolution', 'num_channels')})
    return config, shape


class MetaStep:
    """Networks, loss and phases of a configuration on the meta device; `traces()` runs every phase once."""

    def __init__(self, config, dataset):
        self.config, self.dataset = config, dataset
        build = dnnlib.util.construct_class_by_name
        with META:
            networks, *_ = networks_setup.build_networks(config, dataset, META)
        self.G, self.D = networks['G'], networks['D']
        pipe = None
        if config.get('augment_kwargs') is not None:
            pipe = build(**config.augment_kwargs).requires_grad_(False)
            if hasattr(pipe, 'p'):
                set_probability(pipe, steps.AUGMENTED)
            pipe.to(META)
        self.loss = build(device=META, G_mapping=self.G.mapping, G_synthesis=self.G.synthesis, D=self.D,
                          augment_pipe=pipe, **config.loss_kwargs)
        with fused_optimiser():
            self.phases = make_phases(self.G, self.D, dict(self.loss.terms.named_parameters()), config.G_opt_kwargs,
                                      config.D_opt_kwargs, config.G_reg_interval, config.D_reg_interval,
                                      torch.device('cpu'), config.D_steps, config.D_first)
        self.G_ema = networks['G_ema']
        self.ema = WeightAverage(self.G, self.G_ema, config.ema_kimg, config.ema_rampup, buffers=config.ema_buffers)

    def traces(self):
        """{phase or 'EMA': (`Trace`, how many iterations it comes once in)}."""
        n, c = self.config.batch_size // self.config.num_gpus, self.dataset
        img = torch.zeros([n, c.num_channels, c.resolution, c.resolution], device=META)
        z, label = torch.zeros([n, self.G.z_dim], device=META), torch.zeros([n, c.label_dim], device=META)
        found = {}
        for phase in self.phases:
            phase.begin()
            with fused_optimiser(), mock.patch.object(training_stats, '_moments', {}), Trace() as trace:
                for part in torch.arange(n).split(self.config.batch_gpu):
                    pick = [x[:len(part)] for x in (img, label, z, label)]
                    self.loss.accumulate_gradients(phase.name, *pick, gain=phase.gain)
                phase.end()
            found[phase.name] = trace, phase.interval
        with Trace() as trace:
            self.ema.update(10 ** 6, n)
        return {**found, 'EMA': (trace, self.config.D_steps)}

    def kept_bytes(self):
        """After `traces()`: what stays from one iteration to the next: weights, their average, the optimisers'
        averages. Images aside."""
        tensors = [t for network in (self.G, self.D, self.G_ema) for t in (*network.parameters(), *network.buffers())]
        optimisers = {id(phase.opt): phase.opt for phase in self.phases}.values()
        tensors += [t for opt in optimisers for state in opt.state.values() for t in state.values()]
        return sum(t.numel() * t.element_size() for t in tensors)


def fused_optimiser():
    """Within it torch takes meta parameters for the optimiser in one kernel, as it takes those on a GPU."""
    return mock.patch('torch.optim.optimizer._get_fused_kernels_supported_devices', return_value=['meta'])


def summary(trace):
    """{kind: [launches, bytes, FLOP in half precision, FLOP in float32]} of a trace, and their sum under 'all'."""
    table = {}
    for call in trace.calls:
        half = call.dtype in (torch.float16, torch.bfloat16)
        for kind in (call.kind, 'all'):
            row = table.setdefault(kind, [0, 0, 0, 0])
            for i, value in enumerate((call.launches, call.bytes, call.flops * half, call.flops * (not half))):
                row[i] += value
    return table


def iteration_seconds(traces, gpu, config):
    tf32 = {True: config.conv_tf32, False: config.allow_tf32}           # of convolutions, of the rest
    return sum(call.seconds(gpu, tf32) / every for trace, every in traces.values() for call in trace.calls)


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--resolution', type=click.IntRange(min=8), default=256, show_default=True)
@click.option('--gpu', 'gpus', help='Which to model', type=click.Choice(list(GPUS)), multiple=True, default=list(GPUS),
              show_default=True)
@click.pass_context
def main(context, resolution, gpus):
    """Print the trace of a training step. Further options are those of train.py."""
    with user_errors():
        config, dataset = build_config(resolution, *context.args)
    print(f'{resolution}x{resolution}, batch {config.batch_size} in micro-batches of {config.batch_gpu}, '
          f'{" ".join(context.args)}')
    step = MetaStep(config, dataset)
    traces = step.traces()
    print(f'{"phase":<8}{"kind":<16}{"launches":>9}{"GB":>9}{"TFLOP half":>12}{"TFLOP fp32":>12}')
    for name, (trace, every) in traces.items():
        for kind, (launches, moved, half, single) in sorted(summary(trace).items(), key=lambda item: -item[1][1]):
            if launches > 0:
                print(f'{name if kind == "all" else "":<8}{kind:<16}{launches:>9}{moved / 1e9:>9.2f}'
                      f'{half / 1e12:>12.3f}{single / 1e12:>12.3f}')
        print(f'{"":<8}peak of what the phase makes {trace.peak / 2 ** 30:.2f} GiB; once in {every} iterations')
    launches = sum(call.launches / every for trace, every in traces.values() for call in trace.calls)
    print(f'an iteration: {launches:.0f} launches; {step.kept_bytes() / 2 ** 30:.2f} GiB stay from one to the next')
    for name in gpus:
        sec = iteration_seconds(traces, GPUS[name], config)
        print(f'  {name:<5} {sec * 1e3:7.1f} ms at least, {sec / config.batch_size * 1000:6.2f} s/kimg')


if __name__ == '__main__':
    main()
