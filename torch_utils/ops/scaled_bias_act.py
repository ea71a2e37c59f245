"""The operations after a modulated convolution in one operator: y = clamp(lrelu(x * scale + noise + b) * gain).

One pass over memory where scale and noise, bias and activation take two, and one in the derivative where they take six.
"""

import torch

from .. import custom_ops
from . import fma
from ._library import check_input, define, memory_format_of
from .bias_act import activation_funcs, bias_act

F = torch.nn.functional


def scaled_bias_act(x, scale, noise, b, act='linear', gain=None, clamp=None, impl='auto'):
    """Scales channels, adds noise and bias, applies an activation function, multiplies by `gain` and clamps, in this
    order.

    Differentiable twice with respect to `x`, `scale`, `noise` and `b`. Where the result is clamped all derivatives are
    zero.

    Args:
        x:     [N, C, H, W] floating point.
        scale: [N, C] factors of the channels; None = none.
        noise: [N or 1, 1, H, W] or [H, W], the same for all channels; None = none.
        b:     [C] bias. It, scale and noise may be of any floating-point dtype.
        act, gain, clamp, impl: as in `bias_act`. The operator serves 'lrelu' with a scale and a gain above 0, and not
               on a CPU, where several passes are no slower; the rest is composed.
    Returns:   shape and dtype of `x`.
    Raises:    TypeError or ValueError naming the argument, its value and what is allowed; RuntimeError for 'cuda'
               without a kernel.
    """
    check_input('scaled_bias_act', x, impl)
    _check(x, scale, noise, b, clamp)
    total = activation_funcs['lrelu'].def_gain if gain is None else gain
    if impl == 'ref' or scale is None or act != 'lrelu' or total <= 0 or not _operator_serves(x):
        return composed(x, scale, noise, b, act=act, gain=gain, clamp=clamp, impl='ref' if impl == 'ref' else 'auto')
    return by_operator(x, scale, noise, b, activation_funcs['lrelu'].def_alpha, total, clamp)


def _operator_serves(x):
    """On a GPU if there is a kernel. In plain torch `composed` is faster, and its bias_act may have a kernel."""
    return x.device.type != 'cpu' and (not x.is_cuda or custom_ops.problem_of('scaled_bias_act') is None)


def composed(x, scale, noise, b, **act_kwargs):
    """The same, composed of `fma` and `bias_act`. Its source text is part of pickles for other programs, which only
    know those two."""
    noise = None if noise is None else noise.to(x.dtype)
    if scale is not None:
        scale = scale.to(x.dtype)[:, :, None, None]
        x = x * scale if noise is None else fma.fma(x, scale, noise)
    elif noise is not None:
        x = x + noise
    return bias_act(x, b.to(x.dtype), **act_kwargs)


def by_operator(x, scale, noise, b, alpha, gain, clamp):
    """The operator, with the small tensors in the form it takes: noise with four dimensions, all in the dtype that it
    computes in."""
    real = real_dtype(x.dtype)
    noise = None if noise is None else noise.to(real).expand(noise.shape[0] if noise.ndim == 4 else 1, 1, -1, -1)
    return _scaled_bias_act(x, scale.to(real), noise, b.to(real), alpha, float(gain),
                            -1.0 if clamp is None else float(clamp))


def real_dtype(dtype):
    """The dtype of sums, and of scale, noise and bias: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check(x, scale, noise, b, clamp):
    if clamp is not None and clamp < 0:
        raise ValueError(f'scaled_bias_act: clamp is {clamp}, it must be at least 0 (None = no clamp)')
    if x.ndim != 4:
        raise ValueError(f'scaled_bias_act: x has shape {list(x.shape)}, it must be [N, C, H, W]')
    n, c, h, w = x.shape
    for name, tensor, shapes in (('scale', scale, [[n, c]]), ('noise', noise, [[n, 1, h, w], [1, 1, h, w], [h, w]]),
                                 ('b', b, [[c]])):
        if tensor is None and name != 'b':
            continue
        if list(tensor.shape) not in shapes:
            raise ValueError(f'scaled_bias_act: {name} has shape {list(tensor.shape)}, with x of shape {list(x.shape)} '
                             f'it must be {" or ".join(map(str, shapes))}')
        if tensor.device != x.device:
            raise TypeError(f'scaled_bias_act: {name} is on {tensor.device}, x on {x.device}; they must be on the '
                            'same device')


# ---------------------------------------------------------------------------
# The definitions in plain torch. Where nothing else is said, [N, C, H, W] tensors have the layout of x.

def _per_channel(t, x):
    """[N, C] or [C] -> what x can be multiplied by."""
    return t.to(x.dtype)[..., None, None]


def _laid_out_as(x, value):
    return value.contiguous(memory_format=memory_format_of(x))


def _forward(x, scale, noise, b, alpha, gain, clamp):
    y = x * _per_channel(scale, x)
    if noise is not None:
        y.add_(noise.to(x.dtype))
    y = F.leaky_relu_(y.add_(_per_channel(b, x)), alpha).mul_(gain)
    return _laid_out_as(x, y.clamp_(-clamp, clamp) if clamp >= 0 else y)


def _slope(d, y, alpha, gain, clamp):
    """d times the derivative of clamp(lrelu(u) * gain) with respect to u, which follows from the result y."""
    d = torch.ops.aten.leaky_relu_backward(d, y, alpha, True) * gain
    if clamp < 0:
        return d
    # A y at the limit was rounded to its dtype: so is the limit here
    limit = torch.tensor(clamp, dtype=y.dtype).item()
    return torch.ops.aten.hardtanh_backward(d, y, -limit, limit)


def _grad(dy, y, x, scale, *args):
    du, real = _slope(dy, y, *args), real_dtype(x.dtype)
    return (_laid_out_as(x, du * _per_channel(scale, x)), (du * x).sum([2, 3], dtype=real),
            du.sum(1, keepdim=True, dtype=real).contiguous(), du.sum([0, 2, 3], dtype=real))


def _grad2(ddx, ddscale, ddnoise, ddb, dy, y, x, scale, *args):
    du, ddu = _slope(dy, y, *args), ddx * _per_channel(scale, x)
    if ddscale is not None:
        ddu.addcmul_(x, _per_channel(ddscale, x))
    if ddnoise is not None:
        ddu.add_(ddnoise.to(x.dtype))
    if ddb is not None:
        ddu.add_(_per_channel(ddb, x))
    d_x = torch.zeros_like(x) if ddscale is None else du * _per_channel(ddscale, x)
    return _laid_out_as(x, _slope(ddu, y, *args)), _laid_out_as(x,
                                                                d_x), (ddx * du).sum([2, 3], dtype=real_dtype(x.dtype))


def _like(x):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def _grad_fake(dy, y, x, scale, *args):
    n, c, h, w = x.shape
    return _like(x), torch.empty_like(scale), scale.new_empty([n, 1, h, w]), scale.new_empty([c])


def _grad2_fake(ddx, ddscale, ddnoise, ddb, dy, y, x, scale, *args):
    return _like(x), _like(x), torch.empty_like(scale)


_ARGS = 'float alpha, float gain, float clamp'
_scaled_bias_act = define(f'scaled_bias_act(Tensor x, Tensor scale, Tensor? noise, Tensor b, {_ARGS}) -> Tensor',
                          _forward, lambda x, *args: _like(x), 'scaled_bias_act')
_scaled_bias_act_grad = define(f'scaled_bias_act_grad(Tensor dy, Tensor y, Tensor x, Tensor scale, {_ARGS}) -> '
                               '(Tensor, Tensor, Tensor, Tensor)',
                               _grad, _grad_fake, 'scaled_bias_act')
_scaled_bias_act_grad2 = define('scaled_bias_act_grad2(Tensor ddx, Tensor? ddscale, Tensor? ddnoise, Tensor? ddb, '
                                f'Tensor dy, Tensor y, Tensor x, Tensor scale, {_ARGS}) -> (Tensor, Tensor, Tensor)',
                                _grad2, _grad2_fake, 'scaled_bias_act')


# ---------------------------------------------------------------------------
# Derivatives. All four are computed in one pass, needed or not: the small ones cost nothing compared with reading dy, y
# and x.

def _setup(ctx, inputs, output):
    x, scale, noise, _b, *ctx.args = inputs
    ctx.noise_shape = None if noise is None else noise.shape
    ctx.save_for_backward(output, x, scale)


def _backward(ctx, dy):
    dx, dscale, dnoise, db = _scaled_bias_act_grad(dy, *ctx.saved_tensors, *ctx.args)
    dnoise = None if ctx.noise_shape is None else dnoise.sum_to_size(ctx.noise_shape)
    return dx, dscale, dnoise, db, None, None, None


def _grad_setup(ctx, inputs, output):
    dy, y, x, scale, *ctx.args = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, y, x, scale)


def _grad_backward(ctx, ddx, ddscale, ddnoise, ddb):
    """Linear in dy, x and scale; y, of which the sign counts and whether it is clamped, is piecewise constant in
    them."""
    dy, y, x, scale = ctx.saved_tensors
    ddx = torch.zeros_like(x) if ddx is None else ddx
    d_dy, d_x, d_scale = _scaled_bias_act_grad2(ddx, ddscale, ddnoise, ddb, dy, y, x, scale, *ctx.args)
    return d_dy, None, None if ddscale is None else d_x, d_scale, None, None, None


def _grad2_backward(ctx, *_grads):
    raise RuntimeError('scaled_bias_act: the third derivative is not provided')


torch.library.register_autograd('kdgan::scaled_bias_act', _backward, setup_context=_setup)
torch.library.register_autograd('kdgan::scaled_bias_act_grad', _grad_backward, setup_context=_grad_setup)
torch.library.register_autograd('kdgan::scaled_bias_act_grad2', _grad2_backward,
                                setup_context=lambda ctx, inputs, output: None)
