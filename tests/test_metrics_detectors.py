"""metrics/detectors.py: TorchScript files, downloads and teachers as detectors, and every refusal."""

import re

import numpy as np
import pytest
import requests
import torch
from toy_detectors import LargeOnly, ToyInception, save_script, save_teacher, teacher_kwargs

from dnnlib import UserError, files
from kd_plugin.teacher import load_teacher
from metrics import detectors
from metrics.detectors import load_inception, load_teacher_detector


@pytest.fixture
def script(tmp_path):
    return save_script(tmp_path / 'toy-inception.pt', ToyInception())


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """An empty cache and no network."""
    def refuse(url, **_):
        raise requests.ConnectionError(f'no route to {url}')
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(requests, 'get', refuse)


@pytest.mark.parametrize('channels', [1, 3])
def test_a_torchscript_file(script, channels):
    detector = load_inception('cpu', script)
    assert (detector.name, detector.num_features, detector.identity) == ('toy-inception', 2048,
                                                                         f'sha256:{files.sha256_of_file(script)}')
    img = np.random.RandomState(0).randint(0, 256, [5, channels, 7, 9], dtype=np.uint8)
    feats = detector(torch.from_numpy(img))
    assert feats.dtype == torch.float32 and feats.shape == (5, 2048)
    means = np.broadcast_to(img.mean(axis=(2, 3)), [5, 3])              # one channel counts as three equal ones
    np.testing.assert_allclose(feats[:, :6], np.concatenate([means, means ** 2], axis=1), rtol=1e-6)


@pytest.mark.parametrize('make, message', [
    (lambda path: None, 'there is no such file; download https://nvlabs'),
    (lambda path: path.write_text('<html>404</html>'), 'is not a TorchScript file, or damaged; use a copy of'),
    (lambda path: torch.save({'weights': torch.zeros(3)}, path),
     'is not a TorchScript file, or damaged; use a copy of'),
    (lambda path: save_script(path, ToyInception(1008)), 'features of two images have shape [2, 1008], expected '
                                                         '[2, 2048]'),
    (lambda path: save_script(path, LargeOnly()), 'it fails on 64x64 images (Error: builtins.ValueError: images are '
                                                  'too small)'),
    (lambda path: save_script(path, torch.nn.Identity()), "it fails on 64x64 images (RuntimeError: "),
])
def test_files_that_are_no_detector(tmp_path, make, message):
    path = tmp_path / 'x.pt'
    make(path)
    with pytest.raises(UserError, match=re.escape(f'--detector={path}: ') + '.*' + re.escape(message)) as err:
        load_inception('cpu', str(path))
    assert '\n' not in str(err.value) and detectors.INCEPTION_URL in str(err.value)


def test_the_official_file_offline(tmp_path, script):
    """The message says where to put it; put there, it is used; and it must stay the same from then on."""
    with pytest.raises(UserError, match=f'{detectors.INCEPTION_URL} cannot be fetched.*--detector=FILE, or put it at '
                                        '(.*)') as err:
        load_inception('cpu')
    place = re.search('put it at (.*)', str(err.value))[1]
    files.write_text(place, '')
    with open(script, 'rb') as source, open(place, 'wb') as dest:
        dest.write(source.read())
    detector = load_inception('cpu')
    assert (detector.name, detector.identity) == ('inception-2015-12-05', load_inception('cpu', script).identity)
    save_script(place, torch.nn.Identity())
    with pytest.raises(UserError, match='SHA-256 is .* expected .* delete it'):
        load_inception('cpu')


def test_a_downloaded_page_that_is_no_detector(tmp_path, monkeypatch):
    page = tmp_path / 'inception-2015-12-05.pt'
    page.write_text('<html>Sign in to the network</html>')
    monkeypatch.setattr(files, 'download', lambda *args, **kwargs: str(page))
    with pytest.raises(UserError, match=f'{page}: is not a TorchScript file.*delete it, and .* is fetched again'):
        load_inception('cpu')


def test_a_teacher(tmp_path):
    path = save_teacher(tmp_path / 'x.safetensors')
    teacher, detector = load_teacher(path), load_teacher_detector('cpu', teacher_kwargs(path))
    img = torch.randint(0, 256, [4, 3, 40, 40], dtype=torch.uint8)
    want = teacher.encode_image((img.double() - 127.5) / 127.5)
    torch.testing.assert_close(detector(img), want)
    torch.testing.assert_close(detector(img[:, :1]), detector(img[:, :1].repeat(1, 3, 1, 1)))
    assert (detector.name, detector.num_features) == (teacher.identity, 12)
    assert (detector.identity == f'{teacher.identity} float32'
            and detector.resize == 'bicubic with antialiasing to 32x32')


def test_an_unknown_teacher():
    with pytest.raises(UserError, match='nowhere.safetensors does not exist'):
        load_teacher_detector('cpu', teacher_kwargs('nowhere.safetensors'))


def test_no_tf32_inside_and_as_it_was_outside():
    flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    inside = []
    detector = detectors.Detector('toy', 'toy', 1, 'none',
                                  lambda img: (inside.append(flags()), img.mean([2, 3], dtype=torch.float64)[:, :1])[1])
    before = flags()
    try:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, True
        assert detector(torch.zeros([1, 3, 4, 4], dtype=torch.uint8)).dtype == torch.float32
        assert inside == [(False, False)] and flags() == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
