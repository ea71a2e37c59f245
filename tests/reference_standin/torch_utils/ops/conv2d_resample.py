import torch

from .upfirdn2d import upfirdn2d


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """Enlarge, convolve, reduce: one after the other. All padding comes first."""
    assert isinstance(padding, int) and w.dtype == x.dtype and w.ndim == 4
    size = 1 if f is None else f.shape[0]
    before = after = padding
    if up > 1:
        before, after = before + (size + up - 1) // 2, after + (size - up) // 2
    if down > 1:
        before, after = before + (size - down + 1) // 2, after + (size - down) // 2
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=[before, after, before, after], gain=up ** 2,
                  flip_filter=flip_filter)
    x = torch.nn.functional.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)
