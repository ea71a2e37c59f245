"""Linear filtering and geometric warping of images that continue beyond their borders by reflection.

All filters here are separable and are applied as one matrix per direction. Reflection, zero insertion, filter and
cropping become a single product; derivatives of any order are products too, and the reach of the reflection may be a
tensor on the device. On a CPU this is two to three times faster than padding and convolving, measured at 32 to 256
pixels.

Positions are in pixels of the image: 0 is the centre of the first one.
Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020, appendix B.
"""

from typing import NamedTuple

import torch

from torch_utils.ops import grid_sample_gradfix

F = torch.nn.functional
BAND_ROWS = 64             # rows of a band matrix multiplied together: fewer skip more zeros, more make larger products


class LineMap(NamedTuple):
    """A linear map of lines of pixels, [..., size] -> [..., rows].

    Attributes:
        matrix: [rows, size], or [N, 1, rows, size] for one per image.
        blocks: (first row, end row, first column, end column) of parts that cover all rows in order; the rest of the
                matrix is zero.
    """
    matrix: torch.Tensor
    blocks: tuple

    def __call__(self, x):
        return _BandProduct.apply(x, self.matrix, self.blocks, False)


class _BandProduct(torch.autograd.Function):
    """x [..., size] -> [..., rows] by a `LineMap`, or [..., rows] -> [..., size] by its transpose. Linear in x: its
    derivative is the other one.

    As one operation on purpose: autograd's own derivative of a slice is a zero tensor as large as x, for each block.
    """

    @staticmethod
    def forward(ctx, x, matrix, blocks, transposed):
        ctx.save_for_backward(matrix)
        ctx.blocks, ctx.transposed = blocks, transposed
        rows, size = matrix.shape[-2:]
        batches = matrix.shape[:-2][:1]                     # () or (N,): of the matrix, and of the product
        lines = x.reshape(*batches, -1, x.shape[-1])
        band = matrix.reshape(*batches, rows, size)
        result = lines.new_zeros(*lines.shape[:-1], size) if transposed else lines.new_empty(*lines.shape[:-1], rows)
        for r0, r1, c0, c1 in blocks:
            part = band[..., r0:r1, c0:c1]
            if transposed:                                  # blocks share columns
                target = result[..., c0:c1]
                (target.baddbmm_ if batches else target.addmm_)(lines[..., r0:r1], part)
            else:
                torch.matmul(lines[..., c0:c1], part.mT, out=result[..., r0:r1])
        return result.reshape(*x.shape[:-1], result.shape[-1])

    @staticmethod
    def backward(ctx, d_result):
        matrix, = ctx.saved_tensors
        return _BandProduct.apply(d_result, matrix, ctx.blocks, not ctx.transposed), None, None, None


def map_lines(images, along_x: LineMap, along_y: LineMap):
    """Applies one map along the rows of `images` [N, C, H, W], the other along the columns."""
    return along_x(along_y(images.mT).mT)


# ---------------------------------------------------------------------------
# Filters as matrices.

def filtering(taps, size) -> LineMap:
    """Filters lines of `size` pixels with an odd number of taps: [taps], or [N, 1, taps] for one filter per image.

    Lines continue by reflection, so `size` must be more than half the number of taps.
    """
    reach = taps.shape[-1] // 2
    return _reflected_filter(taps, size, rows=size, stretch=1, origin=reach, before=reach, after=reach)


def upsampling(taps, size, reach, bounds) -> LineMap:
    """Extends lines of `size` pixels and doubles their resolution: result r lies at position r / 2 - bounds[0].

    Args:
        taps:   [even number] low-pass filter with sum 1.
        reach:  pixels at either end that continue the line by reflection, at most size - 1: integers or scalar tensors;
                zeros follow.
        bounds: integers not below `reach`, how many pixels at either end there is room for.
    """
    (before, after), (room_before, room_after) = reach, bounds
    rows = 2 * (room_before + size + room_after)
    centre = len(taps) // 2 - 1
    matrix, blocks = _reflected_filter(2 * taps, size, rows, stretch=2, origin=centre - 2 * room_before, before=before,
                                       after=after)
    position = torch.arange(rows, device=taps.device) - 2 * room_before
    inside = (position >= -2 * before) & (position < 2 * (size + after))
    return LineMap(matrix * inside[:, None], blocks)


def downsampling(taps, rows) -> LineMap:
    """Filters with the mirror image of `taps` [taps] and keeps every other pixel: 2 * rows - 2 + taps pixels ->
    `rows`."""
    size = 2 * rows - 2 + len(taps)
    row, pixel = torch.arange(rows, device=taps.device)[:, None], torch.arange(size, device=taps.device)
    ends = [(first, min(first + BAND_ROWS, rows)) for first in range(0, rows, BAND_ROWS)]
    return LineMap(_tap_at(taps, pixel - 2 * row), tuple((first, end, 2 * first, 2 * end - 2 + len(taps))
                                                         for first, end in ends))


def _reflected_filter(taps, size, rows, stretch, origin, before, after) -> LineMap:
    """Row r has the weight taps[r + origin - stretch * i] for position i; pixels appear at their own position and at
    their mirror images, which are `before` and `after` positions beyond the ends at most."""
    row, pixel = torch.arange(rows, device=taps.device)[:, None] + origin, torch.arange(size, device=taps.device)
    from_end = size - 1 - pixel
    matrix = _tap_at(taps, row - stretch * pixel)
    matrix = matrix + _tap_at(taps, row + stretch * pixel) * ((pixel > 0) & (pixel <= before))
    matrix = matrix + _tap_at(taps, row - stretch * (size - 1 + from_end)) * ((from_end > 0) & (from_end <= after))
    return LineMap(matrix, _reflected_blocks(size, rows, stretch, origin, taps.shape[-1]))


def _tap_at(taps, index):
    """taps[..., index], zero beyond the ends."""
    return F.pad(taps, [1, 1])[..., (index + 1).clamp(0, taps.shape[-1] + 1)]


def _reflected_blocks(size, rows, stretch, origin, num_taps):
    """Bands of rows, each with the range of pixels that it can use, at their own position or at a mirror image."""
    blocks, last = [], size - 1
    for first in range(0, rows, BAND_ROWS):
        end = min(first + BAND_ROWS, rows)
        low = max((first + origin - num_taps) // stretch + 1, -last)
        high = min((end - 1 + origin) // stretch, 2 * last)
        turning_points = [i for i in (0, last) if low <= i <= high]
        pixels = [last - abs(last - abs(i)) for i in (low, high, *turning_points)]
        blocks.append((first, end, min(pixels), max(pixels) + 1))
    return tuple(blocks)


# ---------------------------------------------------------------------------
# Geometric warping.

def warp(images, to_source, taps, read_margins=None):
    """Moves pixels by an affine map per image, without aliasing: doubles the resolution, samples bilinearly, halves the
    resolution.

    Images continue by reflection as far as `warp_margins` says and are zero beyond. Linear in the images,
    differentiable any number of times.

    Args:
        images:       [N, C, H, W].
        to_source:    [N, 3, 3], maps offsets (x, y, 1) from the centre of the result to those from the centre of
                      `images`, in pixels.
        taps:         [even number] wavelet low-pass filter with sum 1.
        read_margins: True = the host reads the margins and makes room for no more; False = it makes room for the
                      largest ones, nine times the image, and the device zeroes what lies beyond. The result is the
                      same. None = True on a CPU, where reading is free.
    Returns:          [N, C, H, W].
    """
    height, width = images.shape[2:]
    margins = warp_margins(to_source, width, height, extra=len(taps) // 2)
    if read_margins is None:
        read_margins = images.device.type == 'cpu' and not torch.compiler.is_compiling()
    if read_margins:
        reach = bounds = [int(margin) for margin in margins.tolist()]
    else:
        reach, bounds = margins.unbind(), [width - 1, width - 1, height - 1, height - 1]
    enlarged = map_lines(images, upsampling(taps, width, reach[:2], bounds[:2]),
                         upsampling(taps, height, reach[2:], bounds[2:]))
    grid = _sampling_grid(to_source, width, height, bounds, len(taps))
    samples = grid_sample_gradfix.grid_sample(enlarged, grid)
    return map_lines(samples, downsampling(taps, width), downsampling(taps, height))


def warp_margins(to_source, width, height, extra):
    """By how much the corner pixels of the results reach beyond the images, the largest of the batch, plus `extra`
    pixels.

    -> [4] float: left, right, top, bottom; whole numbers from 0 to size - 1.
    """
    centre = (width - 1) / 2, (height - 1) / 2
    reach = []
    for axis, size in enumerate((width, height)):
        extent = to_source[:, axis, 0].abs() * centre[0] + to_source[:, axis, 1].abs() * centre[1]
        shift = to_source[:, axis, 2]
        reach += [(extent + sign * shift - centre[axis] + extra).amax().clamp(0, size - 1).ceil() for sign in (-1, 1)]
    return torch.stack(reach)


def _sampling_grid(to_source, width, height, bounds, num_taps):
    """Where `warp` reads the enlarged image, as `grid_sample` wants it, for the positions that halving the resolution
    needs.

    -> [N, 2 * height - 2 + taps, 2 * width - 2 + taps, 2].
    """
    theta = to_source[:, :2].clone()
    offsets = []
    for axis, size in enumerate((width, height)):
        before, after = bounds[2 * axis:2 * axis + 2]
        enlarged, half = 2 * (before + size + after), (size - 1) / 2
        # 2 results a pixel; the grid runs from -1 to 1
        theta[:, axis] *= 4 / enlarged
        theta[:, axis, 2] += (4 * (before + half) + 1) / enlarged - 1       # from the centre to the left edge
        offsets.append((torch.arange(2 * size - 2 + num_taps, device=theta.device) - (num_taps // 2 - 1)) / 2 - half)
    along_x = offsets[0][:, None] * theta[:, None, None, :, 0]
    along_y = offsets[1][:, None] * theta[:, None, :, 1] + theta[:, None, :, 2]
    return along_x + along_y[:, :, None]
