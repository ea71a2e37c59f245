"""metrics/lpips.py: the distance against its formula and against the LPIPS project's own package; files that are no
such networks."""

import math
import re

import numpy as np
import pytest
import requests
import torch
from toy_detectors import (
    ALEXNET_LAYERS,
    LargeOnly,
    ToyInception,
    alexnet_state,
    heads_state,
    save_script,
    save_teacher,
    teacher_kwargs,
)

from dnnlib import UserError, files
from metrics import lpips
from metrics.detectors import load_teacher_detector
from metrics.lpips import load_alexnet_lpips, load_vgg16_lpips


def image_pairs(size):
    """uint8: two unrelated images, and two that differ by a little noise."""
    rng = np.random.RandomState(2)
    a, b = [rng.randint(0, 256, [2, 3, *size]) for _ in range(2)]
    b[1] = np.clip(a[1] + rng.randint(-9, 10, a[1].shape), 0, 255)
    return torch.from_numpy(a.astype(np.uint8)), torch.from_numpy(b.astype(np.uint8))


def formula(a, b):
    """Sum over stages of the mean over pixels of sum_c head_c (unit a_c - unit b_c)^2, pixel by pixel, in float64."""
    weights, heads = alexnet_state(), list(heads_state().values())
    stages = []
    for img in (a, b):
        x = img.double() / 255 * 2 - 1
        x = torch.stack([(x[:, i] - shift) / scale
                         for i, (shift, scale) in enumerate([(-.030, .458), (-.088, .448), (-.188, .450)])], dim=1)
        activations = []
        for i, (_, _, size) in ALEXNET_LAYERS.items():
            if i in (3, 6):
                x = torch.nn.functional.max_pool2d(x, 3, stride=2)
            x = torch.nn.functional.conv2d(x, weights[f'features.{i}.weight'].double(),
                                           weights[f'features.{i}.bias'].double(),
                                           stride=4 if i == 0 else 1, padding=size // 2 if i else 2).clamp(min=0)
            activations.append(x.numpy())
        stages.append(activations)
    total = np.zeros([len(a)])
    for head, x, y in zip(heads, *stages, strict=True):
        num, _, height, width = x.shape
        for n, i, j in np.ndindex(num, height, width):
            u, v = [p[n, :, i, j] / np.linalg.norm(p[n, :, i, j]) for p in (x, y)]
            total[n] += (head.flatten().double().numpy() * (u - v) ** 2).sum() / (height * width)
    return total


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lpips')
    paths = folder / 'alexnet.pth', folder / 'heads.pth'
    for path, state in zip(paths, (alexnet_state(), heads_state()), strict=True):
        torch.save(state, path)
    return [str(path) for path in paths]


@pytest.fixture(scope='module')
def alexnet(checkpoints):
    return load_alexnet_lpips('cpu', *checkpoints)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache and no network."""
    def refuse(url, **_):
        raise requests.ConnectionError(f'no route to {url}')
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(requests, 'get', refuse)


def distance(detector, a, b):
    return (detector(a) - detector(b)).square().sum(dim=1)


# What lpips 0.1.4 (the project's own package), in float64, gives for these weights and images.
@pytest.mark.parametrize('size, package', [((31, 45), [0.766876156, 0.005417127]),
                                           ((64, 64), [0.770665445, 0.004922400])])
def test_the_distance(alexnet, size, package):
    """Float32 against float64: activations are good to 1e-6, squares of differences of small ones to 1e-5."""
    a, b = image_pairs(size)
    got = distance(alexnet, a, b)
    torch.testing.assert_close(got.double(), torch.from_numpy(formula(a, b)), rtol=1e-5, atol=0)
    torch.testing.assert_close(got.double(), torch.tensor(package, dtype=torch.float64), rtol=1e-5, atol=0)


def test_an_image_is_at_distance_0_from_itself_and_greys_count_as_three_channels(alexnet):
    a, b = image_pairs((40, 40))
    assert distance(alexnet, a, a).tolist() == [0, 0] and distance(alexnet, a, b).min() > 1e-3
    assert torch.equal(distance(alexnet, a, b), distance(alexnet, b, a))
    torch.testing.assert_close(alexnet(a[:, :1]), alexnet(a[:, :1].repeat(1, 3, 1, 1)))
    torch.testing.assert_close(alexnet(a), alexnet(a.float()))
    assert not alexnet(a).requires_grad and math.isnan(distance(alexnet, a, a * torch.nan).sum())


def test_pixels_without_any_activation(tmp_path, checkpoints):
    """They have no direction; their features are 0."""
    path = tmp_path / 'dead.pth'
    torch.save({name: torch.zeros_like(value) for name, value in alexnet_state().items()}, path)
    assert load_alexnet_lpips('cpu', str(path), checkpoints[1])(image_pairs((40, 40))[0]).count_nonzero() == 0


def test_what_a_detector_is_known_by(alexnet, checkpoints):
    assert alexnet.identity == ' '.join(f'sha256:{files.sha256_of_file(path)}' for path in checkpoints)
    assert (alexnet.name, alexnet.num_features, alexnet.resize) == ('LPIPS 0.1 with AlexNet', None, 'none')


def test_small_images(alexnet):
    assert alexnet(torch.zeros([1, 3, 31, 31])).isfinite().all()
    with pytest.raises(UserError, match='31x31 or more, these are 40x30'):
        alexnet(torch.zeros([1, 3, 30, 40]))


@pytest.mark.parametrize('option, change, message', [
    ('--alexnet', lambda path, state: path.unlink(), 'there is no such file; download https://download.pytorch'),
    ('--alexnet', lambda path, state: path.write_text('<html>404</html>'), 'is no PyTorch checkpoint, or damaged'),
    ('--alexnet', lambda path, state: path.write_bytes(path.read_bytes()[:-9999]),
     'is no PyTorch checkpoint, or damaged'),
    ('--alexnet', lambda path, state: torch.save([1, 2], path), 'features.0.weight is missing, expected shape [64, '
                                                                '3, 11, 11]'),
    ('--alexnet', lambda path, state: torch.save({**state, 'features.6.bias': torch.zeros(9)}, path),
     'features.6.bias has shape [9], expected'),
    ('--alexnet', lambda path, state: torch.save(torch.nn.ReLU(), path),
     'is no PyTorch checkpoint, or damaged (UnpicklingError)'),
    ('--lpips-heads', lambda path, state: path.unlink(),
     'there is no such file; download https://raw.githubusercontent'),
    ('--lpips-heads', lambda path, state: torch.save({}, path), 'lin0.model.1.weight is missing'),
    ('--lpips-heads', lambda path, state: torch.save({k: v - 0.5 for k, v in state.items()}, path),
     'has negative weights'),
])
def test_files_that_are_no_alexnet_lpips(tmp_path, option, change, message):
    paths = {'--alexnet': tmp_path / 'alexnet.pth', '--lpips-heads': tmp_path / 'heads.pth'}
    states = {'--alexnet': alexnet_state(), '--lpips-heads': heads_state()}
    for name, path in paths.items():
        torch.save(states[name], path)
    change(paths[option], states[option])
    with pytest.raises(UserError, match=re.escape(f'{option}={paths[option]}: ') + '.*' + re.escape(message)) as err:
        load_alexnet_lpips('cpu', *map(str, paths.values()))
    assert '\n' not in str(err.value) and '#sha256' not in str(err.value)


def test_the_official_files_offline(offline, checkpoints):
    """The message says where to put each; one that is not the official one is refused by its digest."""
    alexnet, heads = checkpoints
    for option, args in [('--alexnet', (None, heads)), ('--lpips-heads', (alexnet, None)), ('--vgg16', ())]:
        load = load_alexnet_lpips if args else load_vgg16_lpips
        with pytest.raises(UserError, match=f'cannot be fetched.*{option}=FILE, or put it at (.*)') as err:
            load('cpu', *args)
        place = re.search('put it at (.*)', str(err.value))[1]
        files.write_text(place, 'some page')
        with pytest.raises(UserError, match=f'{re.escape(place)}: .*') as err:
            load('cpu', *args)
        assert 'delete it' in str(err.value) and ('SHA-256 is' in str(err.value)) == (option != '--vgg16')


def test_the_official_alexnet_by_the_digits_in_its_name(offline, checkpoints, monkeypatch):
    alexnet, heads = checkpoints
    monkeypatch.setattr(files, 'download', lambda *args, **kwargs: alexnet)
    with pytest.raises(UserError, match=f'{alexnet}: SHA-256 is .* expected 7be5be79...: .*delete it, and .* is '
                                        'fetched again'):
        load_alexnet_lpips('cpu', heads=heads)
    monkeypatch.setattr(lpips, 'ALEXNET_URL',
                        f'https://example.org/alexnet-owt-{files.sha256_of_file(alexnet)[:8]}.pth')
    assert load_alexnet_lpips('cpu', heads=heads).name == 'LPIPS 0.1 with AlexNet'


class ToyVgg(torch.nn.Module):
    """Called like the official network; its features are the pixels."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones([]))

    def forward(self, img, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False):
        assert return_lpips and not resize_images and img.dtype == torch.float32, 'floats as they are'
        return img.flatten(1) * self.gain


def test_vgg16(tmp_path):
    path = save_script(tmp_path / 'vgg.pt', ToyVgg())
    detector = load_vgg16_lpips('cpu', path)
    img = torch.randint(0, 256, [2, 3, 8, 9], dtype=torch.uint8)
    assert (torch.equal(detector(img), img.float().flatten(1))
            and torch.equal(detector(img[:, :1]), img[:, :1].float().repeat(1, 3, 1, 1).flatten(1)))
    assert (detector.name, detector.identity, detector.num_features) == ('LPIPS with VGG16',
                                                                         f'sha256:{files.sha256_of_file(path)}', None)


@pytest.mark.parametrize('kind', ['alexnet', 'vgg16'])
def test_gradients_pass_to_images_and_stay_out_of_the_network(kind, alexnet, tmp_path):
    """What a projector needs: `network`, called without the detector's no_grad."""
    network = (alexnet.network if kind == 'alexnet'
               else load_vgg16_lpips('cpu', save_script(tmp_path / 'vgg.pt', ToyVgg())).network)
    img = (torch.rand([1, 3, 32, 32]) * 255).requires_grad_()
    features = network(img)
    grad, = torch.autograd.grad((features - features.detach() - 1).square().sum(), img)
    assert grad.isfinite().all() and grad.abs().max() > 0
    assert not network(img.detach()).requires_grad


def test_teachers_take_floats_and_pass_gradients_on(tmp_path):
    path = save_teacher(tmp_path / 'x.safetensors')
    teacher = load_teacher_detector('cpu', teacher_kwargs(path))
    img = torch.randint(0, 256, [2, 3, 32, 32], dtype=torch.uint8)
    torch.testing.assert_close(teacher(img.float()), teacher(img))
    x = img.float().requires_grad_()
    assert torch.autograd.grad(teacher.network(x).sum(), x)[0].abs().max() > 0


@pytest.mark.parametrize('module, message', [
    (ToyInception(), 'it fails on 64x64 images'), (LargeOnly(), 'it fails on 64x64 images'),
    (torch.nn.Identity(), 'it fails on 64x64 images'),
])
def test_scripts_that_are_no_vgg16(tmp_path, module, message):
    path = save_script(tmp_path / 'x.pt', module)
    with pytest.raises(UserError, match=re.escape(f'--perceptual={path}: is no VGG16 of LPIPS: {message}')):
        load_vgg16_lpips('cpu', path, option='--perceptual')


def test_a_script_whose_features_have_another_shape(tmp_path):
    class Images(ToyVgg):
        def forward(self, img, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False):
            return img
    with pytest.raises(UserError, match=re.escape('shape [2, 3, 64, 64], expected [2, F]; use a copy of '
                                                  'https://nvlabs')):
        load_vgg16_lpips('cpu', save_script(tmp_path / 'x.pt', Images()))
