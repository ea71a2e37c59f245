"""Networks in the place of the published detectors, as files: what the tests of metrics share."""

import math
import warnings

import numpy as np
import torch

from kd_plugin.teachers.tiny_clip import TinyClip, save_tiny_clip
from metrics import detectors


def teacher_kwargs(path):
    return dict(func_name='kd_plugin.teacher.load_teacher', name=str(path))


def save_teacher(path):
    """A small CLIP with random weights."""
    torch.manual_seed(0)
    save_tiny_clip(TinyClip(['face'], size=32, width=8, dim=12, text_width=8), str(path), {})
    return str(path)


class ToyInception(torch.nn.Module):
    """Called like the official network. The first six features are the channels' means and squares, the others 1."""

    def __init__(self, num_features: int = detectors.INCEPTION_FEATURES):
        super().__init__()
        self.register_buffer('ones', torch.ones([num_features - 6]))

    def forward(self, img, return_features: bool = False):
        assert return_features and img.dtype == torch.uint8, 'features of uint8 images only'
        x = img.to(torch.float32).mean([2, 3])
        return torch.cat([x, x * x, self.ones.expand(x.shape[0], -1)], dim=1)


class LargeOnly(torch.nn.Module):
    def forward(self, img, return_features: bool = False):
        if img.shape[2] < 100:
            raise ValueError('images are too small')
        return torch.zeros([img.shape[0], 2048])


def save_script(path, module):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*torch.jit', category=DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return str(path)


# position: channels out, in, kernel
ALEXNET_LAYERS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def alexnet_state():
    """Random weights in torchvision's layout, a layer of the classifier among them."""
    rng = np.random.RandomState(0)
    state = {'classifier.6.bias': torch.zeros(1000)}
    for i, (num_out, num_in, size) in ALEXNET_LAYERS.items():
        weight = rng.standard_normal([num_out, num_in, size, size]) * math.sqrt(2 / (num_in * size * size))
        state[f'features.{i}.weight'] = torch.from_numpy(weight.astype(np.float32))
        state[f'features.{i}.bias'] = torch.from_numpy(rng.standard_normal([num_out]).astype(np.float32) * 0.1)
    return state


def heads_state():
    rng = np.random.RandomState(1)
    return {f'lin{i}.model.1.weight': torch.from_numpy(rng.uniform(0, 1, [1, channels, 1, 1]).astype(np.float32))
            for i, (channels, _, _) in enumerate(ALEXNET_LAYERS.values())}
