"""DiffAugment: a few simple, differentiable transforms of every image the discriminator sees (Zhao et al., NeurIPS
2020)."""

import torch

from dnnlib import UserError
from dnnlib.util import split_names

F = torch.nn.functional


class DiffAugment(torch.nn.Module):
    """Transforms a batch of images at random, every image on its own and again in every call.

    For given random numbers the result is an affine function of the images, differentiable any number of times; the
    host reads no random number. Nothing is clamped; empty regions are 0, mid-grey.

    Args:
        policy: names from POLICIES, separated by commas, applied in this order.
    """

    def __init__(self, policy='color,translation,cutout'):
        super().__init__()
        self.transforms = [POLICIES[name] for name in parse_policy(policy)]

    def forward(self, images):
        """[N, C, H, W] in [-1, 1] -> the same shape."""
        for transform in self.transforms:
            images = transform(images)
        return images


def parse_policy(policy, option='--diffaug-policy'):
    """'color,cutout' -> ['color', 'cutout']. Raises UserError for what is no transform."""
    names = split_names(policy)
    unknown = [name for name in names if name not in POLICIES]
    if unknown or not names:
        raise UserError(f'{option}={policy}: {", ".join(unknown) or "nothing"} is no transform; use some of '
                        f'{",".join(POLICIES)}')
    return names


def color(x):
    """Brightness + U(-0.5, 0.5); distance to the pixel's grey times U(0, 2); distance to the image's mean times U(0.5,
    1.5)."""
    x = x + _uniform(x) - 0.5
    x = _stretch(x, x.mean(dim=1, keepdim=True), _uniform(x) * 2)
    return _stretch(x, x.mean(dim=[1, 2, 3], keepdim=True), _uniform(x) + 0.5)


def translation(x, ratio=0.125):
    """Shift by whole pixels, up to `ratio` of the side in each direction; zeros come in."""
    n, _c, h, w = x.shape
    rows, columns = [torch.arange(size, device=x.device) + _integers(x, 0, 2 * round(size * ratio)) for size in (h, w)]
    margin = [round(w * ratio)] * 2 + [round(h * ratio)] * 2
    image = torch.arange(n, device=x.device)[:, None, None]
    return F.pad(x, margin).permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x, ratio=0.5):
    """Zeroes a square whose side is `ratio` of the image's; its centre is anywhere in the image."""
    cut = []
    for size in x.shape[2:]:
        side = round(size * ratio)
        # Centre of an even side: between two pixels
        first = _integers(x, 0, size - side % 2) - side // 2
        position = torch.arange(size, device=x.device)
        cut.append((position >= first) & (position < first + side))
    return x.masked_fill((cut[0][:, :, None] & cut[1][:, None, :])[:, None], 0)


POLICIES = dict(color=color, translation=translation, cutout=cutout)


def _stretch(x, mean, factor):
    return (x - mean) * factor + mean


def _uniform(x):
    """One number in [0, 1) per image, [N, 1, 1, 1]."""
    return torch.rand([len(x), 1, 1, 1], dtype=x.dtype, device=x.device)


def _integers(x, low, high):
    """One integer from low to high, both included, per image, [N, 1]."""
    return torch.randint(low, high + 1, [len(x), 1], device=x.device)
