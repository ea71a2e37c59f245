"""2D convolution with up- or downsampling by a low-pass filter, in the cheapest order that gives the same result."""

from . import conv2d_gradfix
from .upfirdn2d import filter_size, parse_padding, upfirdn2d


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """Upsamples by `up`, filters, convolves with `w` and downsamples by `down`. Differentiable twice with respect to
    `x` and `w`.

    Args:
        x:           [N, C, H, W].
        w:           [O, C / groups, kh, kw] in the dtype of `x`.
        f:           low-pass filter from `setup_filter`; None = none.
        up, down:    integer factors.
        padding:     with respect to the upsampled image: one number, [x, y] or [left, right, top, bottom].
        flip_weight: True = correlation, as in `torch.nn.functional.conv2d`; False = convolution.
        flip_filter: the same for `f`, with the opposite default.
    Returns:         [N, O, H * up / down, W * up / down] for a padding that keeps the size.
    """
    kh, kw = w.shape[2:]
    fw, fh = filter_size(f)
    left, right, top, bottom = parse_padding(padding)
    if up > 1:                                              # centre the filter on the result, as upsample2d does
        left, right = left + (fw + up - 1) // 2, right + (fw - up) // 2
        top, bottom = top + (fh + up - 1) // 2, bottom + (fh - up) // 2
    if down > 1:                                            # likewise downsample2d
        left, right = left + (fw - down + 1) // 2, right + (fw - down) // 2
        top, bottom = top + (fh - down + 1) // 2, bottom + (fh - down) // 2
    pad = [left, right, top, bottom]

    # A 1x1 convolution commutes with resampling: run it at the low resolution
    if kh == kw == 1 and down > 1 and up == 1:
        return _conv(upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter), w, groups, flip_weight)
    if kh == kw == 1 and up > 1 and down == 1:
        return upfirdn2d(_conv(x, w, groups, flip_weight), f, up=up, padding=pad, gain=up ** 2, flip_filter=flip_filter)
    if down > 1 and up == 1:
        x = upfirdn2d(x, f, padding=pad, flip_filter=flip_filter)
        return _conv(x, w, groups, flip_weight, stride=down)
    if up > 1:
        return _up_conv(x, w, f, up, down, pad, groups, flip_weight, flip_filter)
    if f is None and left == right and top == bottom and left >= 0 and top >= 0:
        return _conv(x, w, groups, flip_weight, padding=(top, left))
    return _conv(upfirdn2d(x, f, padding=pad, flip_filter=flip_filter), w, groups, flip_weight)


def _up_conv(x, w, f, up, down, pad, groups, flip_weight, flip_filter):
    """A transposed convolution does the zero insertion and the kernel at once; the filter follows, since both
    commute."""
    kh, kw = w.shape[2:]
    left, right, top, bottom = pad[0] - (kw - 1), pad[1] - (kw - up), pad[2] - (kh - 1), pad[3] - (kh - up)
    crop_x, crop_y = max(min(-left, -right), 0), max(min(-top, -bottom), 0)
    x = _conv_transpose(x, w, groups, flip_weight, stride=up, padding=(crop_y, crop_x))
    x = upfirdn2d(x, f, padding=[left + crop_x, right + crop_x, top + crop_y, bottom + crop_y], gain=up ** 2,
                  flip_filter=flip_filter)
    return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)


def _conv(x, w, groups, flip_weight, stride=1, padding=0):
    if not flip_weight and w.shape[2:].numel() > 1:
        w = w.flip([2, 3])
    return conv2d_gradfix.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _conv_transpose(x, w, groups, flip_weight, stride, padding):
    """The transpose of a correlation convolves: for a correlation it needs the flipped weight, as [C, O / groups, kh,
    kw]."""
    if flip_weight:
        w = w.flip([2, 3])
    o, c, kh, kw = w.shape
    w = w.reshape(groups, o // groups, c, kh, kw).transpose(1, 2).reshape(groups * c, o // groups, kh,
                                                                          kw) if groups > 1 else w.transpose(0, 1)
    return conv2d_gradfix.conv_transpose2d(x, w, stride=stride, padding=padding, groups=groups)
