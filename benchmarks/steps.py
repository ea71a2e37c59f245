"""What the benchmarks share: the step of a configuration as train.py makes it, and the time of its iterations."""

import contextlib
import copy
import io
import os
import sys
import time
from typing import NamedTuple
from unittest import mock

import numpy as np
import PIL.Image
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import train  # noqa: E402
from dnnlib import EasyDict  # noqa: E402
from kd_plugin.teacher import Preprocess, Teacher  # noqa: E402
from training.augment.ada import set_probability  # noqa: E402
from training.snapshots.arguments import precision_of  # noqa: E402
from training.speed.recorded_phase import TRIALS, WARM_UP  # noqa: E402
from training.training import Training  # noqa: E402

AUGMENTED = 0.5                 # probability of ADA's transformations, which begins at 0 in a run


def pictures(folder, resolution, count=64):
    """Writes RGB pictures of coloured clouds in two classes into `folder`."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = os.path.join(folder, 'ab'[i % 2], f'{i:02d}.png')
        os.makedirs(os.path.dirname(path), exist_ok=True)
        clouds = PIL.Image.fromarray(rng.integers(0, 256, [8, 8, 3], dtype=np.uint8))
        clouds.resize([resolution, resolution], PIL.Image.Resampling.BICUBIC).save(path)
    return folder


def build_config(data, *options, **changes):
    """The configuration that train.py makes of these options, without metrics and health figures, with `changes`."""
    args = ['--outdir=none', f'--data={data}', '--metrics=none', '--health=0', *options]
    config, _name = train.build_config(EasyDict(train.main.make_context('train.py', args).params))
    config.update(changes, grid_images=4)
    return config


def half_dtype(config):
    """Of the blocks in half precision; None = there are none."""
    layers, block = precision_of(copy.deepcopy(config.D_kwargs))
    return getattr(torch, block.get('half_dtype', 'float16')) if layers['num_fp16_res'] > 0 else None


def device_of(config):
    return torch.device('cuda', torch.cuda.current_device()) if config.device == 'cuda' else torch.device('cpu')


class RandomVit(torch.nn.Module):
    """The size of CLIP's ViT-B/32 image tower, with random weights: the cost of a teacher, without its knowledge."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 768, 32, stride=32)
        layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, dropout=0, activation='gelu', batch_first=True,
                                                 norm_first=True)
        self.blocks = torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.projection = torch.nn.Linear(768, 512, bias=False)

    def image_features(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.projection(self.blocks(torch.cat([x[:, :1], x], dim=1))[:, 0])

    def text_features(self, texts):
        return torch.randn(len(texts), 512, device=self.projection.weight.device)


def random_teacher(_name, device, fp32):
    """In place of `kd_plugin.teacher.load_for_training`."""
    cuda = torch.device(device).type == 'cuda'
    teacher = Teacher(RandomVit(), Preprocess(224, (0.5,) * 3, (0.5,) * 3), 512, 'random',
                      torch.float16 if cuda and not fp32 else torch.float32)
    teacher.encoder.to(teacher.dtype)
    teacher.bf16 = not cuda and not fp32
    return teacher.to(device)


def random_features(teacher, dataset, *_args):
    """In place of `kd_plugin.feature_cache.real_features`, which would store them on disk."""
    return torch.randn(len(dataset), teacher.dim, device=teacher.mean.device)


class Turn(NamedTuple):
    """What some iterations took.

    phases: {name: seconds of one run}.
    rest:   seconds per iteration outside of the phases: data, average of the weights, ADA.
    host:   share of the time after which the host had launched everything; 1 on a CPU.
    """
    phases: dict
    rest: float
    host: float


def least(turns):
    """The `Turn` of the least times; the host's share is that of the fastest turn."""
    phases = {name: min(turn.phases[name] for turn in turns) for name in turns[0].phases}
    fastest = min(turns, key=lambda turn: sum(turn.phases.values()) + turn.rest)
    return Turn(phases, min(turn.rest for turn in turns), fastest.host)


class Steps:
    """The iterations of a configuration, by the training loop's own `Training`.

    A teacher has the size of ViT-B/32 and random weights.

    Args:
        config: of `build_config`.
        folder: where the run would be; exists.
    Attributes:
        intervals: {phase: run every so many iterations}.
    """

    def __init__(self, config, folder):
        self.config, self.device = config, device_of(config)
        self._before = torch.cuda.memory_allocated() if self.device.type == 'cuda' else 0
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()), mock.patch.multiple(
                'kd_plugin.loss', load_for_training=random_teacher, real_features=random_features):
            self.training = Training(config, self.device)
        if hasattr(self.training.augment_pipe, 'p'):
            set_probability(self.training.augment_pipe, AUGMENTED)
        self.training.speed_up(print)
        self.intervals = {phase.name: phase.interval for phase in self.training.phases}
        self.all_due = self.training.phases[0].offset

    def wait(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def run(self, iterations, first=0):
        """Launches iterations number `first` and the following, counted from one in which every phase runs."""
        self.training.batch_idx = self.all_due + first
        for _ in range(iterations):
            self.training.step()

    def turn(self, iterations):
        """Runs and measures them. -> `Turn`."""
        self.wait()
        start = time.perf_counter()
        self.run(iterations)
        launched = time.perf_counter() - start
        self.wait()
        total = time.perf_counter() - start
        taken = {phase.name: phase.timer.take() for phase in self.training.phases}
        rest = max(total - sum(sec for sec, _ in taken.values()), 0) / iterations
        return Turn({name: sec / count for name, (sec, count) in taken.items()}, rest, launched / total)

    def warm_up(self, iterations):
        """The same, not measured. -> bytes that the step needs at most, on a GPU; None on a CPU."""
        if self.device.type != 'cuda':
            self.turn(iterations)
            return None
        torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM_UP + TRIALS + 1):           # all phases each time: kernels are chosen, graphs recorded
            self.run(1)
        self.turn(max(iterations, 16))
        return torch.cuda.max_memory_allocated() - self._before

    def iteration(self, turn):
        """Seconds of the mean iteration."""
        return sum(sec / self.intervals[name] for name, sec in turn.phases.items()) + turn.rest
