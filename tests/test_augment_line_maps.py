"""training/augment/resample.py: line maps as one operator; its derivatives beside those that autograd makes of
slices."""

import pytest
import torch

from training.augment.resample import LineMap, downsampling, filtering, upsampling

MAPS = {
    'upsampling': lambda: upsampling(torch.rand(12, dtype=torch.float64), 70, (5, 3), (9, 7)),
    'downsampling': lambda: downsampling(torch.rand(12, dtype=torch.float64), 70),
    'filtering': lambda: filtering(torch.rand(43, dtype=torch.float64), 70),
    'filtering, one filter per image': lambda: filtering(torch.rand(2, 1, 7, dtype=torch.float64), 70),
}


@pytest.mark.parametrize('name', MAPS)
def test_value_and_both_derivatives(name):
    """Beside the full matrix, in float64; x is not contiguous, as after a transposition."""
    torch.manual_seed(0)
    line_map = MAPS[name]()
    assert len(line_map.blocks) > 1
    x = torch.randn(2, 3, line_map.matrix.shape[-1], 4, dtype=torch.float64).mT.requires_grad_()
    found = []
    for y in (line_map(x), x @ line_map.matrix.mT):
        dx, = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        ddx, = torch.autograd.grad(dx.square().sum(), x)
        found.append((y, dx, ddx))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12 * want.abs().max().item())


def test_gradcheck_of_shared_columns():
    """Blocks that read the same columns: their gradients add up. With the matrix [rows, size] and one per image."""
    blocks = ((0, 2, 0, 3), (2, 4, 1, 5))
    matrix = torch.zeros(4, 5, dtype=torch.float64)
    for r0, r1, c0, c1 in blocks:
        matrix[r0:r1, c0:c1] = torch.rand(r1 - r0, c1 - c0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    for line_map in (LineMap(matrix, blocks), LineMap(torch.stack([matrix, 2 * matrix]), blocks)):
        assert torch.autograd.gradcheck(line_map, [x])
        assert torch.autograd.gradgradcheck(line_map, [x])
