"""Bilinear `grid_sample` that can be differentiated twice with respect to the image, on every device and torch version.

Sampling is linear in the image, so the derivative of the backward with respect to its incoming gradient is the sampling
itself.
"""

import torch

_BILINEAR, _ZEROS = 0, 0                # torch's codes for mode and padding_mode


def grid_sample(input, grid):
    """Samples `input` [N, C, H, W] at `grid` [N, H', W', 2] (x, y in [-1, 1], pixel edges at the ends; zeros outside)
    -> [N, C, H', W'].

    Differentiable any number of times with respect to `input`, once with respect to `grid`.
    """
    return _GridSample.apply(input, grid)


class _GridSample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, grid):
        # without a gradient for the grid the backward looks at the size of the image only: do not keep its values
        ctx.save_for_backward(input if ctx.needs_input_grad[1] else input.new_zeros([]).expand(input.shape), grid)
        return torch.nn.functional.grid_sample(input, grid, mode='bilinear', padding_mode='zeros', align_corners=False)

    @staticmethod
    def backward(ctx, d_output):
        if torch.is_grad_enabled() and ctx.needs_input_grad[1]:
            raise RuntimeError('grid_sample: no second derivative where grid requires a gradient; detach it')
        return _GridSampleBackward.apply(d_output, *ctx.saved_tensors, list(ctx.needs_input_grad))


class _GridSampleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d_output, input, grid, mask):
        ctx.save_for_backward(grid)
        return torch.ops.aten.grid_sampler_2d_backward(d_output, input, grid, _BILINEAR, _ZEROS, False, mask)

    @staticmethod
    def backward(ctx, dd_input, _dd_grid):
        grid, = ctx.saved_tensors
        return _GridSample.apply(dd_input, grid), None, None, None
