import numpy as np
import torch

pad = torch.nn.functional.pad


def setup_filter(f, device=torch.device('cpu'), normalize=True, flip_filter=False, gain=1, separable=None):
    f = np.asarray(1 if f is None else f, dtype=np.float32)
    f = f.reshape(-1) if f.ndim == 0 else f
    f = np.outer(f, f) if f.ndim == 1 and f.size < 8 else f
    return torch.as_tensor(f / f.sum(), device=device)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'):
    left, right, top, bottom = _four(padding)
    f = torch.ones([1, 1]) if f is None else f
    assert isinstance(up, int) and isinstance(down, int) and f.dtype == torch.float32 and f.ndim == 2
    n, c, h, w = x.shape
    zeros = x.new_zeros([n, c, h * up, w * up])
    zeros[:, :, ::up, ::up] = x
    x = pad(zeros, [left, right, top, bottom])
    f = (f if flip_filter else f.flip([0, 1])) * gain
    x = torch.nn.functional.conv2d(x.reshape(n * c, 1, *x.shape[2:]), f[None, None].to(x.dtype))
    return x.reshape(n, c, *x.shape[2:])[:, :, ::down, ::down]


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'):
    size, (left, right, top, bottom) = f.shape[0], _four(padding)
    before, after = (size + up - 1) // 2, (size - up) // 2
    return upfirdn2d(x, f, up=up, padding=[left + before, right + after, top + before, bottom + after],
                     flip_filter=flip_filter, gain=gain * up * up)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda'):
    size, (left, right, top, bottom) = f.shape[0], _four(padding)
    before, after = (size - down + 1) // 2, (size - down) // 2
    return upfirdn2d(x, f, down=down, padding=[left + before, right + after, top + before, bottom + after],
                     flip_filter=flip_filter, gain=gain)


def _four(padding):
    padding = [padding, padding] if isinstance(padding, int) else list(padding)
    return padding if len(padding) == 4 else [padding[0], padding[0], padding[1], padding[1]]
