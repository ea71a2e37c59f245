"""Seeds: the values that runs, metrics and pictures of before depend on, one for each user."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inference import projection, walk
from kd_plugin.distillers.agkd import AGKD
from kd_plugin.distillers.targets import Centred
from metrics import draws
from torch_utils.seeds import number_of, random_state, seed_of, step_seed
from training.dataset.folder import ImageFolderDataset
from training.dataset.real_images import ImageOrder


def test_the_digest_is_that_of_the_parts():
    digest = hashlib.sha256(b'a/2').digest()
    value = sum(byte << 8 * place for place, byte in enumerate(digest[:8]))
    assert (number_of('a', 2), seed_of('a', 2)) == (value, value // 2)
    assert number_of('a', 2, num_bytes=2) == digest[0] + 256 * digest[1]
    words = [sum(byte << 8 * place for place, byte in enumerate(digest[i:i + 4])) for i in range(0, 32, 4)]
    assert random_state('a', 2).randint(1 << 30) == np.random.RandomState(words).randint(1 << 30)


def test_the_seed_of_a_step_depends_on_all_that_it_should():
    """Seed, process, images seen: each combination has its own, and they do not run into each other."""
    steps = [(seed, rank, nimg) for seed in (0, 1, 11) for rank in (0, 1, 10) for nimg in (0, 8, 80)]
    seeds = {step_seed(*step) for step in steps}
    assert len(seeds) == len(steps) and all(0 <= seed < 2 ** 63 for seed in seeds)


def test_seeds_of_steps():
    assert step_seed(1, 0, 8) == 4604561385028211812
    assert step_seed(0, 'validation/3', 1000) == 6602034837496923044


def test_order_of_the_images_and_which_are_held_out():
    assert ImageOrder(6, seed=3).permutation(2).tolist() == [3, 5, 4, 0, 1, 2]
    ten_images = SimpleNamespace(path='x', files=SimpleNamespace(names=list(range(10))))
    assert ImageFolderDataset._hold_out(ten_images, 0.3, random_seed=5).tolist() == [3, 8, 9]


def test_noise_of_a_frame_and_of_a_projection():
    assert walk.noise_seed(5, 7) == 2638685349
    assert projection._normal([2], 4, 17).tolist() == pytest.approx([-2.007586717605591, -1.0755434036254883])


def test_draws_of_a_metric():
    assert draws._seed(SimpleNamespace(seed=3), 4, 'latents') == 166726787


def test_when_agkd_aggregates():
    method = AGKD(SimpleNamespace(p=0.5, distance='l1'), seed=2)
    aggregated = []
    for cur_nimg in range(0, 256, 32):
        method.start_step(cur_nimg)
        aggregated.append(method.aggregate)
    assert aggregated == [False, True, False, False, True, True, False, False]


def test_the_mark_of_what_statistics_are_of():
    assert Centred(torch.eye(3), 'photos/demo').source.item() == 9472312832416876
