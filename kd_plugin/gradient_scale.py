"""Scales gradients while they pass through a teacher in half precision: those of single pixels are small and would lose
most of their digits."""

import torch

GRADIENT_SCALE = 256            # factor on them within the teacher; a power of two is exact


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def enter(x):
    """The input of the teacher, in float32. Gradients that come back are scaled to their true size."""
    return _ScaleGradient.apply(x, 1 / GRADIENT_SCALE)


def leave(feats):
    """The output of the teacher, in any format -> the same in float32, whose gradient is scaled up on its way into the
    teacher."""
    return _ScaleGradient.apply(feats.to(torch.float32), GRADIENT_SCALE)
