import numpy as np
import pytest
import scipy.signal
import torch

from torch_utils.ops import upfirdn2d as op

FILTERS = {'taps4': op.setup_filter([1, 3, 3, 1]), 'taps12': op.setup_filter(np.arange(1, 13)),
           'box2': op.setup_filter([1, 1]), 'asymmetric3x5': op.setup_filter(np.arange(15).reshape(3, 5) + 1.0),
           'none': None}
CASES = [dict(up=2, padding=[12, 11, 13, 12]), dict(down=2, padding=12), dict(up=3, down=2, padding=[12, 14, 11, 13]),
         dict(padding=[14, 15, 13, -1]), dict(up=[1, 2], down=[2, 1], padding=[12, 11], flip_filter=True, gain=-1.5),
         dict(up=4, padding=[-3, 25, 20, -2])]


def by_the_definition(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    """scipy's 2D convolution on zero-stuffed, padded arrays, in float64."""
    upx, upy = (up, up) if isinstance(up, int) else up
    downx, downy = (down, down) if isinstance(down, int) else down
    left, right, top, bottom = op.parse_padding(padding)
    f = np.ones([1, 1]) if f is None else f.double().numpy()
    f = np.outer(f, f) if f.ndim == 1 else f
    f = f[::-1, ::-1] if flip_filter else f
    x = x.detach().double().numpy()
    stuffed = np.zeros([*x.shape[:2], x.shape[2] * upy, x.shape[3] * upx])
    stuffed[:, :, ::upy, ::upx] = x
    pad = lambda p: max(p, 0)
    stuffed = np.pad(stuffed, [(0, 0), (0, 0), (pad(top), pad(bottom)), (pad(left), pad(right))])
    crop = lambda a, b: slice(pad(-a), -pad(-b) or None)
    stuffed = stuffed[:, :, crop(top, bottom), crop(left, right)]
    out = np.stack([[scipy.signal.convolve2d(plane, f, mode='valid') for plane in sample] for sample in stuffed])
    return torch.from_numpy(out[:, :, ::downy, ::downx] * gain)


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('name', FILTERS)
def test_equals_scipy(name, case):
    x = torch.randn(2, 3, 7, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    want = by_the_definition(x, FILTERS[name], **case)
    torch.testing.assert_close(op.upfirdn2d(x, FILTERS[name], **case), want)
    torch.testing.assert_close(op.upfirdn2d(x, FILTERS[name], impl='ref', **case), want)


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('name', ['taps4', 'taps12', 'asymmetric3x5'])
def test_gradients(name, case):
    x = torch.randn(1, 1, 4, 3, dtype=torch.double, requires_grad=True)         # a numeric derivative for each result
    fn = lambda x: op.upfirdn2d(x, FILTERS[name], **case)
    assert torch.autograd.gradcheck(fn, x)
    assert torch.autograd.gradgradcheck(fn, x)


def test_a_crop_may_reach_into_inserted_zeros():
    """The only pixel is cropped away, three inserted zeros stay; the derivative crops beyond its image."""
    x = torch.ones(1, 1, 1, 1, dtype=torch.double, requires_grad=True)
    for impl in ('auto', 'ref'):
        y = op.upfirdn2d(x, None, up=4, padding=[-2, 0, 0, 0], impl=impl)
        assert y.abs().sum() == 0 and list(y.shape) == [1, 1, 4, 2]
        assert torch.autograd.grad(y.sum(), x)[0].item() == 0


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('args', [(2, 2, 1, 1, 2, 1, 2, 1), (1, 1, 2, 2, 1, 1, 1, 1), (1, 1, 1, 1, 2, 1, 2, 1)])
def test_opcheck(args, layout):
    x = torch.randn(2, 3, 6, 5).contiguous(memory_format=layout).requires_grad_(True)
    torch.library.opcheck(torch.ops.kdgan.upfirdn2d.default, (x, FILTERS['taps4'], *args, False, 1.0))


@pytest.mark.parametrize('taps', [[1, 3, 3, 1], [1, 1], [1] * 12])
def test_shorthands_keep_a_constant_image_and_its_size(taps):
    """Away from the border a normalised filter whose even and odd taps weigh the same does not change a constant."""
    f = op.setup_filter(taps)
    x = torch.ones(1, 1, 40, 40)
    for fn, size in [(op.filter2d, 40), (op.upsample2d, 80), (op.downsample2d, 20)]:
        y = fn(x, f)
        assert list(y.shape) == [1, 1, size, size]
        middle = y[:, :, size // 2 - 2:size // 2 + 2, size // 2 - 2:size // 2 + 2]
        torch.testing.assert_close(middle, torch.ones_like(middle))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision(dtype):
    x = torch.randn(1, 2, 9, 8).to(dtype)
    y = op.upsample2d(x, FILTERS['taps4'])
    assert y.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps          # sums of four products of numbers below 4
    torch.testing.assert_close(y.double(), op.upsample2d(x.double(), FILTERS['taps4']), rtol=tolerance, atol=tolerance)


def test_setup_filter():
    torch.testing.assert_close(op.setup_filter([1, 2, 1]), torch.tensor([[1., 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)
    assert op.setup_filter(np.ones(8)).shape == (8,)
    assert op.setup_filter([1, 3], gain=4).sum() == pytest.approx(4)
    assert op.setup_filter(np.ones(8), gain=4).sum() == pytest.approx(2)       # applied once per direction
    assert op.setup_filter(None).tolist() == [[1]]
    assert op.setup_filter([1, 3], separable=True, flip_filter=True).tolist() == [0.75, 0.25]


@pytest.mark.parametrize('call, error, message', [
    (lambda x: op.upfirdn2d(x, FILTERS['taps4']), ValueError, 'the padded image is 3x3, smaller than the filter, '
                                                              'which is 4x4'),
    (lambda x: op.upfirdn2d(x.long(), None), TypeError, 'x is torch.int64 of shape'),
    (lambda x: op.upfirdn2d(x[0], None), ValueError, r'x has shape \[1, 3, 3\], it must be'),
    (lambda x: op.upfirdn2d(x[:, :, :0], None), ValueError, r'x has shape \[1, 1, 0, 3\], it must be'),
    (lambda x: op.upfirdn2d(x, None, padding=-2), ValueError, 'the padded image is -1x-1, smaller than the filter'),
    (lambda x: op.upfirdn2d(x, None, padding=[0, 2 ** 30, 0, 0]), ValueError,
     'the padded image is 1073741827x3, the largest extent is 1073741824'),
    (lambda x: op.upfirdn2d(x, None, padding=[2 ** 31 + 5, -2 ** 31, 0, 0]), ValueError,
     'the padded image is 2147483656x3, the largest extent is'),
    (lambda x: op.upfirdn2d(x, None, up=2 ** 30), ValueError, 'the padded image is 3221225472x3221225472, the largest '
                                                              'extent is'),
    (lambda x: op.upfirdn2d(x, None, down=[1, 2 ** 32]), ValueError,
     r'down is \[1, 4294967296\], it must be at most 1073741824'),
    (lambda x: op.upfirdn2d(x, None, impl='fast'), ValueError, "impl is 'fast', it must be one of auto, cuda, ref"),
    (lambda x: op.upfirdn2d(x, None, impl='cuda'), RuntimeError, "impl is 'cuda', x is on cpu"),
    (lambda x: op.upfirdn2d(x, FILTERS['box2'].double()), TypeError, 'f is torch.float64 on cpu, it must be float32'),
    (lambda x: op.upfirdn2d(x, torch.ones(65)), ValueError, r'f has shape \[65\].* 1 to 64 taps'),
    (lambda x: op.upfirdn2d(x, None, up=0), ValueError, 'up is 0, it must be an integer of at least 1'),
    (lambda x: op.upfirdn2d(x, None, padding=[1, 2, 3]), ValueError, r'padding is \[1, 2, 3\]'),
    (lambda x: op.setup_filter([]), ValueError, r'f has shape \[0\]'),
    (lambda x: op.setup_filter(np.ones([2, 2]), separable=True), ValueError, 'a separable filter must be 1D')])
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(1, 1, 3, 3))
