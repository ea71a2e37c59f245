"""Upsample, pad or crop, filter and downsample 2D images in one operator, and the shorthands built on it.

The steps, per channel: insert up - 1 zeros after each pixel; pad with zeros (crop where a padding is negative);
convolve with the filter, keeping only where it fits; keep every down-th pixel.
"""

import torch

from ._launch_upfirdn2d import KERNEL_TAPS, MAX_EXTENT
from ._library import check_input, define, memory_format_of

F = torch.nn.functional
MAX_TAPS = 64                           # per direction; the CUDA kernel takes KERNEL_TAPS


def setup_filter(f, device=None, normalize=True, flip_filter=False, gain=1, separable=None):
    """Makes the filter tensor that the functions below take.

    Args:
        f:           number, [taps] or [height, width] array or tensor; None = identity.
        normalize:   divide by the sum, so that a constant image keeps its value.
        flip_filter: turn it around.
        gain:        factor on the image's scale: a separable filter takes its square root once per direction.
        separable:   keep a 1D filter as it is; None = from 8 taps on. A shorter one becomes its outer product.
    Returns:         float32 [height, width], or [taps] for a separable filter.
    Raises:          ValueError if f is empty or has more than 2 dimensions.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f'setup_filter: f has shape {list(f.shape)}, it must be a number, [taps] or [height, width], '
                         'not empty')
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if separable and f.ndim != 1:
        raise ValueError(f'setup_filter: f has shape {list(f.shape)}, a separable filter must be 1D')
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='auto'):
    """Upsamples, pads, filters and downsamples `x`. Differentiable with respect to `x`, any number of times.

    Args:
        x:           [N, C, H, W] floating point.
        f:           float32 filter from `setup_filter` on the same device; None = identity.
        up, down:    integer factor, or [x, y].
        padding:     number of pixels of the upsampled image: one number, [x, y] or [left, right, top, bottom]; negative
                     crops.
        flip_filter: False = convolution, True = correlation.
        gain:        factor on the result.
        impl:        'auto' = the fastest there is; 'cuda' = the CUDA kernel (up to 32 taps) or an error (within
                     torch.compile as 'auto'); 'ref' = plain differentiable torch, which the tests compare with.
    Returns:         [N, C, H', W'] in the dtype and memory format of `x`, with
                     H' = (H * up + top + bottom - height) // down + 1.
    Raises:          TypeError or ValueError naming the argument, its value and what is allowed; RuntimeError for 'cuda'
                     without a kernel.
    """
    check_input('upfirdn2d', x, impl)
    upx, upy = parse_pair('up', up, minimum=1)
    downx, downy = parse_pair('down', down, minimum=1)
    left, right, top, bottom = parse_padding(padding)
    if f is None:
        f = torch.ones([1, 1], dtype=torch.float32, device=x.device)
    _check(x, f, upx, upy, downx, downy, left, right, top, bottom)
    without_kernel = x.is_cuda and max(f.shape) > KERNEL_TAPS
    if impl == 'cuda' and without_kernel:
        raise ValueError(f"upfirdn2d: f has shape {list(f.shape)}, impl='cuda' takes up to {KERNEL_TAPS} taps per "
                         "direction; use impl='auto'")
    run = _reference if impl == 'ref' or without_kernel else _upfirdn2d
    return run(x, f, upx, upy, downx, downy, left, right, top, bottom, bool(flip_filter), float(gain))


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl='auto'):
    """Filters without a change of size; `padding` is added to what keeps the size. Arguments as in `upfirdn2d`."""
    fw, fh = filter_size(f)
    left, right, top, bottom = parse_padding(padding)
    padding = [left + fw // 2, right + (fw - 1) // 2, top + fh // 2, bottom + (fh - 1) // 2]
    return upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl='auto'):
    """Enlarges by `up`, keeping the brightness; `padding` is in pixels of the result. Arguments as in `upfirdn2d`."""
    upx, upy = parse_pair('up', up, minimum=1)
    fw, fh = filter_size(f)
    left, right, top, bottom = parse_padding(padding)
    padding = [left + (fw + upx - 1) // 2, right + (fw - upx) // 2, top + (fh + upy - 1) // 2, bottom + (fh - upy) // 2]
    return upfirdn2d(x, f, up=[upx, upy], padding=padding, flip_filter=flip_filter, gain=gain * upx * upy, impl=impl)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl='auto'):
    """Shrinks by `down`; `padding` is in pixels of the input. Arguments as in `upfirdn2d`."""
    downx, downy = parse_pair('down', down, minimum=1)
    fw, fh = filter_size(f)
    left, right, top, bottom = parse_padding(padding)
    padding = [left + (fw - downx + 1) // 2, right + (fw - downx) // 2, top + (fh - downy + 1) // 2,
               bottom + (fh - downy) // 2]
    return upfirdn2d(x, f, down=[downx, downy], padding=padding, flip_filter=flip_filter, gain=gain, impl=impl)


# ---------------------------------------------------------------------------
# Arguments.

def parse_pair(name, value, minimum):
    """One integer, or [x, y] -> (x, y)."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, int) or v < minimum for v in pair):
        raise ValueError(f'{name} is {value!r}, it must be an integer of at least {minimum}, or two of them, [x, y]')
    return pair


def parse_padding(padding):
    """One integer, [x, y] or [left, right, top, bottom] -> the four of them."""
    values = [padding] if isinstance(padding, int) else [int(v) for v in padding]
    if len(values) not in (1, 2, 4):
        raise ValueError(f'padding is {padding!r}, it must be one number, [x, y] or [left, right, top, bottom]')
    return values if len(values) == 4 else [values[0], values[0], values[-1], values[-1]]


def filter_size(f):
    """(width, height) of a filter."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _check(x, f, upx, upy, downx, downy, left, right, top, bottom):
    if x.ndim != 4 or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f'upfirdn2d: x has shape {list(x.shape)}, it must be [N, C, H, W] with at least one pixel')
    if f.ndim not in (1, 2) or f.numel() == 0 or max(f.shape) > MAX_TAPS:
        raise ValueError(f'upfirdn2d: f has shape {list(f.shape)}, it must be [taps] or [height, width] with 1 to '
                         f'{MAX_TAPS} taps')
    if f.dtype != torch.float32 or f.device != x.device:
        raise TypeError(f'upfirdn2d: f is {f.dtype} on {f.device}, it must be float32 on {x.device}, as '
                        'setup_filter makes it')
    fw, fh = filter_size(f)
    width, height = x.shape[3] * upx + left + right, x.shape[2] * upy + top + bottom
    if width < fw or height < fh:
        raise ValueError(f'upfirdn2d: the padded image is {width}x{height}, smaller than the filter, which is '
                         f'{fw}x{fh}')
    # A crop at one end makes no room at the other
    width, height = (size + sum(max(p, 0) for p in padding) for size, padding in
                     [(x.shape[3] * upx, (left, right)), (x.shape[2] * upy, (top, bottom))])
    if max(width, height) > MAX_EXTENT:
        raise ValueError(f'upfirdn2d: the padded image is {width}x{height}, the largest extent is {MAX_EXTENT}')
    if max(downx, downy) > MAX_EXTENT:
        raise ValueError(f'upfirdn2d: down is [{downx}, {downy}], it must be at most {MAX_EXTENT}')


# ---------------------------------------------------------------------------
# Implementation.

def _reference(x, f, upx, upy, downx, downy, left, right, top, bottom, flip, gain):
    """The definition, step by step, in differentiable torch."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, upx - 1, 0, 0, 0, upy - 1]).reshape(n, c, h * upy, w * upx)
    x = _pad(x, left, right, top, bottom)
    f = f.to(torch.promote_types(x.dtype, torch.float32))       # before the products, which float32 would round
    f = (f.outer(f) if f.ndim == 1 else f) * gain
    f = (f if flip else f.flip([0, 1])).to(x.dtype)
    y = F.conv2d(x.reshape(n * c, 1, *x.shape[2:]), f[None, None])
    return y.reshape(n, c, *y.shape[2:])[:, :, ::downy, ::downx]


def _pad(x, left, right, top, bottom):
    """Zeros around, or a crop where a number is negative. Unlike with `F.pad` alone a crop may reach beyond the image
    into the zeros of the other side, as it does in the derivative of an enlargement whose result is cropped to inserted
    zeros."""
    padding = [left, right, top, bottom]
    if min(padding) >= 0 or max(padding) <= 0:
        return F.pad(x, padding)
    return F.pad(F.pad(x, [max(p, 0) for p in padding]), [min(p, 0) for p in padding])


def _forward(x, f, upx, upy, downx, downy, left, right, top, bottom, flip, gain):
    """One depthwise convolution (two for a separable filter), measured to be the fastest way on a CPU:
    benchmarks/ops_cpu.py."""
    layout = memory_format_of(x)
    if upx > 1 or upy > 1:
        n, c, h, w = x.shape
        stuffed = torch.empty([n, c, h * upy, w * upx], dtype=x.dtype, device=x.device, memory_format=layout).zero_()
        stuffed[:, :, ::upy, ::upx] = x
        x = stuffed
    pad_x, pad_y = left, top
    if left != right or top != bottom or min(left, top) < 0:
        x = _pad(x, left, right, top, bottom)
        pad_x = pad_y = 0
    f = f.to(torch.promote_types(x.dtype, torch.float32))
    f = f if flip else f.flip(list(range(f.ndim)))
    c = x.shape[1]
    if f.ndim == 2:
        y = F.conv2d(x, _depthwise(f * gain, c, x.dtype), stride=[downy, downx], padding=[pad_y, pad_x], groups=c)
    else:
        y = F.conv2d(x, _depthwise(f[:, None] * gain, c, x.dtype), stride=[downy, 1], padding=[pad_y, 0], groups=c)
        y = F.conv2d(y, _depthwise(f[None, :], c, x.dtype), stride=[1, downx], padding=[0, pad_x], groups=c)
    return y.contiguous(memory_format=layout)


def _depthwise(f, channels, dtype):
    """[height, width] filter -> the same one for each channel, [channels, 1, height, width]."""
    return f.to(dtype).expand(channels, 1, -1, -1)


def _fake(x, f, upx, upy, downx, downy, left, right, top, bottom, flip, gain):
    fw, fh = filter_size(f)
    size = [*x.shape[:2], (x.shape[2] * upy + top + bottom - fh) // downy + 1,
            (x.shape[3] * upx + left + right - fw) // downx + 1]
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


_upfirdn2d = define('upfirdn2d(Tensor x, Tensor f, int upx, int upy, int downx, int downy, int left, int right, int '
                    'top, int bottom, bool flip, float gain) -> Tensor', _forward, _fake, 'upfirdn2d')


def _setup(ctx, inputs, output):
    x, f, *ctx.args = inputs
    ctx.in_size, ctx.out_size = x.shape[2:], output.shape[2:]
    ctx.save_for_backward(f)


def _backward(ctx, dy):
    """The adjoint is the same operation with up and down exchanged and the filter turned around."""
    f, = ctx.saved_tensors
    upx, upy, downx, downy, left, _right, top, _bottom, flip, gain = ctx.args
    fw, fh = filter_size(f)
    (in_h, in_w), (out_h, out_w) = ctx.in_size, ctx.out_size
    padding = [fw - 1 - left, (in_w - 1) * upx + 1 + left - out_w * downx, fh - 1 - top,
               (in_h - 1) * upy + 1 + top - out_h * downy]
    return _upfirdn2d(dy, f, downx, downy, upx, upy, *padding, not flip, gain), *[None] * 11


torch.library.register_autograd('kdgan::upfirdn2d', _backward, setup_context=_setup)
