"""metrics/feature_stats.py and metrics/metric_utils.py: moments in batches and over processes, exact numbers of images,
the cache."""

import io
import os
import re
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch
from processes import run_processes

from dnnlib import UserError
from metrics import draws, metric_main
from metrics.detectors import Detector
from metrics.feature_stats import FeatureStats
from metrics.metric_utils import (
    MetricOptions,
    compute_feature_stats_for_dataset,
    compute_feature_stats_for_generator,
    generate_batch,
)
from torch_utils.images import to_uint8
from training.networks import Generator

# Python >= 3.12 warns on forking workers; torch warns where there are fewer cores than workers.
pytestmark = pytest.mark.filterwarnings('ignore:This process .* is multi-threaded',
                                        'ignore:This DataLoader will create')

BOTH = dict(capture_all=True, capture_mean_cov=True)


def gather(batches, **capture):
    stats = FeatureStats(**(capture or BOTH))
    for batch in batches:
        stats.append_torch(batch)
    return stats


def assert_moments(stats, x, rtol=1e-12):
    mean, cov = stats.get_mean_cov()
    assert mean.dtype == cov.dtype == torch.float64 and stats.num_items == len(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=rtol)
    np.testing.assert_allclose(cov, np.cov(x, rowvar=False, bias=True), rtol=rtol, atol=rtol * x.var(axis=0).max())


# Moments.

@pytest.mark.parametrize('sizes', [[50], [1] * 50, [7, 0, 30, 13], [0, 49, 1]])
def test_moments_do_not_depend_on_the_batches(sizes):
    x = torch.randn([50, 6], generator=torch.Generator().manual_seed(0)) @ torch.rand([6, 6]) + 3
    stats = gather(x.split(sizes))
    assert_moments(stats, x.double().numpy())
    torch.testing.assert_close(stats.get_all(), x, rtol=0, atol=0)
    assert_moments(gather(x.flip(0).split(sizes)), x.double().numpy())


def test_a_large_mean_does_not_drown_the_covariance():
    """Float32 features near 2^24: sums of squares, even in float64, would have the variance of about 10 to two
    digits."""
    x = torch.randint(-5, 6, [1000, 4], generator=torch.Generator().manual_seed(0)) + 2.0 ** 24
    assert_moments(gather(x.to(torch.float32).split(64)), x.double().numpy(), rtol=1e-9)


def test_no_more_than_asked_for():
    x = torch.arange(20.0).reshape(10, 2)
    stats = FeatureStats(**BOTH, max_items=7)
    for batch in x.split(3):
        stats.append_torch(batch)
    assert_moments(stats, x[:7].double().numpy())
    torch.testing.assert_close(stats.get_all(), x[:7])


def test_widths_must_agree():
    stats = gather([torch.zeros(2, 3)])
    with pytest.raises(ValueError, match=re.escape('[2, 4], expected [N, 3]')):
        stats.append_torch(torch.zeros(2, 4))


def test_saved_and_loaded(tmp_path):
    path = str(tmp_path / 'x.safetensors')
    for capture in (BOTH, dict(capture_mean_cov=True), dict(capture_all=True)):
        stats = gather([torch.randn(5, 3)], **capture)
        stats.save(path)
        loaded = FeatureStats.load(path)
        assert (loaded.num_items, loaded.num_features, loaded.capture_all, loaded.capture_mean_cov) == (
            5, 3, capture.get('capture_all', False), capture.get('capture_mean_cov', False))
        for a, b in zip([*stats.get_mean_cov(), stats.get_all()], [*loaded.get_mean_cov(), loaded.get_all()],
                        strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert FeatureStats.load(str(tmp_path / 'absent')) is None
    with open(path, 'r+b') as f:
        f.truncate(os.path.getsize(path) - 1)
    assert FeatureStats.load(path) is None


# Features of a data set and of a generator.

def picture(i, channels=3):
    return np.random.RandomState(i).randint(0, 256, [8, 8, channels], dtype=np.uint8)


def make_data(path, num=11, channels=3, damaged=(), first=0):
    """dataset_kwargs; images of noise in folders for the classes a (2 of 11 images), b (none) and c."""
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(num):
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture(first + i, channels).squeeze()).save(buffer, 'png')
            archive.writestr(f'{"ac"[i >= 2]}/{i:02d}.png', buffer.getvalue()[:-30 if i in damaged else None])
    return dict(class_name='training.dataset.ImageFolderDataset', path=str(path))


class ToyNetwork:
    """Features are the first six pixels of the channels, brightness, and one constant; counts the images it sees."""
    num_features = 8

    def __init__(self):
        self.num_images = 0

    def __call__(self, img):
        assert img.dtype == torch.uint8 and img.shape[1] == 3
        self.num_images += len(img)
        img = img.to(torch.float32)
        return torch.cat([img[:, :, 0, :2].flatten(1), img.mean([1, 2, 3])[:, None], torch.ones([len(img), 1])], dim=1)


def toy_features(pictures):
    x = np.stack(pictures).astype(np.float64)
    x = np.repeat(x, 3 // x.shape[3], axis=3)
    return np.concatenate([x[:, 0, :2].transpose(0, 2, 1).reshape(len(x), 6), x.mean(axis=(1, 2, 3))[:, None],
                           np.ones([len(x), 1])], axis=1)


class ToyGenerator(torch.nn.Module):
    """Grey images of one brightness, which follows from z, and noise; remembers what it was given."""

    def __init__(self, c_dim=0):
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.calls = 4, c_dim, 8, []
        self.eval()

    def forward(self, z, c, noise_mode):
        self.calls.append((z, c, noise_mode))
        return z[:, :3, None, None] * 0.2 + 0.1 * torch.randn([len(z), 3, 8, 8], device=z.device)

    def seen(self, i):
        return torch.cat([call[i] for call in self.calls])


def options(data, G=None, network=None, **kwargs):
    network = network or ToyNetwork()
    detector = Detector('toy', 'toy-1', ToyNetwork.num_features, 'none', network)
    return MetricOptions(G or ToyGenerator(), data, detector, torch.device('cpu'),
                         **{'num_workers': 0, 'progress': False, 'batch_size': 4, **kwargs})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'metrics'


@pytest.mark.parametrize('channels, num_workers', [(3, 0), (1, 0), (3, 2)])
def test_features_of_a_data_set(tmp_path, channels, num_workers):
    opts = options(make_data(tmp_path / 'x.zip', channels=channels), num_workers=num_workers)
    stats = compute_feature_stats_for_dataset(opts, **BOTH)
    want = toy_features([picture(i, channels) for i in range(11)])
    np.testing.assert_allclose(stats.get_all(), want, rtol=1e-6)
    assert_moments(stats, want, rtol=1e-6)                          # the brightness is a float32 mean
    assert compute_feature_stats_for_dataset(opts, max_items=5, **BOTH).num_items == 5


def test_the_reference_is_neither_mirrored_nor_a_part(tmp_path):
    data = make_data(tmp_path / 'x.zip')
    want = compute_feature_stats_for_dataset(options(data), **BOTH).get_all()
    network = ToyNetwork()
    training = dict(data, xflip=True, max_size=3, random_seed=1, use_labels=True, resolution=8)
    got = compute_feature_stats_for_dataset(options(training, network=network), **BOTH).get_all()
    torch.testing.assert_close(got, want)
    assert network.num_images == 0                                  # one entry of the cache serves both
    assert torch.equal(compute_feature_stats_for_dataset(options(training, cache=False), **BOTH).get_all(), want)


def test_the_cache(tmp_path, cache):
    data, network = make_data(tmp_path / 'x.zip'), ToyNetwork()
    first = compute_feature_stats_for_dataset(options(data, network=network), **BOTH)
    again = compute_feature_stats_for_dataset(options(data, network=network), **BOTH)
    assert (network.num_images == 11
            and all(torch.equal(a, b) for a, b in zip(first.get_mean_cov(), again.get_mean_cov(), strict=True)))
    entry, = cache.iterdir()
    # As a full disk or a crash of other programs may leave it
    entry.write_bytes(entry.read_bytes()[:100])
    assert torch.equal(compute_feature_stats_for_dataset(options(data, network=network), **BOTH).get_all(),
                       first.get_all())
    assert network.num_images == 22 and FeatureStats.load(str(entry)).num_items == 11


def test_what_the_cache_depends_on(tmp_path, cache):
    data, network = make_data(tmp_path / 'x.zip'), ToyNetwork()
    opts = options(data, network=network)
    compute_feature_stats_for_dataset(opts, capture_mean_cov=True)
    other_detector = options(data)
    other_detector.detector = opts.detector._replace(identity='toy-2')
    for other in (options(make_data(tmp_path / 'y.zip', first=1), network=network), other_detector):
        compute_feature_stats_for_dataset(other, capture_mean_cov=True)
    compute_feature_stats_for_dataset(opts, max_items=5, capture_mean_cov=True)
    compute_feature_stats_for_dataset(opts, capture_all=True)
    assert len(list(cache.iterdir())) == 5
    compute_feature_stats_for_dataset(options(data, cache=False), capture_mean_cov=True)
    assert len(list(cache.iterdir())) == 5


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_damaged_image_is_one_line(tmp_path, cache, num_workers):
    opts = options(make_data(tmp_path / 'x.zip', damaged=[6]), num_workers=num_workers)
    with pytest.raises(UserError, match='06.png is damaged') as err:
        compute_feature_stats_for_dataset(opts, capture_mean_cov=True)
    assert '\n' not in str(err.value) and not list(cache.iterdir())


@pytest.mark.parametrize('num', [1, 4, 10, 12])
def test_exactly_so_many_are_generated(num):
    opts = options({})
    stats = compute_feature_stats_for_generator(opts, num, **BOTH)
    assert stats.num_items == len(stats.get_all()) == opts.detector.network.num_images == num
    made = max(num, 2)                                              # see `generate_batch`
    assert (len(opts.G.seen(0)) == made and len(torch.unique(opts.G.seen(0))) == made * 4
            and {call[2] for call in opts.G.calls} == {'random'})


def test_random_numbers_follow_from_the_seed_only():
    run = lambda **kwargs: compute_feature_stats_for_generator(options({}, **kwargs), 10, **BOTH).get_all()
    torch.manual_seed(1)
    want, after = run(), torch.rand([])
    torch.manual_seed(2)
    assert torch.equal(run(), want) and not torch.equal(run(seed=1), want)
    torch.manual_seed(1)
    assert torch.rand([]) == after                                  # training goes on as if nothing had been measured


def test_latents_and_noise_have_nothing_in_common():
    G = ToyGenerator()
    G.forward = lambda z, c, noise_mode: G.calls.append((z, torch.randn(z.shape))) or torch.zeros([len(z), 3, 8, 8])
    compute_feature_stats_for_generator(options({}, G), 400, capture_mean_cov=True)
    z, noise = G.seen(0).flatten(), G.seen(1).flatten()
    assert abs(torch.corrcoef(torch.stack([z, noise]))[0, 1]) < 0.1   # 1600 samples: 4 standard deviations


def test_images_with_their_noise_do_not_depend_on_the_batches():
    """A StyleGAN2 whose noise is strong, in bfloat16, where a single image done in its own way would be off by
    percents."""
    torch.manual_seed(0)
    G = Generator(z_dim=4, c_dim=0, w_dim=4, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=1),
                  synthesis_kwargs=dict(channel_base=64, channel_max=8, num_fp16_res=2,
                                        half_dtype='bfloat16')).eval().requires_grad_(False)
    for name, param in G.named_parameters():
        if name.endswith('noise_strength'):
            param.fill_(1)
    opts, before = options({}, G), torch.get_rng_state()
    want = generate_batch(opts, range(21))
    noise_of = lambda i: want[i] - G(draws.latents(opts, range(i, i + 1)), None, noise_mode='none')[0]
    assert (noise_of(0).std() > 0.1
            and abs(torch.corrcoef(torch.stack([noise_of(0).flatten(), noise_of(1).flatten()]))[0, 1]) < 0.2)
    for size in (1, 3, 8, 20):
        parts = [generate_batch(opts, range(21)[start:start + size]) for start in range(0, 21, size)]
        torch.testing.assert_close(torch.cat(parts), want, rtol=1e-5, atol=1e-5)
    G.img_resolution = 1024                                             # large ones: a few at a time
    seen, hook = [], G.mapping.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    torch.testing.assert_close(generate_batch(opts, range(21)), want, rtol=1e-5, atol=1e-5)
    assert seen == [4] * 5 + [2]
    hook.remove()
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match='noise for 4 images, expected 3'), draws.noise(opts, range(3)):
        torch.randn([4, 1])


def test_labels_as_frequent_as_in_the_data(tmp_path):
    opts = options(dict(make_data(tmp_path / 'x.zip'), use_labels=True, max_size=1), ToyGenerator(c_dim=2))
    compute_feature_stats_for_generator(opts, 1000, capture_mean_cov=True)
    c = opts.G.seen(1)
    assert c.shape == (1000, 2) and torch.equal(c.sum(1), torch.ones(1000))
    assert abs(c[:, 0].mean() - 2 / 11) < 0.05                      # 4 standard deviations


def test_nan_is_not_taken_for_black():
    G = ToyGenerator()
    broken = torch.zeros([4, 3, 8, 8])
    broken[1, 2, 3, 4] = torch.nan
    G.forward = lambda z, c, noise_mode: broken
    feats = compute_feature_stats_for_generator(options({}, G), 4, capture_all=True).get_all()
    assert feats.isnan().all(dim=1).tolist() == [False, True, False, False]


def test_the_rule_for_8_bits():
    """-1, 0 and 1 become 0, 128 and 255, steps of 2/255 become steps of one."""
    x = torch.linspace(-1.1, 1.1, 100_001)
    got = to_uint8(x)
    np.testing.assert_array_equal(got, np.clip(np.floor(x.numpy() * np.float32(127.5) + np.float32(128)), 0, 255))
    assert to_uint8(torch.arange(256) / 127.5 - 1).tolist() == list(range(256))


# Several processes.

def measure(data):
    """Numbers that must not depend on the number of processes; two real images are fewer than three processes."""
    few = compute_feature_stats_for_dataset(options(data, cache=False), max_items=2, **BOTH)
    real = compute_feature_stats_for_dataset(options(data, cache=False), **BOTH)
    gen = compute_feature_stats_for_generator(options(data), 10, **BOTH)
    metrics = ['clipfid10_full', 'clipkid10_full', 'clippr103_full', 'clipmemorization10']
    opts = options(data)
    results = metric_main.calc_metrics(metrics, opts.G, data, 'cpu', detector=dict.fromkeys(metrics, opts.detector),
                                       batch_size=4, num_workers=0, progress=False, bootstrap=5)
    figures = [torch.tensor([result['value'], *result['intervals']['value']])
               for result in results] + [torch.tensor(results[-1]['pairs'])]
    return figures + [x for stats in (few, real, gen) for x in (torch.tensor(stats.num_items), *stats.get_mean_cov(),
                                                                stats.get_all())]


def _process(rank, data, folder):
    torch.save(measure(data), f'{folder}/{rank}.pt')
    # The second from the disk
    cached = [compute_feature_stats_for_dataset(options(data), capture_mean_cov=True) for _ in range(2)]
    assert rank > 0 or torch.equal(cached[0].get_mean_cov()[1], cached[1].get_mean_cov()[1])


def test_three_processes_are_one(tmp_path):
    data = make_data(tmp_path / 'x.zip')
    run_processes(_process, 3, data, str(tmp_path))
    want = measure(data)
    for rank in range(3):
        torch.testing.assert_close(torch.load(tmp_path / f'{rank}.pt'), want, rtol=1e-12, atol=1e-12)
