"""scaled_bias_act.h, scaled_bias_act.cu and scaled_bias_act.cpp in Python, for kernels that NVRTC has compiled: which
kernel runs, on what tiles.

The tests compare every launch with the one that the C++ makes.
"""

import ctypes

import torch

from ._launch import (
    CPP_TYPE,
    THREADS,
    Launch,
    described,
    has_dtype,
    is_aligned,
    is_channels_last,
    kind_of,
    pack_size,
    real_bytes,
)

ROWS_EACH = 4                           # rows of a thread (scaled_bias_act_tile.h)
MOST_LANES = 32
SUMS = {'forward': (0, 0), 'grad': (2, 1), 'grad2': (1, 0)}     # pass -> what is summed over pixels, over channels


class Params(ctypes.Structure):
    """ScaledBiasActParams."""
    _fields_ = [*((name, ctypes.c_void_p) for name in ('x', 'y', 'dy', 'ddx', 'out', 'out_x', 'scale', 'ddscale',
                                                       'bias', 'noise', 'row_sums', 'column_sums')),
                *((name, ctypes.c_int64) for name in ('samples', 'rows', 'columns', 'noise_step')),
                *((name, ctypes.c_double) for name in ('alpha', 'gain', 'clamp')),
                *((name, ctypes.c_int64) for name in ('row_tiles', 'column_tiles', 'blocks')),
                ('lanes', ctypes.c_int), ('packed', ctypes.c_bool)]


def body_of(dtype, channels_last, kind):
    return f'kdgan::ScaledBiasAct<{CPP_TYPE[dtype]}, {str(channels_last).lower()}, kdgan::Pass::{kind}>'


def bodies(dtype):
    """The C++ types of all kernels for a dtype."""
    return [body_of(dtype, channels_last, kind) for channels_last in (False, True) for kind in SUMS]


def tile(p, dtype):
    """How the work is split: fills in the tiles of `p`."""
    size, p.lanes = pack_size(dtype), 1
    while p.lanes < MOST_LANES and p.lanes * size < p.columns:
        p.lanes *= 2
    p.row_tiles = -(-p.rows // (THREADS // p.lanes * ROWS_EACH))
    p.column_tiles = -(-p.columns // (p.lanes * size))
    p.blocks = p.samples * p.row_tiles * p.column_tiles


def plan(p, dtype, channels_last, kind):
    """The launch for `p`, in which the tiles and all pointers are set."""
    p.packed = (p.columns % pack_size(dtype) == 0
                and is_aligned(*(getattr(p, name) or 0 for name in ('x', 'y', 'dy', 'ddx', 'out', 'out_x'))))
    row_sums, column_sums = reversed(SUMS[kind]) if channels_last else SUMS[kind]
    tile_rows = THREADS // p.lanes * ROWS_EACH
    numbers = row_sums * p.lanes * (tile_rows + 1) + column_sums * pack_size(dtype) * THREADS
    return Launch(body_of(dtype, channels_last, kind), p, real_bytes(dtype) * numbers)


def operators(launcher):
    """{operator: function that runs it with the kernels of a launcher}."""
    def scaled_bias_act(x, scale, noise, b, *args):
        work = _Work(x, scale, *args)
        work.p.bias = work.small('b', b, [x.shape[1]])
        work.p.noise = work.noise('noise', noise)
        y = work.out('out')
        work.run(launcher, 'forward')
        return y

    def scaled_bias_act_grad(dy, y, x, scale, *args):
        work = _Work(x, scale, *args)
        work.p.dy, work.p.y = work.large('dy', dy), work.large('y', y)
        dx = work.out('out')
        (dscale, db), dnoise = work.run(launcher, 'grad')
        return dx, dscale, dnoise, db.sum(0)

    def scaled_bias_act_grad2(ddx, ddscale, ddnoise, ddb, dy, y, x, scale, *args):
        work = _Work(x, scale, *args)
        work.p.ddx, work.p.dy, work.p.y = work.large('ddx', ddx), work.large('dy', dy), work.large('y', y)
        work.p.ddscale, work.p.bias = work.small('ddscale', ddscale, x.shape[:2]), work.small('ddb', ddb, [x.shape[1]])
        work.p.noise = work.noise('ddnoise', ddnoise)
        d_dy, d_x = work.out('out'), work.out('out_x')
        (d_scale,), _ = work.run(launcher, 'grad2')
        return d_dy, d_x, d_scale
    return dict(scaled_bias_act=scaled_bias_act, scaled_bias_act_grad=scaled_bias_act_grad,
                scaled_bias_act_grad2=scaled_bias_act_grad2)


class _Work:
    """The operators on one x: its layout, checked arguments, and the tensors that must live until the kernel is in the
    stream."""

    def __init__(self, given, scale, alpha, gain, clamp):
        has_dtype('scaled_bias_act', given)
        if given.ndim != 4:
            raise RuntimeError(f'scaled_bias_act: x has shape {list(given.shape)}, it must be [N, C, H, W]')
        if not gain > 0:
            raise RuntimeError(f'scaled_bias_act: gain is {gain:g}, it must be above 0')
        self.last, self.real = is_channels_last(given), torch.float64 if given.dtype == torch.float64 else torch.float32
        self.format = torch.channels_last if self.last else torch.contiguous_format
        self.x = given.contiguous(memory_format=self.format)
        self.kept = [self.x]
        n, channels, h, w = self.x.shape
        rows, columns = (h * w, channels) if self.last else (channels, h * w)
        self.p = Params(x=self.x.data_ptr(), samples=n, rows=rows, columns=columns, alpha=alpha, gain=gain, clamp=clamp)
        self.p.scale = self.small('scale', scale, [n, channels])
        tile(self.p, self.x.dtype)

    def large(self, name, t):
        """Address of `t` in the layout of x."""
        x = self.x
        if t.shape != x.shape or t.dtype != x.dtype or t.device != x.device:
            raise RuntimeError(f'scaled_bias_act: {name} is {described(t)}, it must be {described(x)}')
        return self._keep(t.contiguous(memory_format=self.format))

    def small(self, name, t, shape):
        """Address of `t`, contiguous, of the type that is computed in; None where there is none."""
        if t is None:
            return None
        if list(t.shape) != list(shape) or t.dtype != self.real or t.device != self.x.device:
            wanted = f'{kind_of(self.x.new_empty([0], dtype=self.real))}{list(shape)} on {self.x.device}'
            raise RuntimeError(f'scaled_bias_act: {name} is {described(t)}, it must be {wanted}')
        return self._keep(t.contiguous())

    def noise(self, name, t):
        n, _, h, w = self.x.shape
        shared = t is not None and t.ndim == 4 and t.shape[0] == 1
        self.p.noise_step = 0 if shared else h * w
        return self.small(name, t, [1 if shared else n, 1, h, w])

    def out(self, member):
        """A new tensor in the form of x, to which the kernel writes."""
        made = torch.empty_like(self.x)
        setattr(self.p, member, made.data_ptr())
        return made

    def run(self, launcher, kind):
        """Launches the kernel. -> what it summed over pixels [sums, N, C] and over channels [N, 1, H, W]; None where
        there is nothing to sum."""
        x, p, (over_pixels, over_channels) = self.x, self.p, SUMS[kind]
        n, channels, h, w = x.shape
        if x.numel() == 0:
            return x.new_zeros([over_pixels, n, channels], dtype=self.real), x.new_zeros([n, 1, h, w], dtype=self.real)
        row_sums, column_sums = (over_channels, over_pixels) if self.last else (over_pixels, over_channels)
        by_row = x.new_empty([row_sums, n, p.rows, p.column_tiles], dtype=self.real)
        by_column = x.new_empty([column_sums, n, p.row_tiles, p.columns], dtype=self.real)
        p.row_sums, p.column_sums = by_row.data_ptr(), by_column.data_ptr()
        launcher.launch(x.device, plan(p, x.dtype, self.last, kind))
        by_row, by_column = _added_up(by_row, 3), _added_up(by_column, 2)
        of_pixels, of_channels = (by_column, by_row) if self.last else (by_row, by_column)
        return of_pixels, None if of_channels is None else of_channels.reshape([n, 1, h, w])

    def _keep(self, t):
        self.kept.append(t)
        return t.data_ptr()


def _added_up(partial, dim):
    """The sums of the tiles -> those of the whole, or None if there are none."""
    if len(partial) == 0:
        return None
    return partial.squeeze(dim) if partial.shape[dim] == 1 else partial.sum(dim)
