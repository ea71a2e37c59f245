"""Interpolations against closed forms; the frames of walks against the generator called directly."""

import math

import numpy as np
import pytest
import torch
from small_generators import KWARGS

from inference import walk as latent_walk
from inference.walk import Walk, WalkFrames
from training.networks import Generator

F64 = torch.float64


def unit(degrees):
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=F64)


@pytest.mark.parametrize('angle', [1e-3, 30, 90, 179])
def test_slerp_turns_at_constant_speed(angle):
    for t in (0, 0.25, 0.5, 1):
        got = latent_walk.slerp(unit(10), unit(10 + angle), torch.tensor(t, dtype=F64))
        torch.testing.assert_close(got, unit(10 + t * angle), rtol=0, atol=1e-12)


def test_slerp_in_many_dimensions():
    """Lengths linearly, equal angles in equal times; vector by vector."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 16, dtype=F64)
    t = torch.linspace(0, 1, 9, dtype=F64)[:, None, None]
    path = latent_walk.slerp(a, b, t)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(path.norm(dim=2), torch.lerp(a.norm(dim=1), b.norm(dim=1), t[:, :, 0]))
    cosines = torch.nn.functional.cosine_similarity(path[1:], path[:-1], dim=2)
    angle = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=1))
    torch.testing.assert_close(torch.acos(cosines), (angle / 8).expand(8, 5))


def test_slerp_without_a_plane_of_rotation():
    a = torch.tensor([2.0, 0], dtype=F64)
    for b in ([4.0, 0], [2.0, 0], [-1.0, 0], [0.0, 0]):
        b = torch.tensor(b, dtype=F64)
        torch.testing.assert_close(latent_walk.slerp(a, b, torch.tensor(0.25, dtype=F64)), 0.75 * a + 0.25 * b)


def path_of(values, steps=8, **options):
    walk = Walk(torch.tensor(values, dtype=F64)[:, None], steps=steps, **options)
    return walk.at(range(walk.num_frames))[:, 0]


def test_spline_of_a_loop_has_the_closed_form():
    """1, 0, -1, 0, ...: the equations M[i-1] + 4 M[i] + M[i+1] = 6 (second differences) give M = -3, 0, 3, 0."""
    t = torch.arange(8, dtype=F64) / 8
    first = 1.5 * (1 - t) - 0.5 * (1 - t) ** 3
    quarter2 = -(1.5 * t - 0.5 * t ** 3)
    torch.testing.assert_close(path_of([1., 0, -1, 0], interpolation='spline'),
                               torch.cat([first, quarter2, -first, -quarter2]))


def test_spline_of_two_keyframes():
    t = torch.arange(8, dtype=F64) / 8
    ease = 3 * t ** 2 - 2 * t ** 3                 # the tangents vanish by symmetry: a Hermite cubic
    torch.testing.assert_close(path_of([2., 5], interpolation='spline'), torch.cat([2 + 3 * ease, 5 - 3 * ease]))
    torch.testing.assert_close(path_of([2., 5], interpolation='spline', loop=False),
                               2 + 3 * torch.arange(9, dtype=F64) / 8)


def test_spline_is_smooth_across_the_seam():
    """Second derivatives by finite differences are continuous everywhere; of a linear walk they are not."""
    values = np.random.default_rng(0).normal(size=5).tolist()
    for interpolation, smooth in (('spline', True), ('linear', False)):
        path = path_of(values, steps=1000, interpolation=interpolation).numpy()
        velocity = (np.roll(path, -1) - path) * 1000
        jump = np.abs(np.roll(velocity, -1) - velocity).max()
        assert (jump < 0.05) == smooth              # 1/1000 of an acceleration below 20, or a corner
        acceleration = (np.roll(velocity, -1) - velocity) * 1000
        assert (np.abs(np.roll(acceleration, -1) - acceleration).max() < 0.2) == smooth


@pytest.mark.parametrize('interpolation', latent_walk.INTERPOLATIONS)
@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('count', [1, 2, 5])
def test_walks_pass_through_their_keyframes(interpolation, loop, count):
    keys = torch.randn(count, 2, 3, 4, generator=torch.Generator().manual_seed(count), dtype=F64)
    walk = Walk(keys, interpolation, steps=6, loop=loop, center=torch.full([4], 0.5))
    assert walk.num_frames == (count * 6 if loop else (count - 1) * 6 + 1)
    path = walk.at(range(walk.num_frames))
    torch.testing.assert_close(path[::6], keys)
    # Frames do not depend on each other
    torch.testing.assert_close(walk.at([walk.num_frames - 1]), path[-1:])
    if loop:
        torch.testing.assert_close(walk.at([walk.num_frames]), keys[:1])


def test_spherical_walk_keeps_the_distance_from_the_center():
    center = torch.tensor([3.0, -1, 2], dtype=F64)
    keys = center + torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0),
                                                              dtype=F64), dim=1) * 2
    walk = Walk(keys, 'spherical', steps=10, center=center)
    torch.testing.assert_close((walk.at(range(40)) - center).norm(dim=1), torch.full([40], 2.0, dtype=F64))


def test_truncation_track():
    assert latent_walk.truncation_track([0.7], 4, True).tolist() == [0.7] * 4
    assert latent_walk.truncation_track([0.7], 1, False).tolist() == [0.7]
    assert latent_walk.truncation_track([0, 1], 5, False).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert latent_walk.truncation_track([0, 1], 8, True).tolist() == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]


@pytest.fixture(scope='module')
def G():
    torch.manual_seed(0)
    G = Generator(**{k: v for k, v in KWARGS.items() if k != 'class_name'}).eval().requires_grad_(False)
    G.mapping.w_avg.normal_()
    for name, p in G.named_parameters():
        if name.endswith('noise_strength'):
            p.fill_(0.3)
    return G


def frames_of(G, space='w', walks=2, classes=(0, 2), **options):
    latents = torch.randn(walks * 2, 4, generator=torch.Generator().manual_seed(5), dtype=F64)
    keys, c = latent_walk.make_keys(G, latents, walks, list(classes), space, 'cpu')
    walk = Walk(keys, 'linear', steps=3, loop=False)
    return latents, WalkFrames(G, walk, c, **options)


def test_frames_in_z(G):
    latents, frames = frames_of(G, 'z', truncs=[0.5, 1], columns=2)
    pictures = [np.asarray(picture).astype(int) for picture in frames]
    assert len(pictures) == len(frames) == 4 and pictures[0].shape == (16, 32, 3)
    for walk, label in ((0, [1., 0, 0]), (1, [0, 0, 1.])):
        z = torch.lerp(latents[2 * walk], latents[2 * walk + 1], 2 / 3)
        img = G(z[None].float(), torch.tensor([label]), truncation_psi=0.5 + 0.5 * 2 / 3, noise_mode='const')[0]
        want = (img.permute(1, 2, 0).numpy() * 127.5 + 128).clip(0, 255).astype(int)
        # Rounded after another order of sums
        assert np.abs(pictures[2][:, walk * 16:walk * 16 + 16] - want).max() <= 1


def test_frames_in_w(G):
    latents, frames = frames_of(G, 'w', zoom=2)
    w = [G.mapping(z[None].float(), torch.tensor([[0, 0, 1.]])) for z in latents[2:]]
    got = frames.ws_at(torch.tensor([1]))
    torch.testing.assert_close(got[0, 1], torch.lerp(*w, 1 / 3)[0])
    picture = np.asarray(next(iter(frames)))
    assert picture.shape == (64, 32, 3) and (picture[::2, ::2] == picture[1::2, 1::2]).all()


def test_frames_do_not_depend_on_the_batch(G):
    """Nor does their random noise, which is fresh in each frame."""
    for mode in ('const', 'random'):
        runs = [np.stack(list(map(np.asarray, frames_of(G, batch=batch, noise_mode=mode, seed=3)[1]))).astype(int)
                for batch in (2, 5, 100)]
        assert all(np.abs(run - runs[0]).max() <= 1 for run in runs)
    other = np.stack(list(map(np.asarray, frames_of(G, noise_mode='random', seed=4)[1])))
    assert np.abs(other - runs[0]).max() > 10


def test_random_noise_changes_from_frame_to_frame(G):
    latents = torch.ones(1, 4, dtype=F64)
    keys, c = latent_walk.make_keys(G, latents, 1, [0], 'w', 'cpu')
    for mode, still in (('const', True), ('random', False)):
        first, second = map(np.asarray, WalkFrames(G, Walk(keys, steps=2), c, noise_mode=mode))
        assert (first == second).all() == still


def test_center_of_walks_in_w(G):
    assert latent_walk.center_of(G) is G.mapping.w_avg
    kwargs = {k: v for k, v in KWARGS.items() if k != 'class_name'}
    assert latent_walk.center_of(Generator(**{**kwargs, 'mapping_kwargs': dict(num_layers=1, w_avg_beta=None)})) is None
