"""Networks in the place of the published detectors, as files: what the tests of metrics share."""

import warnings

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
