"""Frozen vision-language teachers: images and texts into one space."""

import os
from typing import Callable, NamedTuple

import torch

import dnnlib
from dnnlib import UserError

from . import gradient_scale

F = torch.nn.functional


class Preprocess(NamedTuple):
    """How a teacher wants its images: [N, 3, size, size], (x - mean) / std for x in [0, 1]."""
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# CLIP's features have a length of about 10, for which the weights of AGKD were chosen; features of other kinds of
# teachers are scaled to it.
COMMON_NORM = 10.0


class Teacher(torch.nn.Module):
    """A frozen image encoder and text encoder with outputs of the same width.

    Attributes:
        option:     of the command line that names it, for messages.
    Args:
        encoder:    module with `image_features(x)` [N, 3, size, size] -> [N, dim] and, unless it knows images only,
                    `text_features(list of str)` -> [K, dim]. May have `feature_maps(x)` -> list of [N, C, h, w], and
                    `last_map(x)` -> [N, dim, h, w], whose mean over positions is what `image_features` gives.
        preprocess: what `image_features` expects.
        dim:        width M of both outputs.
        identity:   name and digest, for caches and for the protocol of a metric.
        dtype:      of the image encoder's weights, and of its computation unless `bf16` is set, which makes that
                    bfloat16.
        norm:       L2 norm that every feature vector is scaled to; None = unscaled.
    """

    def __init__(self, encoder, preprocess, dim, identity, dtype=torch.float32, norm=None):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.option = '--kd-teacher'
        self.preprocess = preprocess
        self.dim = dim
        self.identity = identity if norm is None else f'{identity}:norm{norm:g}'
        self.dtype = dtype
        self.bf16 = False
        self.norm = norm
        self.register_buffer('mean', torch.tensor(preprocess.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(preprocess.std).reshape(1, 3, 1, 1), persistent=False)

    def train(self, mode=True):
        return super().train(False)             # a parent's .train() must not wake dropout or batch norm

    @property
    def precision(self):
        """The precision in which images are encoded: 'float32', ..."""
        return 'bfloat16' if self.bf16 else str(self.dtype).removeprefix('torch.')

    @property
    def has_texts(self):
        """Whether it can encode texts."""
        return hasattr(self.encoder, 'text_features')

    def check_texts(self, remedy='give a teacher that knows texts too, such as CLIP'):
        """Raises UserError if it knows images only."""
        if not self.has_texts:
            raise UserError(f'{self.option}: {self.identity} knows images only, not texts; {remedy}')

    def encode_image(self, img, raw_input=False):
        """img [N, 1 or 3, H, H] in [-1, 1] -> [N, dim] float32, of length `norm` if there is one. Differentiable with
        respect to `img`.

        The whole image is seen, nothing is cropped. The resize is bicubic with antialiasing, as most teachers' own
        preprocessing does it on a PIL image (except for its rounding to 8 bits). raw_input = True instead copies pixels
        (nearest) and leaves the values in [-1, 1], as the released KD-DLGAN code does.
        """
        return self._scaled(self._run(self.encoder.image_features, self._prepare(img, raw_input)))

    def encode_maps(self, img):
        """img as for `encode_image` -> what `encoder.feature_maps` gives, in float32. Differentiable too."""
        return self._run(self.encoder.feature_maps, self._prepare(img))

    def encode_image_by_area(self, img):
        """As `encode_image`, but resized by the mean over areas, without a limit to the range of images, as
        vision-aided GAN."""
        return self._scaled(self._run(self.encoder.image_features, self._by_area(img)))

    def encode_end_by_area(self, img):
        """As `encode_image_by_area`, but as long as the encoder gives it, and a map [N, dim, h, w] where it has
        `last_map`."""
        return self._run(getattr(self.encoder, 'last_map', self.encoder.image_features), self._by_area(img))

    def _by_area(self, img):
        x = img.expand(-1, 3, -1, -1).to(torch.float32) * 0.5 + 0.5
        x = F.interpolate(x, size=[self.preprocess.size] * 2, mode='area')
        return (x - self.mean) / self.std

    def _prepare(self, img, raw_input=False):
        img = img.expand(-1, 3, -1, -1)
        size = [self.preprocess.size] * 2
        if raw_input:
            return F.interpolate(img, size=size, mode='nearest')
        x = img.to(torch.float32) * 0.5 + 0.5
        if list(x.shape[2:]) != size:
            x = F.interpolate(x, size=size, mode='bicubic', antialias=True, align_corners=False)
        return (x.clamp(0, 1) - self.mean) / self.std

    def _run(self, function, x):
        """x [N, 3, size, size] as the encoder wants it."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            result = function(gradient_scale.enter(x).to(self.dtype))
        leave = gradient_scale.leave
        return [leave(part) for part in result] if isinstance(result, list) else leave(result)

    @torch.no_grad()
    def encode_text(self, texts):
        """list of K str -> [K, dim] float32, of length `norm` if there is one. Raises UserError if the teacher knows
        images only."""
        self.check_texts()
        return self._scaled(self.encoder.text_features(list(texts)).to(torch.float32))

    def _scaled(self, feats):
        return feats if self.norm is None else F.normalize(feats, dim=1) * self.norm


def without_size(name):
    return name.partition('@')[0]


class Source(NamedTuple):
    """A kind of teachers, recognised by name.

    form:    what the names look like.
    matches: (name) -> whether it is one of them.
    loader:  name of the function (name, device) -> `Teacher`.
    check:   name of the function (name) that raises UserError if there is no such teacher or file.
    texts:   False = all of them know images only; True = most know texts, too: `Teacher.has_texts` says it.
    parts:   names of teachers whose network is in it.
    """
    form: str
    matches: Callable
    loader: str
    check: str | None = None
    texts: bool = True
    parts: tuple = ()


SOURCES = [             # the first that matches
    Source('demo', lambda name: name == 'demo', 'kd_plugin.teachers.tiny_clip.load_demo_teacher'),
    Source('lite0, lite2, lite0@SIZE', lambda name: without_size(name) in ('lite0', 'lite2'),
           'kd_plugin.teachers.efficientnet_lite.load_lite_teacher', 'kd_plugin.teachers.efficientnet_lite.check_name',
           texts=False),
    Source('pocket, pocket@SIZE', lambda name: without_size(name) == 'pocket',
           'kd_plugin.teachers.pocket.load_pocket_teacher', 'kd_plugin.teachers.pocket.check_name', parts=('lite0',)),
    Source('DIR, FILE.safetensors', lambda name: name.endswith('.safetensors') or os.path.isdir(name),
           'kd_plugin.teachers.tiny_clip.load_tiny_teacher', 'kd_plugin.teachers.tiny_clip.find_file'),
    Source('hf:MODEL', lambda name: name.startswith('hf:'), 'kd_plugin.teachers.hf.load_hf_teacher'),
    Source('FILE.pth', lambda name: name.endswith('.pth'),
           'kd_plugin.teachers.checkpoints.load_checkpoint_teacher', 'kd_plugin.teachers.checkpoints.check_file'),
    Source('a CLIP name, its FILE.pt', lambda name: True,
           'kd_plugin.teachers.clip.load_clip_teacher', 'kd_plugin.teachers.clip.check_name'),
]


def forms():
    """What a teacher may be called, for help texts."""
    *others, last = [source.form for source in SOURCES]
    return f'{", ".join(others)}, or {last}'


def check_name(name, option='--kd-teacher'):
    """Raises the errors of `load_teacher` that need no loading or download: an unknown name, a missing file.
    """
    source = _source(name)
    if source.check is not None:
        try:
            dnnlib.util.call_func_by_name(name, func_name=source.check)
        except UserError as err:
            raise UserError(f'{option}={name}', str(err)) from err


def share_network(name, other):
    """Whether two teachers are, at whatever size, the same network or have a part in common."""
    networks = lambda name: {without_size(name), *_source(name).parts}
    return not networks(name).isdisjoint(networks(other))


def may_know_texts(name):
    """Whether a teacher called so can know texts: False for kinds that never do."""
    return _source(name).texts


def _source(name):
    return next(source for source in SOURCES if source.matches(name))


def load_teacher(name, device='cpu', option='--kd-teacher'):
    """The teacher called `name`, frozen, on `device`.

    Args:
        name:   'demo' (comes with the project, knows its cartoon faces only), 'lite0', 'lite2' (EfficientNet-Lite,
                images only), 'pocket' (lite0 and a sentence encoder), these three also at another input size,
                'lite0@128', a folder made by `kd_plugin.pretrain` or the file in it,
                'hf:NAME' (a Hugging Face model or folder: CLIP, SigLIP, BLIP, DINOv2), FILE.pth (TCL, ALBEF, DINO,
                MoBY's Swin), an OpenAI CLIP name such as 'ViT-B/32', or a file of it.
        option: where the user gave it, for messages.
    Raises:     UserError if it is unknown or not available, saying what to install, or what to download and where to
                put it.
    """
    check_name(name, option)
    try:
        teacher = dnnlib.util.call_func_by_name(name, func_name=_source(name).loader, device=torch.device(device))
    except UserError as err:
        raise UserError(f'{option}={name}', str(err)) from err
    teacher.option = option
    return teacher


def load_for_training(name, device, fp32, option='--kd-teacher'):
    """`load_teacher` for many images: in half precision unless `fp32`, on a CPU, too, in bfloat16. On a GPU small
    teachers stay in float32."""
    teacher = load_teacher(name, 'cpu' if fp32 else device, option)         # on a CPU no weight is rounded
    teacher.bf16 = not fp32 and torch.device(device).type == 'cpu'
    return teacher.to(device)
