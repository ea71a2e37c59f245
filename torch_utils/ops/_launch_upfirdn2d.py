"""upfirdn2d.h, upfirdn2d.cu and upfirdn2d.cpp in Python, for kernels that NVRTC has compiled: which kernel runs, on
what tiles.

The tests compare every launch with the one that the C++ makes.
"""

import ctypes
import functools
from typing import NamedTuple

import torch

from ._launch import (
    CPP_TYPE,
    MOST_BLOCKS,
    Launch,
    has_dtype,
    is_aligned,
    is_channels_last,
    kind_of,
    pack_size,
    real_bytes,
)

KERNEL_TAPS = 32                        # per direction (upfirdn2d.h)
MAX_EXTENT = 2 ** 30                    # of the padded image: positions are 32-bit numbers (upfirdn2d.h)
SHARED_WANTED, SHARED_LIMIT = 24 << 10, 48 << 10                # as in upfirdn2d.cu, with the reasons there
OUTPUTS = 2048
BLOCKS_PER_MULTIPROCESSOR = 2
# Of a kernel for a fixed number of taps; the general one: 1
ROWS = 4
TAPS = 4
FACTORS = ((2, 1), (1, 2), (1, 1))                              # up, down


class Divisor(ctypes.Structure):
    _fields_ = [('by', ctypes.c_uint32), ('factor', ctypes.c_uint32)]


class Strides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ('n', 'k', 'y', 'x')]


class Params(ctypes.Structure):
    """Upfirdn2dParams; `in` is a word of Python: read it with getattr."""
    _fields_ = [*((name, ctypes.c_void_p) for name in ('x', 'f', 'y')),
                *((name, ctypes.c_int64) for name in ('images', 'depth')),
                *((name, ctypes.c_int) for name in ('in_w', 'in_h', 'out_w', 'out_h')), ('in', Strides),
                ('out', Strides), *((name, ctypes.c_bool) for name in ('channels_last', 'separable', 'flip')),
                *((name, ctypes.c_int) for name in ('taps_x', 'taps_y', 'upx', 'upy', 'downx', 'downy', 'left', 'top')),
                ('gain', ctypes.c_double), ('packed', ctypes.c_bool),
                *((name, ctypes.c_int) for name in ('tile_w', 'tile_h', 'tile_k', 'box_w', 'box_h', 'shift_y')),
                *((name, ctypes.c_uint32) for name in ('tiles_x', 'tiles_y', 'tiles_k')), ('blocks', ctypes.c_int64),
                *((name, ctypes.c_int) for name in ('weights', 'box_size', 'middle_size')),
                *((name, Divisor) for name in ('box_0', 'box_1', 'middle_0', 'middle_1', 'strip_0', 'strip_1'))]


class Axis(NamedTuple):
    """One direction of a call."""
    name: str
    size: int
    up: int
    down: int
    before: int
    after: int
    taps: int

    def check(self):
        within = lambda value, lowest: lowest <= value <= MAX_EXTENT
        if not (within(self.up, 1) and within(self.down, 1)):
            raise RuntimeError(f'upfirdn2d: up{self.name} is {self.up}, down{self.name} is {self.down}, they must be 1 '
                               f'to {MAX_EXTENT}')
        if not (within(self.before, -MAX_EXTENT) and within(self.after, -MAX_EXTENT)):
            raise RuntimeError(f'upfirdn2d: the padding in {self.name} is {self.before} and {self.after}, '
                               f'the largest extent is {MAX_EXTENT}')
        if self.size * self.up + max(self.before, 0) + max(self.after, 0) > MAX_EXTENT:
            raise RuntimeError(f'upfirdn2d: the image with its padding is too large in {self.name}: the largest extent '
                               f'is {MAX_EXTENT}')
        if self.size * self.up + self.before + self.after < self.taps:
            raise RuntimeError('upfirdn2d: the padded image is smaller than the filter')

    def out(self):
        return (self.size * self.up + self.before + self.after - self.taps) // self.down + 1


def body_of(dtype, up, down, taps, separable):
    return f'kdgan::Upfirdn2d<{CPP_TYPE[dtype]}, {up}, {down}, {taps}, {str(separable).lower()}>'


def bodies(dtype):
    """The C++ types of all kernels for a dtype: those for 4 taps, but not in float64, and the general ones."""
    special = [(up, down, TAPS) for up, down in FACTORS if dtype != torch.float64]
    return [body_of(dtype, *sizes, separable) for sizes in [*special, (1, 1, 0)] for separable in (False, True)]


@functools.lru_cache(maxsize=4096)
def plan(dtype, channels_last, batch, axis_x, axis_y, separable, flip, aligned, multiprocessors):
    """The launch except for its pointers and the gain; a copy of the parameters is the caller's to fill in.

    batch: (images, channels). Raises RuntimeError where no tile fits.
    """
    n, c = batch
    out_h, out_w = axis_y.out(), axis_x.out()
    p = Params(images=n if channels_last else 1, depth=c if channels_last else n * c, in_w=axis_x.size,
               in_h=axis_y.size, out_w=out_w, out_h=out_h, out=_strides_of(channels_last, c, out_h, out_w),
               channels_last=channels_last, separable=separable, flip=flip, taps_x=axis_x.taps, taps_y=axis_y.taps,
               upx=axis_x.up, upy=axis_y.up, downx=axis_x.down, downy=axis_y.down, left=axis_x.before,
               top=axis_y.before)
    setattr(p, 'in', _strides_of(channels_last, c, axis_y.size, axis_x.size))
    factors = (axis_x.up, axis_x.down)
    special = (dtype != torch.float64 and axis_x.taps == axis_y.taps == TAPS and factors == (axis_y.up, axis_y.down)
               and factors in FACTORS)
    up, taps, rows, pack = (axis_x.up, TAPS, ROWS, pack_size(dtype)) if special else (1, 0, 1, pack_size(dtype))
    p.packed = aligned and (c % pack == 0 if channels_last else p.in_w % pack == 0 and p.in_w >= 2 * pack)
    p.shift_y = -(p.top // up) * up + p.top if special else 0
    shared_bytes = _set_tile(p, rows, pack, real_bytes(dtype), multiprocessors)
    if shared_bytes > SHARED_LIMIT:
        raise RuntimeError('the filter and its input do not fit into shared memory')
    if p.blocks > MOST_BLOCKS:
        raise RuntimeError('more than 2^31 - 1 tiles')
    _set_divisors(p, rows)
    return Launch(body_of(dtype, *(factors if special else (1, 1)), taps, separable), p, shared_bytes)


def _strides_of(channels_last, channels, height, width):
    if channels_last:
        return Strides(channels * height * width, 1, channels * width, channels)
    return Strides(0, height * width, width, 1)


def _set_divisors(p, rows):
    divisor = lambda by: Divisor(by, 0 if by == 1 else 0xffffffff // by + 1)
    cl = p.channels_last
    p.box_0, p.box_1 = divisor(p.tile_k if cl else p.box_w), divisor(p.box_w if cl else p.box_h)
    p.middle_0, p.middle_1 = divisor(p.tile_k if cl else p.tile_w), divisor(p.tile_w if cl else p.box_h)
    p.strip_0, p.strip_1 = p.middle_0, divisor(p.tile_w if cl else p.tile_h // rows)


def _power_of_two_from(value, limit):
    power = 1
    while power < value and power < limit:
        power *= 2
    return power


def _set_box(p, pack, real):
    """Extents of the box. -> bytes of shared memory for the tile size at hand."""
    round_up = lambda value, unit: -(-value // unit) * unit
    p.box_w = ((p.tile_w - 1) * p.downx + p.taps_x - 1) // p.upx + 1
    p.box_h = ((p.tile_h - 1) * p.downy + p.taps_y - 1) // p.upy + 1
    if p.packed and not p.channels_last:
        p.box_w = round_up(p.box_w + pack - 1, pack)
    p.weights = round_up(2 * p.taps_x if p.separable else p.taps_x * p.taps_y, 4)
    box, middle = p.box_w * p.box_h * p.tile_k, p.tile_w * p.box_h * p.tile_k if p.separable else 0
    p.box_size, p.middle_size = box, middle             # one that does not fit into 32 bits is halved before it is used
    return (p.weights + box + middle) * real


def _set_tiles(p):
    needed = lambda extent, tile: -(-extent // tile)
    p.tiles_x, p.tiles_y = x, y = needed(p.out_w, p.tile_w), needed(p.out_h + p.shift_y, p.tile_h)
    p.tiles_k = k = needed(p.depth, p.tile_k)
    p.blocks = k * x * y * p.images


def _halve(p, k, h, w):
    """Halves the first extent of the tile that may be halved. -> whether there was one."""
    for name, may in (('tile_k', k), ('tile_h', h), ('tile_w', w)):
        if may:
            setattr(p, name, getattr(p, name) // 2)
            return True
    return False


def _halve_to_spread(p):
    return _halve(p, p.tile_k > (16 if p.channels_last else 1), p.tile_h > 8 and p.tile_h >= p.tile_w, p.tile_w > 8)


def _halve_to_fit(p, smallest_h, smallest_k):
    return _halve(p, p.tile_k > smallest_k, p.tile_h > smallest_h, p.tile_w > 1)


def _set_tile(p, rows, pack, real, multiprocessors):
    p.tile_w = _power_of_two_from(p.out_w, 16 if p.channels_last else 64)
    p.tile_h = max(_power_of_two_from(p.out_h + p.shift_y, 16 if p.channels_last else 32), rows)
    p.tile_k = _power_of_two_from(p.depth, 16) if p.channels_last else 1
    while p.tile_k < p.depth and p.tile_w * p.tile_h * p.tile_k < OUTPUTS:
        p.tile_k *= 2
    _set_tiles(p)
    size = _set_box(p, pack, real)
    while (size > SHARED_WANTED or p.blocks < BLOCKS_PER_MULTIPROCESSOR * multiprocessors) and _halve_to_spread(p):
        _set_tiles(p)
        size = _set_box(p, pack, real)
    while size > SHARED_LIMIT and _halve_to_fit(p, rows, pack if p.channels_last and p.packed else 1):
        _set_tiles(p)
        size = _set_box(p, pack, real)
    return size


def operators(launcher):
    """{operator: function that runs it with the kernels of a launcher}."""
    return dict(upfirdn2d=functools.partial(_run, launcher))


def _check_filter(x, f):
    if x.ndim != 4:
        raise RuntimeError(f'upfirdn2d: x has {x.ndim} dimensions, it must have 4')
    if f.dtype != torch.float32 or f.device != x.device:
        raise RuntimeError(f'upfirdn2d: f is {kind_of(f)} on {f.device}, it must be float32 on {x.device}')
    if f.ndim not in (1, 2) or f.numel() == 0 or max(f.shape) > KERNEL_TAPS:
        raise RuntimeError(f'upfirdn2d: f has shape {list(f.shape)}, the kernel takes [taps] or [height, width] with 1 '
                           f'to {KERNEL_TAPS} taps')


def _run(launcher, given_x, given_f, upx, upy, downx, downy, left, right, top, bottom, flip, gain):
    _check_filter(given_x, given_f)
    channels_last = is_channels_last(given_x)
    x, f = given_x if channels_last else given_x.contiguous(), given_f.contiguous()
    n, c, in_h, in_w = x.shape
    axis_x = Axis('x', in_w, upx, downx, left, right, f.shape[-1])
    axis_y = Axis('y', in_h, upy, downy, top, bottom, f.shape[0])
    axis_x.check()
    axis_y.check()
    y = torch.empty([n, c, axis_y.out(), axis_x.out()], dtype=x.dtype, device=x.device,
                    memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if y.numel() == 0:
        return y
    if x.numel() == 0:
        raise RuntimeError(f'upfirdn2d: x is empty: {list(x.shape)}')
    has_dtype('upfirdn2d', x)
    try:
        launch = plan(x.dtype, channels_last, (n, c), axis_x, axis_y, f.ndim == 1, flip, is_aligned(x.data_ptr()),
                      launcher.multiprocessors(x.device))
    except RuntimeError as err:
        raise RuntimeError(f'upfirdn2d: {err} (x has shape {list(x.shape)}, f {list(f.shape)}, y '
                           f'{list(y.shape)})') from None
    p = Params.from_buffer_copy(launch.params)
    p.x, p.f, p.y, p.gain = x.data_ptr(), f.data_ptr(), y.data_ptr(), gain
    launcher.launch(x.device, launch._replace(params=p))
    return y
