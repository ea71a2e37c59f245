"""ADA's pipeline: presets, probabilities, derivatives, and that the host reads nothing."""

import pytest
import torch
from augment_images import noise_images
from torch.utils._python_dispatch import TorchDispatchMode

from dnnlib import UserError
from training.augment import AugmentPipe, augpipe_specs


def linear(preset='bgcfnc', seed=3):
    """The pipeline with fixed random numbers, as a function of the images."""
    pipe = AugmentPipe(**augpipe_specs[preset])
    pipe.p.fill_(0.7)

    def run(images):
        torch.manual_seed(seed)
        return pipe(images)
    return run


# ---------------------------------------------------------------------------
# The pipeline.

@pytest.mark.parametrize('preset', augpipe_specs)
def test_presets_run(preset):
    pipe = AugmentPipe(**augpipe_specs[preset])
    torch.manual_seed(0)
    images = noise_images(3, 3, 24, 28)
    got = pipe(images)
    assert got.shape == images.shape and got.dtype == torch.float32 and got.isfinite().all()
    assert (got - images).abs().amax([1, 2, 3]).max() > 0.01


def test_presets_are_unions():
    """b = blit, g = geom, c = color, f = filter, n = noise, second c = cutout."""
    parts = ['blit', 'geom', 'color', 'filter', 'noise', 'cutout']
    for count, name in [(2, 'bg'), (3, 'bgc'), (4, 'bgcf'), (5, 'bgcfn'), (6, 'bgcfnc')]:
        assert augpipe_specs[name] == {key: 1 for part in parts[:count] for key in augpipe_specs[part]}


def test_p_zero_is_near_identity():
    """Only the resampling and the filter bank run, both of which reconstruct an image up to rounding."""
    pipe = AugmentPipe(**augpipe_specs['bgcfnc'])
    pipe.p.zero_()
    images = noise_images(4, 3, 64, 64)
    torch.testing.assert_close(pipe(images), images, rtol=0, atol=1e-4)


# A flip may be none, a shift may round to zero; everything else changes the image for certain
CHANGED_WHEN_ACTIVE = dict(
    xflip=1 / 2, rotate90=3 / 4, xint=1 - 1 / 36, scale=1, rotate=1, aniso=1, xfrac=1,
    brightness=1, contrast=1, lumaflip=1 / 2, hue=1, saturation=1, noise=1, cutout=1)


@pytest.mark.parametrize('name', CHANGED_WHEN_ACTIVE)
def test_probability(name):
    """A transform takes effect with probability p times its multiplier: also rotation, which has two chances."""
    torch.manual_seed(0)
    n = 1500
    images = noise_images(1, 3, 6, 6).expand(n, -1, -1, -1)
    pipe = AugmentPipe(**{name: 0.6}, xint_max=0.5)
    pipe.p.fill_(0.5)
    changed = ((pipe(images) - images).abs().amax([1, 2, 3]) > 1e-3).float().mean().item()
    # 4 sigma, and values too small to show
    assert changed == pytest.approx(0.3 * CHANGED_WHEN_ACTIVE[name], abs=0.055)


def test_probability_of_each_band():
    torch.manual_seed(0)
    n = 600
    pipe = AugmentPipe(imgfilter=0.8, imgfilter_bands=[0, 1, 0, 0.5])
    pipe.p.fill_(0.5)
    images = noise_images(1, 1, 22, 22).expand(n, -1, -1, -1)
    changed = ((pipe(images) - images).abs().amax([1, 2, 3]) > 1e-3).float().mean().item()
    assert changed == pytest.approx(1 - (1 - 0.4) * (1 - 0.2), abs=0.09)


def test_images_are_transformed_independently():
    torch.manual_seed(0)
    images = noise_images(1, 3, 24, 24).expand(4, -1, -1, -1)
    got = AugmentPipe(**augpipe_specs['bgc'])(images)
    assert all((got[i] - got[j]).abs().max() > 0.01 for i in range(4) for j in range(i))


def test_same_seed_same_result():
    run, images = linear(), noise_images(2, 3, 24, 24)
    assert torch.equal(run(images), run(images))
    assert not torch.equal(run(images), linear(seed=4)(images))


def test_channels_last_images():
    run, images = linear(), noise_images(2, 3, 24, 30)
    torch.testing.assert_close(run(images.contiguous(memory_format=torch.channels_last)), run(images),
                               rtol=0, atol=1e-4)


def test_state_dict():
    state = AugmentPipe(**augpipe_specs['bgcfnc']).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == {'p': [], 'Hz_geom': [12], 'Hz_fbank': [4, 43]}
    assert state['p'] == 1


# ---------------------------------------------------------------------------
# Derivatives.

def test_derivatives_of_first_and_second_order():
    """The pipeline is affine, A x + b: its gradient is the adjoint of A, wherever it is taken, and the derivative of
    that is A again."""
    run = linear()
    x, v, dy = (noise_images(2, 3, 24, 24, seed=seed) for seed in range(3))
    a_v = run(x + v) - run(x)
    dy.requires_grad_()
    for at in (x, x + v):
        at = at.clone().requires_grad_()
        grad, = torch.autograd.grad(run(at), at, dy, create_graph=True)
        assert (grad * v).sum().item() == pytest.approx((dy * a_v).sum().item(), rel=1e-4, abs=1e-3)
        second, = torch.autograd.grad((grad * v).sum(), dy)
        torch.testing.assert_close(second, a_v, rtol=1e-4, atol=1e-4)


def test_gradient_penalty_through_the_pipeline():
    """R1 with the critic D(y) = |y|^2 / 2: the penalty |A^T y|^2 of y = A x + b has the gradient 2 A^T A A^T y."""
    run = linear(preset='bgcf')
    x, zero = noise_images(2, 3, 24, 24).requires_grad_(), torch.zeros(2, 3, 24, 24, requires_grad=True)
    y = run(x)
    grad, = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)
    got, = torch.autograd.grad(grad.square().sum(), x)

    def adjoint(dy):
        return torch.autograd.grad(run(zero), zero, dy)[0]
    step = adjoint(y.detach())
    want = 2 * adjoint(run(step) - run(torch.zeros_like(step)))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


# ---------------------------------------------------------------------------
# No synchronisation, and errors.

class OnlyMeta(TorchDispatchMode):
    """Fails where an operator takes or makes a tensor off the meta device: data would have to travel between host and
    device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device.type == 'meta', f'{func} on {value.device}'
        return result


@pytest.mark.parametrize('kwargs', [{}, {'debug_percentile': 0.7}])
def test_no_host_synchronisation(kwargs):
    """Meta tensors have no values: reading one on the host raises, and so does a constant that is copied to the
    device."""
    pipe = AugmentPipe(**augpipe_specs['bgcfnc']).to('meta')
    images = torch.empty(4, 3, 32, 40, device='meta', requires_grad=True)
    dy = torch.empty(4, 3, 32, 40, device='meta', requires_grad=True)
    with OnlyMeta():
        grad, = torch.autograd.grad(pipe(images, **kwargs), images, dy, create_graph=True)
        second, = torch.autograd.grad(grad.sum(), dy)
    assert second.shape == images.shape


@pytest.mark.parametrize(('images', 'message'), [
    (torch.zeros(3, 8, 8), r'float32 of shape \[3, 8, 8\].*\[N, C, H, W\]'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r'uint8.*float32'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.float64), r'float64.*float32'),
])
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        AugmentPipe(**augpipe_specs['bgc'])(images)


def test_wrong_options():
    with pytest.raises(ValueError, match='2 channels.*1 or 3'):
        AugmentPipe(brightness=1)(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match='debug_percentile is 1.0'):
        AugmentPipe(brightness=1)(torch.zeros(1, 3, 8, 8), 1.0)
    with pytest.raises(ValueError, match='imgfilter_bands is .1, 1.*4 numbers'):
        AugmentPipe(imgfilter=1, imgfilter_bands=[1, 1])


def test_images_too_small_for_the_filter():
    pipe = AugmentPipe(**augpipe_specs['bgcf'])
    with pytest.raises(UserError, match='32x21.*bgcf.*at least 22x22.*--augpipe=bgc'):
        pipe(torch.zeros(1, 3, 21, 32))
    pipe(torch.zeros(1, 3, 22, 32))
