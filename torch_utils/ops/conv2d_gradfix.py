"""`conv2d` and `conv_transpose2d` whose gradients are convolutions again, so that a second derivative costs no more
than necessary.

Stock convolutions compute the second derivative with respect to the weight about twice slower (benchmarks/ops_cpu.py).
A gradient penalty also needs no weight gradients in its first derivative; `no_weight_gradients()` leaves them out.
"""

import contextlib
from typing import NamedTuple

import torch

F = torch.nn.functional
_weight_gradients = True


@contextlib.contextmanager
def no_weight_gradients():
    """Inside, backward passes give no gradients to the weights of convolutions: for the inner `torch.autograd.grad`
    of a penalty on the gradient with respect to images or latents. Weights still receive theirs from the outer
    backward."""
    global _weight_gradients
    before, _weight_gradients = _weight_gradients, False
    try:
        yield
    finally:
        _weight_gradients = before


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """As `torch.nn.functional.conv2d`."""
    return _apply(input, weight, bias, Spec(False, _pair(stride), _pair(padding), (0, 0), _pair(dilation), groups))


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """As `torch.nn.functional.conv_transpose2d`."""
    return _apply(input, weight, bias, Spec(True, _pair(stride), _pair(padding), _pair(output_padding),
                                            _pair(dilation), groups))


class Spec(NamedTuple):
    """The arguments that are not tensors."""
    transpose: bool
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def run(self, input, weight):
        if self.transpose:
            return F.conv_transpose2d(input, weight, None, self.stride, self.padding, self.output_padding, self.groups,
                                      self.dilation)
        return F.conv2d(input, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, input_size, output_size, kernel_size):
        """The convolution that maps the output's gradient to the input's: transposed if this one is not, and the
        reverse."""
        if self.transpose:
            return self._replace(transpose=False, output_padding=(0, 0))
        reach = [(o - 1) * s - 2 * p + d * (k - 1) + 1
                 for o, s, p, d, k in zip(output_size, self.stride, self.padding, self.dilation, kernel_size,
                                          strict=True)]
        return self._replace(transpose=True,
                             output_padding=tuple(i - r for i, r in zip(input_size, reach, strict=True)))


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _apply(input, weight, bias, spec):
    # A compiled region is differentiated once at most
    stock = torch.compiler.is_compiling() or not torch.is_grad_enabled()
    output = spec.run(input, weight) if stock else _Conv.apply(input, weight, spec)
    return output if bias is None else output + bias.reshape(1, -1, 1, 1)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, spec):
        ctx.spec = spec
        ctx.save_for_backward(input, weight)
        return spec.run(input, weight)

    @staticmethod
    def backward(ctx, d_output):
        input, weight = ctx.saved_tensors
        d_input = d_weight = None
        if ctx.needs_input_grad[0]:
            adjoint = ctx.spec.adjoint(input.shape[2:], d_output.shape[2:], weight.shape[2:])
            d_input = _Conv.apply(d_output, weight, adjoint)
        if ctx.needs_input_grad[1] and _weight_gradients:
            d_weight = _ConvWeightGrad.apply(input, d_output, weight.shape, ctx.spec)
        return d_input, d_weight, None


class _ConvWeightGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, d_output, weight_size, spec):
        ctx.spec = spec
        ctx.save_for_backward(input, d_output)
        if spec.transpose:                                  # the roles of input and output are exchanged
            input, d_output = d_output, input
        return torch.nn.grad.conv2d_weight(input, weight_size, d_output, spec.stride, spec.padding, spec.dilation,
                                           spec.groups)

    @staticmethod
    def backward(ctx, dd_weight):
        input, d_output = ctx.saved_tensors
        d_input = dd_output = None
        if ctx.needs_input_grad[0]:
            adjoint = ctx.spec.adjoint(input.shape[2:], d_output.shape[2:], dd_weight.shape[2:])
            d_input = _Conv.apply(d_output, dd_weight, adjoint)
        if ctx.needs_input_grad[1]:
            dd_output = _Conv.apply(input, dd_weight, ctx.spec)
        return d_input, dd_output, None, None
