"""Affine maps of the plane and of colour space as matrices, one per image, that act on homogeneous column vectors.

Source: Karras et al., NeurIPS 2020, appendix B.
"""

import math

import torch


def translation(shift: torch.Tensor) -> torch.Tensor:
    """Shifts by `shift` [N, d] -> [N, d + 1, d + 1]."""
    n, d = shift.shape
    matrix = torch.eye(d + 1, device=shift.device).repeat(n, 1, 1)
    matrix[:, :d, d] = shift
    return matrix


def scaling(factors: torch.Tensor) -> torch.Tensor:
    """Multiplies the coordinates by `factors` [N, d] -> [N, d + 1, d + 1]."""
    return torch.nn.functional.pad(factors, [0, 1], value=1).diag_embed()


def rotation(angle: torch.Tensor) -> torch.Tensor:
    """Turns the plane by `angle` [N] in radians, from the x axis towards the y axis -> [N, 3, 3]."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return _matrices([cos, -sin, zero], [sin, cos, zero], [zero, zero, one])


def _matrices(*rows):
    """Rows of entries [N] -> [N, number of rows, number of columns], in one operator: assignments take one each."""
    return torch.stack([entry for row in rows for entry in row], dim=1).unflatten(1, [len(rows), -1])


# ---------------------------------------------------------------------------
# Colour. A map that treats red, green and blue alike, up to their cyclic order, is a circulant matrix.

def circulant(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Red becomes a * red + b * green + c * blue, and so on around the circle; a, b, c [N] -> [N, 4, 4]."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return _matrices([a, b, c, zero], [c, a, b, zero], [b, c, a, zero], [zero, zero, zero, one])


def luma_flip(flip: torch.Tensor) -> torch.Tensor:
    """Mirrors at the plane through black that is orthogonal to the grey axis v where `flip` [N] is 1: I - 2 v v^T ->
    [N, 4, 4]."""
    off = flip * (-2 / 3)
    return circulant(1 + off, off, off)


def hue_rotation(angle: torch.Tensor) -> torch.Tensor:
    """Turns colours around the grey axis by `angle` [N] in radians, red towards green -> [N, 4, 4]."""
    cos, sin = angle.cos(), angle.sin() / math.sqrt(3)
    return circulant((1 + 2 * cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin)


def saturation(factor: torch.Tensor) -> torch.Tensor:
    """Multiplies the distance from the grey axis v by `factor` [N]: v v^T + factor (I - v v^T) -> [N, 4, 4]."""
    off = (1 - factor) / 3
    return circulant(factor + off, off, off)
