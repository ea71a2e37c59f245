import pytest
import torch

from torch_utils.ops import conv2d_gradfix, conv2d_resample, fma, grid_sample_gradfix, upfirdn2d

F = torch.nn.functional
CONVS = [dict(stride=1, padding=1), dict(stride=2, padding=0), dict(stride=(2, 1), padding=(1, 2), groups=2),
         dict(stride=3, padding=1, dilation=2)]


def second_derivatives(fn, *tensors):
    """Values, first derivatives and derivatives of a random function of them."""
    y = fn(*tensors)
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=rng).requires_grad_(True)
    first = torch.autograd.grad(y, tensors, dy, create_graph=True)
    mixed = sum((d * torch.randn(d.shape, dtype=d.dtype, generator=rng)).sum() for d in first)
    return [y, *first, *torch.autograd.grad(mixed, [*tensors, dy])]


@pytest.mark.parametrize('kwargs', CONVS, ids=str)
@pytest.mark.parametrize('transpose', [False, True])
def test_convolutions_equal_the_stock_ones_to_the_second_derivative(transpose, kwargs):
    groups = kwargs.get('groups', 1)
    x = torch.randn(2, 4, 9, 8, dtype=torch.double, requires_grad=True)
    w = torch.randn(*((4, 6 // groups) if transpose else (6, 4 // groups)), 3, 3, dtype=torch.double,
                    requires_grad=True)
    ours, stock = ((conv2d_gradfix.conv_transpose2d, F.conv_transpose2d) if transpose
                   else (conv2d_gradfix.conv2d, F.conv2d))
    for got, want in zip(second_derivatives(lambda x, w: ours(x, w, **kwargs), x, w),
                         second_derivatives(lambda x, w: stock(x, w, **kwargs), x, w), strict=True):
        torch.testing.assert_close(got, want)


def test_without_weight_gradients_inside_the_block_only():
    x = torch.randn(1, 2, 5, 5, requires_grad=True)
    w = torch.randn(3, 2, 3, 3, requires_grad=True)
    with conv2d_gradfix.no_weight_gradients():
        dx, = torch.autograd.grad(conv2d_gradfix.conv2d(x, w).sum(), x, create_graph=True)
        assert torch.autograd.grad(conv2d_gradfix.conv2d(x, w).sum(), [x, w], allow_unused=True)[1] is None
    dw, = torch.autograd.grad(dx.square().sum(), w)
    want, = torch.autograd.grad(torch.autograd.grad(F.conv2d(x, w).sum(), x, create_graph=True)[0].square().sum(), w)
    torch.testing.assert_close(dw, want)


FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])


def naive_resample(x, w, f, up, down, padding, groups, flip_weight):
    """Filter and convolve at full resolution, in the order in which the operator is defined."""
    p = padding + (2 if up > 1 else 0) + (1 if down > 1 else 0)
    q = padding + (1 if up > 1 else 0) + (1 if down > 1 else 0)
    x = upfirdn2d.upfirdn2d(x, f if up > 1 else None, up=up, padding=[p, q, p, q], gain=up ** 2, impl='ref')
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d.upfirdn2d(x, f, down=down, impl='ref') if down > 1 else x


@pytest.mark.parametrize('up, down, k, groups, flip_weight', [
    (1, 1, 3, 1, True), (1, 1, 3, 2, False), (2, 1, 3, 1, False), (2, 1, 3, 2, True), (1, 2, 3, 1, True),
    (2, 1, 1, 1, True), (1, 2, 1, 1, True)])
def test_conv2d_resample_equals_the_naive_order(up, down, k, groups, flip_weight):
    """Filter and convolution commute; float64 leaves only rounding."""
    x = torch.randn(2, 4, 8, 6, dtype=torch.double, requires_grad=True)
    w = torch.randn(6, 4 // groups, k, k, dtype=torch.double, requires_grad=True)
    got = conv2d_resample.conv2d_resample(x, w, FILTER if up > 1 or down > 1 else None, up=up, down=down,
                                          padding=k // 2, groups=groups, flip_weight=flip_weight)
    assert list(got.shape) == [2, 6, 8 * up // down, 6 * up // down]
    want = naive_resample(x, w, FILTER, up, down, k // 2, groups, flip_weight)
    torch.testing.assert_close(got, want)
    for g, v in zip(torch.autograd.grad(got.square().sum(), [x, w]), torch.autograd.grad(want.square().sum(), [x, w]),
                    strict=True):
        torch.testing.assert_close(g, v)


def test_fma_broadcasts_and_differentiates_twice():
    a, b, c = [torch.randn(s, dtype=torch.double, requires_grad=True)
               for s in [(2, 3, 4, 4), (2, 3, 1, 1), (2, 1, 4, 4)]]
    torch.testing.assert_close(fma.fma(a, b, c), a * b + c)
    assert torch.autograd.gradgradcheck(fma.fma, (a, b, c))


def test_grid_sample_second_derivative_and_value():
    image = torch.randn(2, 3, 5, 6, dtype=torch.double, requires_grad=True)
    grid = torch.rand(2, 4, 4, 2, dtype=torch.double) * 2.4 - 1.2
    fn = lambda image: grid_sample_gradfix.grid_sample(image, grid)
    torch.testing.assert_close(fn(image), F.grid_sample(image, grid, align_corners=False))
    assert torch.autograd.gradcheck(fn, image)
    assert torch.autograd.gradgradcheck(fn, image)


def test_grid_sample_identity_grid_gives_the_image():
    image = torch.randn(1, 2, 4, 4)
    grid = F.affine_grid(torch.eye(3)[None, :2], [1, 2, 4, 4], align_corners=False)
    torch.testing.assert_close(grid_sample_gradfix.grid_sample(image, grid), image)


def test_grid_sample_refuses_a_second_derivative_through_the_grid():
    image, grid = torch.randn(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 2, 2, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match='no second derivative where grid requires a gradient'):
        torch.autograd.grad(grid_sample_gradfix.grid_sample(image, grid).sum(), image, create_graph=True)
