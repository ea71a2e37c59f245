"""Images between what networks work on, [-1, 1], and what files hold, 0..255."""

import torch


def to_uint8(img):
    """Images in [-1, 1] -> uint8, rounded and clipped: how they are saved, and how every metric sees them."""
    return (img.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_float(img_uint8, dtype=torch.float32):
    """Images in 0..255 -> [-1, 1], a new tensor of this type on the same device."""
    return img_uint8.to(dtype, copy=True).div_(127.5).sub_(1)
