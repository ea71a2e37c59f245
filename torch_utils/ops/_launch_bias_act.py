"""bias_act.h, bias_act.cu and bias_act.cpp in Python, for kernels that NVRTC has compiled: which kernel runs, with
what.

The tests compare every launch with the one that the C++ makes.
"""

import ctypes
import functools
import math

import torch

from ._launch import CPP_TYPE, THREADS, Launch, described, has_dtype, is_aligned, kind_of, pack_size

NONE, ONE, RUN, WALK = range(4)                                 # BiasKind
DERIVATIVES = ('none', 'slope', 'curve')                        # kdgan::bias_act, bias_act_slope, bias_act_curve
STRUCTS = {act: act.capitalize() for act in
           ('linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish')}
STRAIGHT = ('linear', 'relu', 'lrelu')                          # these have no curve


class Params(ctypes.Structure):
    """BiasActParams."""
    _fields_ = [*((name, ctypes.c_void_p) for name in ('x', 'saved', 'ddx', 'bias', 'out')),
                *((name, ctypes.c_int64) for name in ('n', 'inner', 'channels')),
                *((name, ctypes.c_double) for name in ('alpha', 'gain', 'clamp', 'over_gain')),
                ('packed', ctypes.c_bool), ('bias_kind', ctypes.c_int),
                *((name, ctypes.c_int64) for name in ('blocks', 'step_inner', 'step_channel'))]


def body_of(dtype, act, derivative):
    return f'kdgan::BiasAct<{CPP_TYPE[dtype]}, kdgan::{STRUCTS[act]}, kdgan::Derivative::{derivative}>'


def bodies(dtype):
    """The C++ types of all kernels for a dtype."""
    return [body_of(dtype, act, derivative) for act in STRUCTS for derivative in DERIVATIVES
            if derivative != 'curve' or act not in STRAIGHT]


def plan(dtype, act, derivative, params, bias_aligned, resident_blocks):
    """The launch for `params`, of which all but what launch_bias_act fills in is set. resident_blocks: function of a
    body."""
    size, body, p = pack_size(dtype), body_of(dtype, act, derivative), params
    p.over_gain = 0 if p.gain == 0 else 1 / p.gain
    p.packed = is_aligned(p.x or 0, p.saved or 0, p.ddx or 0, p.out or 0)
    p.bias_kind = (NONE if p.bias is None else ONE if p.inner % size == 0
                   else RUN if p.inner == 1 and p.channels % size == 0 and bias_aligned else WALK)
    packs = -(-p.n // size)
    p.blocks = min(-(-packs // THREADS), resident_blocks(body))
    step = p.blocks * THREADS * size
    p.step_inner = step % p.inner
    p.step_channel = step // p.inner % p.channels
    return Launch(body, p)


def operators(launcher):
    """{operator: function that runs it with the kernels of a launcher}."""
    def bias_act(x, b, *args):
        return _run(launcher, 'none', x, None, None, b, *args)

    def bias_act_slope(dy, saved, b, *args):
        return _run(launcher, 'slope', dy, None, saved, b, *args)

    def bias_act_curve(ddx, dy, saved, b, *args):
        return _run(launcher, 'curve', ddx, dy, saved, b, *args)
    return dict(bias_act=bias_act, bias_act_slope=bias_act_slope, bias_act_curve=bias_act_curve)


def _run(launcher, derivative, given_base, dy, saved, b, dim, act, alpha, gain, clamp):
    """`given_base` decides on the layout of the result: x, dy or ddx."""
    if act not in STRUCTS:
        raise RuntimeError(f"bias_act: act is '{act}', which has no kernel")
    has_dtype('bias_act', given_base)
    if derivative != 'none' and (gain == 0 or (derivative == 'curve' and act in STRAIGHT)):
        return torch.zeros_like(given_base)
    base = given_base if _is_dense(given_base) else given_base.clone()
    out, bias = torch.empty_like(base), None if b is None else b.contiguous()
    p = Params(n=base.numel(), inner=base.numel(), channels=1, alpha=alpha, gain=gain, clamp=clamp)
    if p.n == 0:
        return out
    if bias is not None:
        _set_channels(p, base, bias, dim)
    incoming, source = base, None                   # these hold the memory until the kernel is in the stream
    if derivative != 'none':
        source = _laid_out_as(base, saved, 'saved')
        p.saved = source.data_ptr()
    if derivative == 'curve':
        incoming = _laid_out_as(base, dy, 'dy')
        p.ddx = base.data_ptr()
    p.x, p.out = incoming.data_ptr(), out.data_ptr()
    resident = functools.partial(launcher.resident_blocks, base.device)
    launcher.launch(base.device, plan(base.dtype, act, derivative, p, is_aligned(p.bias or 0), resident))
    return out


def _is_dense(x):
    """Whether its elements lie side by side, each in a place of its own."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return math.prod(x.shape) == expected


def _laid_out_as(base, x, name):
    """The same values in the layout of `base`."""
    if x.shape != base.shape or x.dtype != base.dtype or x.device != base.device:
        raise RuntimeError(f'bias_act: {name} is {described(x)}, it must be {described(base)}')
    same = all(a == b for size, a, b in zip(base.shape, x.stride(), base.stride(), strict=True) if size > 1)
    return x if same else torch.empty_like(base).copy_(x)


def _set_channels(p, base, b, dim):
    """In a dense tensor the storage order alone tells the channel of an element: a channel lasts `stride` elements."""
    if not -base.ndim <= dim < base.ndim:
        raise RuntimeError(f'bias_act: dim is {dim}, x has {base.ndim} dimensions')
    p.channels = base.shape[dim]
    p.inner = p.n if p.channels == 1 else base.stride(dim)      # the stride of a dimension of size 1 means nothing
    if b.ndim != 1 or b.shape[0] != p.channels or b.dtype != base.dtype or b.device != base.device:
        raise RuntimeError(f'bias_act: b is {described(b)}, it must be {kind_of(base)}[{p.channels}] on {base.device}')
    p.bias = b.data_ptr()
