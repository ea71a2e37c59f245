import itertools
import math
import types

import numpy as np
import pytest
import torch

from inference import projection_files
from inference.projection import Projection, learning_rate, noise_regularization, w_noise_scale, w_statistics
from training.networks import Generator


@pytest.mark.parametrize('progress, rate', [
    (0, 0), (0.025, 0.05), (0.05, 0.1), (0.4, 0.1), (0.75, 0.1), (0.875, 0.05), (0.75 + 0.25 / 3, 0.075), (1, 0)])
def test_learning_rate(progress, rate):
    """1/3 into the fall the half cosine (1 + cos(60 degrees)) / 2 is at 3/4."""
    assert learning_rate(progress) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize('progress, scale', [(0, 0.05), (0.375, 0.0125), (0.6, 0.05 * 0.04), (0.75, 0), (1, 0)])
def test_noise_on_w(progress, scale):
    assert w_noise_scale(progress) == pytest.approx(scale, abs=1e-12)


def neighbour_products(noise):
    """Pixel by pixel, for one map as a numpy array."""
    total, size = 0.0, len(noise)
    while True:
        cells = list(itertools.product(range(size), repeat=2))
        total += (sum(noise[y, x] * noise[y, x - 1] for y, x in cells) / size ** 2) ** 2
        total += (sum(noise[y, x] * noise[y - 1, x] for y, x in cells) / size ** 2) ** 2
        if size <= 8:
            return total
        size //= 2
        noise = np.array([[noise[2 * y:2 * y + 2, 2 * x:2 * x + 2].sum() / 2 for x in range(size)]
                          for y in range(size)])


def test_noise_regularization_pixel_by_pixel():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=[2, 1, size, size]) for size in (4, 8, 16, 32)]
    want = [sum(neighbour_products(noise[i, 0]) for noise in maps) for i in range(2)]
    torch.testing.assert_close(noise_regularization([torch.from_numpy(noise) for noise in maps]),
                               torch.tensor(want, dtype=torch.float64))


def test_noise_regularization_of_patterns():
    """A constant 1 has neighbour products 1 at 16x16 and, doubled to 2, 4 at 8x8; a chessboard has -1 and cancels out
    at 8x8."""
    constant = torch.ones([1, 1, 16, 16])
    chessboard = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert noise_regularization([constant]).item() == 2 * (1 + 16)
    assert noise_regularization([chessboard[None, None]]).item() == 2


def test_noise_regularization_of_noise():
    """Products of independent neighbours have mean 0 and variance 1, so each mean of R * R has the square 1 / R^2, at
    every scale. The values have a deviation of about 0.04: the tolerance is five standard errors of 4000 maps."""
    noise = torch.randn([4000, 1, 16, 16], generator=torch.Generator().manual_seed(0))
    assert noise_regularization([noise]).mean().item() == pytest.approx(2 / 16 ** 2 + 2 / 8 ** 2,
                                                                        abs=5 * 0.04 / 4000 ** 0.5)


def test_statistics_of_w():
    """w = 3 + 2 z in four dimensions: mean 3, root mean square distance 2 * sqrt(4). Tolerances: five standard errors
    of 10000 samples."""
    fake = types.SimpleNamespace(z_dim=4, parameters=lambda: iter([torch.zeros(1)]),
                                 mapping=lambda z, c: (3 + 2 * z)[:, None].repeat(1, 5, 1))
    mean, deviation = w_statistics(fake, None, seed=0)
    assert mean.shape == (4,) and (mean - 3).abs().max() < 5 * 2 / 100
    assert deviation == pytest.approx(4, abs=5 * 4 / math.sqrt(2 * 4 * 10000))


@pytest.fixture(scope='module')
def G():
    torch.manual_seed(0)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
                  synthesis_kwargs=dict(channel_base=128, channel_max=16))
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(0.03)
        if 'torgb' in name:
            parameter.data.mul_(0.2)                # images within the range of pixels
    return G.eval().requires_grad_(False)


def quadratic():
    """Random projections of the pixels: the distance is a quadratic form."""
    matrix = torch.randn([3 * 16 * 16, 64], generator=torch.Generator().manual_seed(1)) / 16
    return lambda img: img.flatten(1) @ matrix


def generated(G, n):
    """Images of G as uint8; their latents are in reach."""
    img = G.synthesis(G.mapping(torch.randn([n, 8], generator=torch.Generator().manual_seed(2)), None),
                      noise_mode='const')
    return ((img + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def run(projection, steps):
    for _ in range(steps):
        projection.advance()
    return projection


def test_finds_generated_images_in_w(G):
    projection = Projection(G, generated(G, 2), quadratic(), num_steps=60)
    first = projection.advance()
    results = run(projection, 59).results()
    for what in ('projection', 'with_noise_maps'):
        assert (results[what][1] < 0.2 * results['mean'][1]).all() and (results[what][1] < 0.2 * first).all()
        assert (results[what][2] < 0.3 * results['mean'][2]).all()


def test_measures_what_it_says(G):
    """Distance and pixel error of the mean's image, computed again."""
    targets, features = generated(G, 2), quadratic()
    projection = Projection(G, targets, features, num_steps=3)
    img, distances, errors = projection.results()['mean']
    torch.testing.assert_close(img[1], G.synthesis(projection.w_mean.repeat(1, G.num_ws, 1), noise_mode='const')[0])
    wanted = targets.double() / 127.5 - 1
    torch.testing.assert_close(distances, ((features(img) - features(wanted.float())) ** 2).sum(1))
    torch.testing.assert_close(errors.double(), ((img.double() - wanted) ** 2).mean([1, 2, 3]))


def test_w_is_one_latent_and_w_plus_one_per_layer(G):
    targets = torch.randint(256, [1, 3, 16, 16], generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    found = {space: run(Projection(G, targets, quadratic(), space=space, num_steps=24), 24) for space in ('w', 'w+')}
    assert found['w'].w.shape == (1, 1, 8) and found['w+'].w.shape == (1, G.num_ws, 8)
    ws = {space: projection.ws()[0] for space, projection in found.items()}
    assert (ws['w'] == ws['w'][0]).all()
    assert all((ws['w+'][i] != ws['w+'][j]).all() for i, j in itertools.combinations(range(G.num_ws), 2))
    assert found['w+'].results()['projection'][1] < found['w'].results()['projection'][1]


def test_the_pixel_term_brings_pixels_closer(G):
    blind = lambda img: img.mean(dim=[1, 2, 3])[:, None]            # sees the brightness alone
    errors = [run(Projection(G, generated(G, 1), blind, num_steps=30, pixel_weight=weight),
                  30).results()['projection'][2] for weight in (0, 10)]
    assert errors[1] < 0.5 * errors[0]


def test_a_target_does_not_depend_on_the_others(G):
    targets = generated(G, 3)
    together = run(Projection(G, targets, quadratic(), num_steps=10), 10)
    pair = run(Projection(G, targets[1:], quadratic(), num_steps=10), 10)
    # rounding, through ten steps of Adam
    torch.testing.assert_close(pair.w, together.w[1:], rtol=0, atol=1e-3)
    assert (together.w[0] - together.w[1]).abs().max() > 0.05


def test_noise_maps_stay_normalized_and_change(G):
    projection = Projection(G, generated(G, 2), quadratic(), num_steps=20)
    before = {name: noise.detach().clone() for name, noise in projection.noise.items()}
    assert ({noise.shape for noise in before.values()} == {(2, 1, size, size) for size in (4, 8, 16)}
            and len(before) == 5)
    run(projection, 3)
    for name, noise in projection.noise.items():
        assert (noise.mean(dim=[1, 2, 3]).abs().max() < 1e-5
                and (noise.var(dim=[1, 2, 3], correction=0) - 1).abs().max() < 1e-4)
        assert (noise != before[name]).any()


def test_w_is_disturbed_less_and_less(G, monkeypatch):
    """By fresh noise of the stated deviation, until three quarters. 0.2 is five standard errors of the deviation of 6 *
    8 * 7 numbers."""
    projection = Projection(G, generated(G, 1), quadratic(), space='w+', num_steps=40)
    seen = []
    monkeypatch.setattr(projection, 'synthesize', lambda w, noise: (seen.append(w.detach() - projection.w.detach()),
                                                                    G.synthesis(w))[1])
    for _ in range(40):
        projection.advance()
    scales = [projection.w_std * w_noise_scale(step / 40) for step in range(28)]
    normal = torch.stack([noise / scale for noise, scale in zip(seen, scales, strict=False)])
    assert all(part.std().item() == pytest.approx(1, abs=0.2) for part in normal.split(7))
    assert (normal[1:] - normal[:-1]).abs().amax(dim=[1, 2, 3]).min() > 1
    assert all((noise == 0).all() for noise in seen[30:])


def test_the_regularization_is_in_the_loss(G):
    """Of noise that starts as a ramp, the search removes most of what neighbours have in common, where the image does
    not depend on it."""
    projection = Projection(G, generated(G, 1), lambda img: img.flatten(1)[:, :1] * 0, num_steps=60)
    ramp = torch.linspace(-1.7, 1.7, 16).expand(1, 1, 16, 16)
    name = 'b16.conv1.noise_const'
    with torch.no_grad():
        projection.noise[name].copy_(ramp + 0.1 * projection.noise[name])
    before = noise_regularization([projection.noise[name]]).item()
    assert noise_regularization([run(projection, 60).noise[name]]).item() < 0.01 * before


def test_the_first_step_rests_and_the_seed_matters(G):
    """The learning rate starts at 0."""
    projections = [Projection(G, generated(G, 1), quadratic(), num_steps=10, seed=seed) for seed in (0, 0, 1)]
    start = projections[0].w.detach().clone()
    assert (run(projections[0], 1).w == start).all()
    assert (run(projections[0], 1).w != start).all()
    assert (run(projections[1], 2).w == projections[0].w).all() and (run(projections[2], 2).w != projections[0].w).any()


@pytest.mark.parametrize('space', ['w', 'w+'])
def test_resume_is_exact(G, tmp_path, space):
    make = lambda: Projection(G, generated(G, 2), quadratic(), space=space, num_steps=12, pixel_weight=0.5)
    whole, half = run(make(), 12), run(make(), 7)
    projection_files.save_state(str(tmp_path), dict(space=space), 4, half)
    first, state, _threads = projection_files.load_state(str(tmp_path), dict(space=space))
    again = make()
    again.load_state_dict(state)
    assert first == 4 and again.step == 7
    run(again, 5)
    assert (torch.equal(again.w, whole.w)
            and all(torch.equal(again.noise[name], noise) for name, noise in whole.noise.items()))
    assert (len(again.history) == 12
            and all(torch.equal(a, b) for a, b in zip(again.history, whole.history, strict=True)))


def test_the_history_is_bounded(G):
    projection = Projection(G, generated(G, 1), quadratic(), num_steps=1000)
    run(projection, 11)
    assert len(projection.history) == 3                             # steps 0, 5 and 10: at most 240 in all
