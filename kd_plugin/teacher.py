"""Frozen vision-language teachers: images and texts into one space."""

from typing import NamedTuple

import torch

import dnnlib
from dnnlib import UserError

F = torch.nn.functional


class Preprocess(NamedTuple):
    """How a teacher wants its images: [N, 3, size, size], (x - mean) / std for x in [0, 1]."""
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Teacher(torch.nn.Module):
    """A frozen image encoder and text encoder with outputs of the same width.

    Args:
        encoder:    module with `image_features(x)` [N, 3, size, size] -> [N, dim] and `text_features(list of str)` -> [K, dim].
        preprocess: what `image_features` expects.
        dim:        width M of both outputs.
        identity:   name and digest, for caches and for the protocol of a metric.
        dtype:      of the image encoder's computation.
    """

    def __init__(self, encoder, preprocess, dim, identity, dtype=torch.float32):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.dim = dim
        self.identity = identity
        self.dtype = dtype
        self.register_buffer('mean', torch.tensor(preprocess.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(preprocess.std).reshape(1, 3, 1, 1), persistent=False)

    def train(self, mode=True):
        return super().train(False)             # a parent's .train() must not wake dropout or batch norm

    def encode_image(self, img, raw_input=False):
        """img [N, 1 or 3, H, H] in [-1, 1] -> [N, dim] float32, not normalised. Differentiable with respect to `img`.

        The resize is bicubic with antialiasing, as the teacher's own preprocessing does it on a PIL image (but for its rounding to
        8 bits). raw_input = True instead copies pixels (nearest) and leaves the values in [-1, 1], as the released KD-DLGAN code does.
        """
        if img.shape[1] == 1:
            img = img.expand(-1, 3, -1, -1)
        size = [self.preprocess.size] * 2
        if raw_input:
            x = F.interpolate(img, size=size, mode='nearest')
        else:
            x = img.to(torch.float32) * 0.5 + 0.5
            if list(x.shape[2:]) != size:
                x = F.interpolate(x, size=size, mode='bicubic', antialias=True, align_corners=False)
            x = (x.clamp(0, 1) - self.mean) / self.std
        return self.encoder.image_features(x.to(self.dtype)).to(torch.float32)

    @torch.no_grad()
    def encode_text(self, texts):
        """list of K str -> [K, dim] float32, not normalised."""
        return self.encoder.text_features(list(texts)).to(torch.float32)


# Who makes the teacher of a name, tried in this order: (what the name looks like, function, matches).
SOURCES = [
    ('demo', 'kd_plugin.tiny_clip.load_demo_teacher', lambda name: name == 'demo'),
    ('FILE.safetensors', 'kd_plugin.tiny_clip.load_tiny_teacher', lambda name: name.endswith('.safetensors')),
    ('hf:MODEL', 'kd_plugin.teacher_hf.load_hf_teacher', lambda name: name.startswith('hf:')),
    ('a CLIP name or FILE.pt', 'kd_plugin.teacher_clip.load_clip_teacher', lambda name: True),
]


def load_teacher(name, device='cpu'):
    """The teacher called `name`, frozen, on `device`.

    Args:
        name: 'demo' (comes with the project, knows its cartoon faces only), a file written by `kd_plugin.train_teacher`,
              'hf:NAME' (a Hugging Face model or folder: CLIP, SigLIP), an OpenAI CLIP name such as 'ViT-B/32', or a file of it.
    Raises:   UserError if it is unknown or cannot be had, saying what to install or to download and where to put it.
    """
    loader = next(loader for _, loader, matches in SOURCES if matches(name))
    try:
        return dnnlib.util.call_func_by_name(name, func_name=loader, device=torch.device(device))
    except UserError as err:
        raise UserError(f'--kd-teacher={name}: {err}') from err
