"""Gradients that pass through a teacher in half precision: those of single pixels are small, and would lose most of
their digits there."""

import torch

GRADIENT_SCALE = 256            # by which they are larger within the teacher; a power of two is exact


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def enter(x):
    """What the teacher gets, in float32. The gradients that it sends back are brought to their true size."""
    return _ScaleGradient.apply(x, 1 / GRADIENT_SCALE)


def leave(feats):
    """What the teacher gives, in any format -> the same in float32, whose gradient is larger on its way into the
    teacher."""
    return _ScaleGradient.apply(feats.to(torch.float32), GRADIENT_SCALE)
