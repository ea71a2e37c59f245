"""Bias, activation function, gain and clamp in one operator: y = clamp(act(x + b) * gain)."""

import math
from typing import Callable, NamedTuple

import torch

from ._library import check_input, define, memory_format_of

F = torch.nn.functional
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
SELU_BOTTOM = SELU_SCALE * SELU_ALPHA


class Activation(NamedTuple):
    """One activation function and its derivatives, which are computed from s = u = x + b or s = v = act(u).

    Derivatives are products with an incoming `d`, so that torch's fused ones can serve.
    """
    value: Callable                 # (u, alpha) -> act(u); may overwrite u unless s = 'u'
    slope: Callable                 # (d, s, alpha) -> d * act'(u)
    # (d, s, alpha) -> d * the derivative of act'(u) with respect to s; None = zero almost everywhere
    curve: Callable | None
    s: str = 'v'
    def_alpha: float = 0.0          # default of the argument `alpha`
    # Default of the argument `gain`: keeps the second moment of a normal input at about 1
    def_gain: float = 1.0


def _swish_slope(d, u, _alpha):
    s = torch.sigmoid(u)
    return d * s * (1 + u * (1 - s))


def _swish_curve(d, u, _alpha):
    s = torch.sigmoid(u)
    return d * s * (1 - s) * (2 + u * (1 - 2 * s))


activation_funcs = {
    'linear': Activation(lambda u, a: u, lambda d, v, a: d.clone(), None),
    'relu': Activation(lambda u, a: u.relu_(), lambda d, v, a: d * (v > 0), None, def_gain=math.sqrt(2)),
    'lrelu': Activation(lambda u, a: F.leaky_relu_(u, a),
                        lambda d, v, a: torch.ops.aten.leaky_relu_backward(d, v, a, True), None,
                        def_alpha=0.2, def_gain=math.sqrt(2)),
    'tanh': Activation(lambda u, a: u.tanh_(), lambda d, v, a: d * (1 - v * v), lambda d, v, a: d * v * -2),
    'sigmoid': Activation(lambda u, a: u.sigmoid_(), lambda d, v, a: d * v * (1 - v), lambda d, v, a: d * (1 - 2 * v)),
    'elu': Activation(lambda u, a: F.elu_(u), lambda d, v, a: d * (v.clamp(max=0) + 1), lambda d, v, a: d * (v < 0)),
    'selu': Activation(lambda u, a: torch.selu_(u), lambda d, v, a: d * torch.where(v < 0, v + SELU_BOTTOM, SELU_SCALE),
                       lambda d, v, a: d * (v < 0)),
    'softplus': Activation(lambda u, a: F.softplus(u), lambda d, v, a: d * -torch.expm1(-v),
                           lambda d, v, a: d * torch.exp(-v)),
    'swish': Activation(lambda u, a: u * torch.sigmoid(u), _swish_slope, _swish_curve, s='u', def_gain=math.sqrt(2)),
}


def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='auto'):
    """Adds a bias, applies an activation function, multiplies by `gain` and clamps, in this order.

    Differentiable twice with respect to `x` and `b`. Where the result is clamped all derivatives are zero. Within
    torch.compile it is plain torch, which the compiler fuses with the operators around it.

    Args:
        x:     floating point, any shape.
        b:     [x.shape[dim]] bias of the same dtype and device; None = none.
        dim:   the dimension of `x` that `b` belongs to.
        act:   a key of `activation_funcs`.
        alpha: slope of 'lrelu' below zero, >= 0; None = 0.2.
        gain:  factor after the activation; None = sqrt(2) for relu, lrelu and swish, 1 for the others.
        clamp: results are limited to [-clamp, clamp]; None = no limit.
        impl:  'auto' = the fastest there is; 'cuda' = the CUDA kernel or an error (within torch.compile as 'auto');
               'ref' = plain differentiable torch, which the tests compare with.
    Returns:   shape, dtype and memory format of `x`.
    Raises:    TypeError or ValueError naming the argument, its value and what is allowed; RuntimeError for 'cuda'
               without a kernel.
    """
    check_input('bias_act', x, impl)
    spec = _check(x, b, dim, act)
    alpha = spec.def_alpha if alpha is None else float(alpha)
    gain = spec.def_gain if gain is None else float(gain)
    if alpha < 0:
        raise ValueError(f'bias_act: alpha is {alpha}, it must be at least 0')
    if clamp is not None and clamp < 0:
        raise ValueError(f'bias_act: clamp is {clamp}, it must be at least 0 (None = no clamp)')
    if act == 'linear' and b is None and gain == 1 and clamp is None and impl != 'ref':
        return x
    if impl == 'ref' or torch.compiler.is_compiling():
        return _reference(x, b, dim, act, alpha, gain, clamp)
    return _bias_act(x, b, dim, act, alpha, gain, -1.0 if clamp is None else float(clamp))


def _check(x, b, dim, act):
    if act not in activation_funcs:
        raise ValueError(f'bias_act: act is {act!r}, it must be one of {", ".join(activation_funcs)}')
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f'bias_act: dim is {dim}, x of shape {list(x.shape)} has {x.ndim} dimensions')
        if b.dtype != x.dtype or b.device != x.device:
            raise TypeError(f'bias_act: b is {b.dtype} on {b.device}, x is {x.dtype} on {x.device}; they must be alike')
        if b.shape != x.shape[dim:dim + 1 or None]:
            raise ValueError(f'bias_act: b has shape {list(b.shape)}, it must be [{x.shape[dim]}], the size of x in '
                             f'dimension {dim}')
    return activation_funcs[act]


def _biased(x, b, dim):
    """x + b as a new tensor."""
    return x.clone() if b is None else x + b.reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])


def _reference(x, b, dim, act, alpha, gain, clamp):
    """The definition in differentiable torch, for any order of derivative."""
    value = dict(lrelu=lambda u: F.leaky_relu(u, alpha), linear=lambda u: u, swish=F.silu).get(act) or getattr(F, act)
    y = value(_biased(x, b, dim)) * gain
    return y if clamp is None else F.hardtanh(y, -clamp, clamp)         # clamp() would have a slope of 1 at the limits


def _forward(x, b, dim, act, alpha, gain, clamp):
    y = activation_funcs[act].value(_biased(x, b, dim), alpha)
    if gain != 1:
        y.mul_(gain)
    if clamp >= 0:
        y.clamp_(-clamp, clamp)
    return y


def _source(saved, b, dim, act, alpha, gain, clamp):
    """Saves what the derivatives need: s, and y, which shows where the result is clamped."""
    spec = activation_funcs[act]
    if spec.s == 'u':
        u = _biased(saved, b, dim)
        return u, spec.value(u, alpha) * gain if clamp >= 0 else None
    if gain == 1 or (spec.curve is None and gain > 0):      # only the sign of v matters where there is no curve
        return saved, saved
    return saved / gain, saved


def _clamp_mask(d, y, clamp):
    """d where -clamp < y < clamp, else 0. A y at the limit was rounded to its dtype: so is the limit here."""
    if clamp < 0:
        return d
    limit = torch.tensor(clamp, dtype=y.dtype).item()
    return torch.ops.aten.hardtanh_backward(d, y, -limit, limit)


def _slope(dy, saved, b, dim, act, alpha, gain, clamp):
    if gain == 0:
        return torch.zeros_like(dy)
    s, y = _source(saved, b, dim, act, alpha, gain, clamp)
    dx = activation_funcs[act].slope(dy, s, alpha)
    if gain != 1:
        dx.mul_(gain)
    return _laid_out_as(dy, _clamp_mask(dx, y, clamp))


def _curve(ddx, dy, saved, b, dim, act, alpha, gain, clamp):
    spec = activation_funcs[act]
    if gain == 0 or spec.curve is None:
        return torch.zeros_like(ddx)
    s, y = _source(saved, b, dim, act, alpha, gain, clamp)
    ds = spec.curve(ddx * dy, s, alpha)
    if spec.s == 'u':
        ds.mul_(gain)               # with s = v, the factor gain of dx and the factor 1 / gain of v = y / gain cancel
    return _laid_out_as(ddx, _clamp_mask(ds, y, clamp))


def _laid_out_as(like, value):
    """`value` with the strides of `like`, as the operators promise: pointwise functions of two layouts may choose the
    other one."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


# The operators. `saved` is the output y, or the input x where the derivatives need u (then with b).
_ARGS = 'int dim, str act, float alpha, float gain, float clamp'
_bias_act = define(f'bias_act(Tensor x, Tensor? b, {_ARGS}) -> Tensor', _forward,
                   lambda x, *args: torch.empty_like(x), 'bias_act')
_bias_act_slope = define(f'bias_act_slope(Tensor dy, Tensor saved, Tensor? b, {_ARGS}) -> Tensor', _slope,
                         lambda dy, *args: torch.empty_like(dy), 'bias_act')
_bias_act_curve = define(f'bias_act_curve(Tensor ddx, Tensor dy, Tensor saved, Tensor? b, {_ARGS}) -> Tensor', _curve,
                         lambda ddx, *args: torch.empty_like(ddx), 'bias_act')


def _bias_grad(dx, dim):
    others = [i for i in range(dx.ndim) if i != dim % dx.ndim]
    return dx.sum(others) if others else dx             # sum([]) would sum over all


def _setup(ctx, inputs, output):
    x, b, *ctx.args = inputs
    needs_u = activation_funcs[ctx.args[1]].s == 'u'
    ctx.save_for_backward(x if needs_u else output, b if needs_u else None)


def _with_layout(dy, saved):
    """A gradient that was expanded from fewer numbers, such as that of a sum, has no layout of its own and gets that of
    the result."""
    expanded = any(stride == 0 and size > 1 for size, stride in zip(dy.shape, dy.stride(), strict=True))
    return dy.contiguous(memory_format=memory_format_of(saved)) if expanded else dy


def _backward(ctx, dy):
    saved, b = ctx.saved_tensors
    dx = _bias_act_slope(_with_layout(dy, saved), saved, b, *ctx.args)
    return dx, _bias_grad(dx, ctx.args[0]) if ctx.needs_input_grad[1] else None, *[None] * 5


def _slope_setup(ctx, inputs, output):
    dy, saved, b, *ctx.args = inputs
    ctx.save_for_backward(dy, saved, b)


def _slope_backward(ctx, ddx):
    dy, saved, b = ctx.saved_tensors
    d_dy = _bias_act_slope(ddx, saved, b, *ctx.args) if ctx.needs_input_grad[0] else None
    d_saved = d_b = None
    if activation_funcs[ctx.args[1]].curve is not None and any(ctx.needs_input_grad[1:3]):
        d_saved = _bias_act_curve(ddx, dy, saved, b, *ctx.args)
        d_b = None if b is None else _bias_grad(d_saved, ctx.args[0])
    return d_dy, d_saved, d_b, *[None] * 5


def _curve_backward(ctx, _grad):
    raise RuntimeError('bias_act: the third derivative is not provided')


torch.library.register_autograd('kdgan::bias_act', _backward, setup_context=_setup)
torch.library.register_autograd('kdgan::bias_act_slope', _slope_backward, setup_context=_slope_setup)
torch.library.register_autograd('kdgan::bias_act_curve', _curve_backward,
                                setup_context=lambda ctx, inputs, output: None)
