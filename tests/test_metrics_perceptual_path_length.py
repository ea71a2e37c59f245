"""metrics/perceptual_path_length.py: lengths that are known exactly, slerp, what is left out, and what a path is made
of."""

import math

import numpy as np
import pytest
import torch

from metrics import perceptual_path_length as ppl
from metrics.detectors import Detector
from metrics.metric_utils import MetricOptions
from training.networks import Generator

DIM = 48                            # of z and of w; images are 3x4x4 pixels


class LinearGenerator(torch.nn.Module):
    """The mapping is z itself; the image is a linear map of w, plus noise of its own for each image."""
    z_dim, c_dim, img_resolution = DIM, 0, 4

    def __init__(self, matrix=None, noise=0.0):
        super().__init__()
        self.matrix, self.noise = torch.eye(DIM) if matrix is None else matrix, noise

    def mapping(self, z, c):
        return z[:, None].repeat(1, 2, 1)

    def synthesis(self, ws, noise_mode, force_fp32):
        assert noise_mode == 'random' and force_fp32 and ws.dtype == torch.float32
        img = ws.mean(dim=1) @ self.matrix.T
        return (img + torch.randn(img.shape) * self.noise).reshape(-1, 3, 4, 4)


def options(G, network=lambda img: img.flatten(1) / 127.5, labels=None, **kwargs):
    opts = MetricOptions(G.eval(), {}, Detector('pixels', 'pixels', None, 'none', network), torch.device('cpu'),
                         progress=False, **kwargs)
    if labels is not None:
        opts.labels = labels
    return opts


def latents(opts, num):
    """The two ends of each path."""
    return [torch.stack([row for i in range(num) for row in ppl.draws.latents(opts, range(i, i + 1), what)]).double()
            for what in ('latents', 'second latents')]


def test_paths_in_w_of_a_linear_generator():
    """G(w) = A w and d = |.|^2 of pixels: every step is A (w1 - w0) times its share of the way, wherever it starts."""
    matrix = torch.from_numpy(np.random.RandomState(0).standard_normal([DIM, DIM]).astype(np.float32))
    opts = options(LinearGenerator(matrix))
    a, b = latents(opts, 70)
    want = ((b - a) @ matrix.double().T).square().sum(dim=1)
    for sampling in ('end', 'full'):
        got = ppl.path_lengths(opts, 70, 'w', sampling, crop=False).double()
        torch.testing.assert_close(got, want, rtol=5e-3, atol=0)            # steps of 1e-4 in pixels of float32
        assert (got / want - 1).mean().abs() < 1e-3                         # and no bias


def test_large_images_are_few_at_a_time():
    opts, sizes = options(LinearGenerator()), []
    want = ppl.path_lengths(opts, 10, 'w', 'end', crop=False)
    opts.G.img_resolution, synthesis = 1024, opts.G.synthesis
    opts.G.synthesis = lambda ws, **kwargs: sizes.append(len(ws)) or synthesis(ws, **kwargs)
    torch.testing.assert_close(ppl.path_lengths(opts, 10, 'w', 'end', crop=False), want)
    assert sizes == [2] * 10


@pytest.mark.parametrize('sampling', ['end', 'full'])
def test_paths_in_z_follow_the_great_circle(sampling):
    """An orthogonal generator moves at constant speed on a circle of radius sqrt(D): angle * sqrt(D)."""
    opts = options(LinearGenerator(torch.linalg.qr(torch.randn([DIM, DIM],
                                                               generator=torch.Generator().manual_seed(0)))[0]))
    a, b = latents(opts, 70)
    angle = torch.nn.functional.cosine_similarity(a, b).acos()
    torch.testing.assert_close(ppl.path_lengths(opts, 70, 'z', sampling, crop=False).double(), angle.square() * DIM,
                               rtol=5e-3, atol=0)


@pytest.mark.parametrize('sampling', ['end', 'full'])
def test_a_network_that_is_not_linear(sampling):
    """Features f = x^2 / 2 of pixels x = w(t): |df/dt|^2 = sum (w (w1 - w0))^2, which tells where on the way a step
    is."""
    opts = options(LinearGenerator(), lambda img: (img / 127.5 - 1).flatten(1).square() / 2)
    a, b = latents(opts, 50)
    t = ppl.places(opts, range(50))[:, None]
    assert t.min() < 0.1 and t.max() > 0.9
    at = a if sampling == 'end' else a + t * (b - a)
    torch.testing.assert_close(ppl.path_lengths(opts, 50, 'w', sampling, crop=False).double(),
                               (at * (b - a)).square().sum(dim=1), rtol=1e-2, atol=0)


def test_noise_is_the_same_at_both_ends():
    """Other noise would add about 2 D / EPSILON^2 = 1e10; it differs between paths."""
    calm, noisy = [ppl.path_lengths(options(LinearGenerator(noise=noise)), 20, 'w', 'end', crop=False)
                   for noise in (0, 1.0)]
    torch.testing.assert_close(calm, noisy, rtol=2e-2, atol=0)
    images = ppl._ends(options(LinearGenerator(0 * torch.eye(DIM), noise=1.0)), range(3), 'w', 'end')
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0][0], images[0][1])


def test_paths_do_not_depend_on_the_batches():
    torch.manual_seed(0)
    whole = ppl.path_lengths(options(LinearGenerator()), 21, 'z', 'full', crop=False)
    state = torch.get_rng_state()
    for batch_size in (1, 4, 64):
        torch.testing.assert_close(ppl.path_lengths(options(LinearGenerator(), batch_size=batch_size), 21, 'z', 'full',
                                                    crop=False), whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(ppl.path_lengths(options(LinearGenerator(), seed=1), 21, 'z', 'full', crop=False), whole)


def test_several_processes_share_the_work(monkeypatch):
    """The shares of three processes add up to what one computes."""
    whole = ppl.path_lengths(options(LinearGenerator(), batch_size=4), 18, 'w', 'full', crop=False)
    parts = []
    monkeypatch.setattr(ppl.distributed, 'get_world_size', lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(ppl.distributed, 'get_rank', lambda rank=rank: rank)
        parts.append(ppl.path_lengths(options(LinearGenerator(), batch_size=4), 18, 'w', 'full', crop=False))
    assert [int((part > 0).sum()) for part in parts] == [8, 6, 4] and torch.equal(sum(parts), whole)


def test_the_generator_works_without_tf32():
    G, matmul, seen = LinearGenerator(), torch.backends.cuda.matmul, []
    G.mapping = lambda z, c: (seen.append(matmul.allow_tf32), z[:, None])[1]
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        ppl.path_lengths(options(G), 3, 'z', 'end', crop=False)
        assert seen == [False, False] and matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before


def test_slerp():
    a, b = torch.randn([2, 9, 20], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit = lambda x: x / x.norm(dim=1, keepdim=True)
    at = lambda t: ppl.slerp(a, b, torch.full([9], t, dtype=torch.float64)) / math.sqrt(20)
    theta = (unit(a) * unit(b)).sum(dim=1).acos()[:, None]
    torch.testing.assert_close(at(0.0), unit(a))
    torch.testing.assert_close(at(1.0), unit(b))
    torch.testing.assert_close(at(0.5), unit(unit(a) + unit(b)))
    for t in (0.1, 0.7):
        shoemake = (((1 - t) * theta).sin() * unit(a) + (t * theta).sin() * unit(b)) / theta.sin()
        torch.testing.assert_close(at(t), shoemake)
        torch.testing.assert_close(at(t).norm(dim=1), torch.ones([9], dtype=torch.float64))
        torch.testing.assert_close(ppl.slerp(b, a, torch.full([9], 1 - t)) / math.sqrt(20), at(t), rtol=1e-6, atol=1e-6)
    # No angle at all
    torch.testing.assert_close(ppl.slerp(a, 3 * a, torch.full([9], 0.3)) / math.sqrt(20), unit(a))


@pytest.mark.parametrize('num', [1, 2, 50, 99, 100, 101, 102, 250, 1000, 1001])
def test_what_is_left_out(num):
    """By counting: as many of the lowest and of the highest as there are whole numbers below (num - 1) / 100."""
    values = torch.randperm(num, generator=torch.Generator().manual_seed(num)).double()
    cut = (num - 1) // 100
    assert sorted(ppl.trim(values).tolist()) == list(range(cut, num - cut))


def test_equal_values_are_all_kept():
    assert ppl.trim(torch.cat([torch.zeros(500), torch.ones(500)])).mean() == 0.5


def test_crop_and_size():
    """The crop is of a face's middle; large images are averaged to 256 pixels by a factor that the crop does not
    change."""
    img = torch.randn([1, 1, 512, 512], dtype=torch.float64)
    small = img.reshape(1, 1, 256, 2, 256, 2).mean(dim=[3, 5])
    torch.testing.assert_close(ppl._prepare(img, crop=False), (small + 1) * 127.5)
    torch.testing.assert_close(ppl._prepare(img, crop=True), (small[:, :, 96:224, 64:192] + 1) * 127.5)
    assert torch.equal(ppl._prepare(small, crop=True), (small[:, :, 96:224, 64:192] + 1) * 127.5)


def test_the_value_and_its_protocol():
    opts = options(LinearGenerator())
    lengths = ppl.path_lengths(opts, 250, 'w', 'end', crop=False).double().sort().values[2:-2]
    result = ppl.compute_ppl(opts, 250, **ppl.VARIANTS['ppl2_wend'])
    assert result['value'] == pytest.approx(float(lengths.mean()), rel=1e-12)
    assert result['standard_error'] == pytest.approx(float(lengths.std(correction=0)) / math.sqrt(246), rel=1e-12)
    assert result['generated'] == dict(images=500, paths=250, space='w', sampling='end', crop='none', epsilon=1e-4,
                                       max_size=256, rounding='none')
    assert math.isnan(ppl.compute_ppl(options(LinearGenerator(torch.eye(DIM) * math.nan)), 5, 'w', 'end',
                                      False)['value'])


@pytest.mark.parametrize('space', ['z', 'w'])
def test_truncation(space):
    """Towards an average of 0 with psi 1/2, all steps of a linear generator have half the length: a quarter of the
    square."""
    G = LinearGenerator()
    plain = ppl.path_lengths(options(G), 20, space, 'full', crop=False)
    G.mapping = lambda z, c, truncation_psi: z[:, None] * truncation_psi
    opts = options(G, truncation_psi=0.5)
    torch.testing.assert_close(ppl.path_lengths(opts, 20, space, 'full', crop=False), plain / 4, rtol=1e-2, atol=0)


class Labels:
    """Three images: two of class 0, one of class 1."""

    def __len__(self):
        return 3

    def get_label(self, item):
        return np.array([[1, 0], [1, 0], [0, 1]][item], dtype=np.float32)


@pytest.fixture(scope='module')
def generator():
    """A small StyleGAN2 with two classes; its noise has strength 0."""
    torch.manual_seed(0)
    return Generator(z_dim=8, c_dim=2, w_dim=8, img_resolution=32, img_channels=1, mapping_kwargs=dict(num_layers=2),
                     synthesis_kwargs=dict(channel_base=128, channel_max=16)).eval().requires_grad_(False)


def test_stylegan2_against_its_derivative(generator):
    """The length of a short step is that of the derivative along it; one grey channel counts as three."""
    opts = options(generator, labels=Labels(), batch_size=3)
    z0, z1 = latents(opts, 7)
    c = ppl.draws.labels(opts, range(7))
    assert sorted(set(c[:, 0].tolist())) == [0, 1]
    w0, w1 = [generator.mapping(z.float(), c) for z in (z0, z1)]
    _, step = torch.autograd.functional.jvp(lambda ws: generator.synthesis(ws, noise_mode='none'), w0, w1 - w0)
    got = ppl.path_lengths(opts, 7, **ppl.VARIANTS['ppl2_wend'])
    torch.testing.assert_close(got, 3 * step.square().sum(dim=[1, 2, 3]), rtol=2e-2, atol=0)
    got = ppl.path_lengths(opts, 7, **ppl.VARIANTS['ppl_wend'])
    torch.testing.assert_close(got, 3 * step[:, :, 12:28, 8:24].square().sum(dim=[1, 2, 3]), rtol=2e-2, atol=0)


@pytest.mark.parametrize('variant', ppl.VARIANTS)
def test_every_variant_of_stylegan2(generator, variant):
    """Finite and of the size of the derivative, not of EPSILON^-2; G is left as it was."""
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    result = ppl.compute_ppl(options(generator, labels=Labels(), batch_size=3), 7, **ppl.VARIANTS[variant])
    assert 0 < result['value'] < 1e5
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
