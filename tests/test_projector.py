import json
import os
import re
import signal
import sys
import warnings

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest
import torch
from conftest import run_cli
from small_generators import save

import generate
import projector
from dnnlib import UserError
from inference import projection_files
from inference.projection import Projection
from kd_plugin.teacher import Preprocess, Teacher
from training.model_files import load_generator


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp('net') / 'net.safetensors'
    save(path, c_dim=0)
    return str(path)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Two pictures that are neither square nor of the network's size, one of them grey with an alpha channel."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(256, size=[20, 40, 3], dtype=np.uint8)).save(folder / 'wide.jpg')
    PIL.Image.fromarray(rng.integers(256, size=[30, 18, 2], dtype=np.uint8), 'LA').save(folder / 'high.png')
    return folder


def run(network, target, out, *args):
    defaults = [] if any(arg.startswith('--perceptual') for arg in args) else ['--perceptual=demo']
    steps = [] if any(arg.startswith('--num-steps') for arg in args) else ['--num-steps=4']
    return run_cli(projector.main, f'--network={network}', f'--target={target}', f'--outdir={out}', '--device=cpu',
                   *defaults, *steps, *args)


def pixels(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_results_of_one_target(network, photos, tmp_path):
    code, output = run(network, photos / 'wide.jpg', tmp_path / 'out')
    assert code == 0
    out = tmp_path / 'out'
    assert sorted(p.name for p in out.iterdir()) == ['proj.png', 'projected_w.npz', 'projection.json',
                                                     'side-by-side.png', 'target.png']
    square = PIL.Image.open(photos / 'wide.jpg').crop((10, 0, 30, 20)).resize((16, 16), PIL.Image.Resampling.LANCZOS)
    assert (pixels(out / 'target.png') == np.asarray(square)).all()
    record = json.loads((out / 'projection.json').read_text())
    assert (record['space'], record['num_steps'], record['seed'], record['pixel_weight'],
            record['class_number']) == ('w', 4, 0, 1, None)
    assert record['perceptual'].startswith('demo_teacher.safetensors:') and record['target'].endswith('wide.jpg')
    assert re.search(f'wide.jpg: distance {record["with_noise_maps"]["distance"]:.4f} with .* '
                     f'{record["projection"]["distance"]:.4f} without .* {record["mean"]["distance"]:.4f} at the '
                     'mean', output)
    img = load_generator(network, 'cpu').synthesis(torch.from_numpy(np.load(out / 'projected_w.npz')['w']),
                                                   noise_mode='const')
    target = pixels(out / 'target.png').transpose(2, 0, 1) / 127.5 - 1
    assert record['projection']['pixel_error'] == pytest.approx(np.square(img[0].numpy() - target).mean(), rel=1e-4)


def test_generate_makes_the_picture_again(network, photos, tmp_path):
    assert run(network, photos / 'wide.jpg', tmp_path / 'a', '--space=w+')[0] == 0
    ws = np.load(tmp_path / 'a' / 'projected_w.npz')['w']
    assert ws.shape == (1, 6, 4) and ws.dtype == np.float32
    assert run_cli(generate.main, f'--network={network}', f'--projected-w={tmp_path / "a" / "projected_w.npz"}',
                   f'--outdir={tmp_path}')[0] == 0
    assert np.abs(pixels(tmp_path / 'proj00.png') - pixels(tmp_path / 'a' / 'proj.png')).max() <= 1


def test_targets_of_16_bits_become_what_the_training_images_became(network, tmp_path):
    """By the record of the data set, the innermost one; or as it is asked for."""
    values = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)
    (tmp_path / 'photos').mkdir()
    name = 'Zoe\u0308.png'                                                   # accents apart, as macOS has them
    PIL.Image.fromarray(values).save(tmp_path / 'photos' / name)
    record = dict(white=65535, source_record=dict(white=4095, black=0))
    save(tmp_path / 'net.safetensors', c_dim=0, dataset=dict(record=record))
    for given, args, white in ((tmp_path / 'net.safetensors', [], 4095), (network, [], 65535),
                               (network, ['--white=8190'], 8190)):
        out = tmp_path / str(white)
        code, output = run(given, tmp_path / 'photos', out, *args)
        assert code == 0, output
        want = np.repeat(np.round(values / white * 255)[:, :, None], 3, axis=2)
        assert np.abs(pixels(out / 'Zo\u00eb' / 'target.png' if (out / 'Zo\u00eb').exists()
                             else out / 'target.png') - want).max() <= 1
    code, output = run(network, tmp_path / 'photos', tmp_path / 'out', '--black=9', '--white=9')
    assert code == 1 and '--black=9 --white=9: black must be the smaller value' in output


def test_several_targets_have_folders_whatever_the_batch(network, photos, tmp_path):
    assert run(network, photos, tmp_path / 'a', '--batch=1')[0] == 0
    assert run(network, f'{photos / "high.png"},{photos / "wide.jpg"}', tmp_path / 'b')[0] == 0
    for name in ('high', 'wide'):
        a, b = [np.load(tmp_path / batch / name / 'projected_w.npz')['w'] for batch in 'ab']
        assert np.abs(a - b).max() < 1e-3               # rounding
        assert (pixels(tmp_path / 'a' / name / 'target.png') == pixels(tmp_path / 'b' / name / 'target.png')).all()
    assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == ['high', 'wide']


def interrupt_at(monkeypatch, step):
    """Ctrl-C in the middle of this step."""
    advance = Projection.advance

    def interrupted(self):
        if self.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self)
    monkeypatch.setattr(Projection, 'advance', interrupted)


def test_the_same_command_continues(network, photos, tmp_path, monkeypatch):
    """Stopped in the second of two parts; what the first has written stays, and the end is the same to the byte."""
    args, threads = ['--num-steps=6', '--batch=1', '--space=w+'], []
    monkeypatch.setattr(projector.cpu_threads, 'settle', lambda _device, recorded: threads.append(recorded))
    assert run(network, photos, tmp_path / 'whole', *args)[0] == 0
    calls = []
    monkeypatch.setattr(Projection, '__init__', lambda self, *a,
                        init=Projection.__init__: (calls.append(1), init(self, *a))[1])
    with monkeypatch.context() as patch:
        patch.setattr(projector, 'write_all', lambda *a,
                      write=projector.write_all: (interrupt_at(patch, 3), write(*a))[1])
        code, output = run(network, photos, tmp_path / 'out', *args)
    assert code == 130 and 'SIGINT: stopping after this iteration' in output
    assert 'Stopped after step 4 of 6' in output and 'The same command continues' in output
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['high', projection_files.STATE_FILE]
    code, output = run(network, photos, tmp_path / 'out', *args, '--seed=1')
    assert (code == 1
            and re.search(r'Error: .*belongs to an unfinished projection with other settings \(seed 0, now '
                          r'1\)', output))
    calls.clear()
    assert run(network, photos, tmp_path / 'out', *args)[0] == 0
    assert len(calls) == 1                              # the first part is not done again
    assert threads == [None, None, torch.get_num_threads()]
    for name in ('high', 'wide'):
        for file in ('projected_w.npz', 'proj.png', 'projection.json'):
            assert (tmp_path / 'out' / name / file).read_bytes() == (tmp_path / 'whole' / name / file).read_bytes()
    assert not (tmp_path / 'out' / projection_files.STATE_FILE).exists()


def test_a_state_is_saved_now_and_then(network, photos, tmp_path, monkeypatch):
    """Killed without notice, the search goes on from the last state."""
    def fail(self, advance=Projection.advance):
        if self.step == 3:
            raise MemoryError
        return advance(self)
    with monkeypatch.context() as patch:
        patch.setattr(projector, 'SAVE_SEC', -1)
        patch.setattr(Projection, 'advance', fail)
        with pytest.raises(AssertionError, match='MemoryError'):
            run(network, photos / 'wide.jpg', tmp_path)
    tensors, info = projection_files.checkpoint.load(str(tmp_path / projection_files.STATE_FILE), 'projection-state')
    assert projection_files.checkpoint.unflatten(info['projection'], tensors)['step'] == 3
    (tmp_path / projection_files.STATE_FILE).write_bytes(b'nothing')
    code, output = run(network, photos / 'wide.jpg', tmp_path)
    assert code == 1 and 'delete it, and the same command starts afresh' in output


def test_classes(photos, tmp_path):
    """The search starts at the mean of the class."""
    path = tmp_path / 'net.safetensors'
    G = save(path)
    code, output = run(path, photos / 'wide.jpg', tmp_path / 'out')
    assert (code == 1
            and 'Error: --class: this network has classes; say which the picture belongs to, from 0 to 2 or one of '
                'cat, dog, fox' in output)
    assert run(path, photos / 'wide.jpg', tmp_path / 'out', '--class=dog', '--num-steps=1')[0] == 0
    assert json.loads((tmp_path / 'out' / 'projection.json').read_text())['class_number'] == 1
    z, c = torch.randn([20000, 4], generator=torch.Generator().manual_seed(5)), torch.eye(3)
    means = torch.stack([G.mapping(z, label.expand(len(z), -1))[:, 0].mean(0) for label in c]).detach().numpy()
    found = np.load(tmp_path / 'out' / 'projected_w.npz')['w'][0, 0]            # the first step does not move it
    assert np.square(found - means).sum(1).argmin() == 1


class ToyVgg(torch.nn.Module):
    """Called like the VGG16 of LPIPS; sees the means of 4x4 blocks."""

    def forward(self, img, resize_images: bool, return_lpips: bool):
        assert return_lpips and not resize_images
        return torch.nn.functional.avg_pool2d(img, 4).flatten(1) / 255


def test_torchscript(network, photos, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*torch.jit', category=DeprecationWarning)
        torch.jit.script(ToyVgg()).save(str(tmp_path / 'toy.pt'))
    code, output = run(network, photos / 'wide.jpg', tmp_path / 'out', f'--perceptual={tmp_path / "toy.pt"}',
                       '--num-steps=30')
    assert code == 0, output
    record = json.loads((tmp_path / 'out' / 'projection.json').read_text())
    assert record['pixel_weight'] == 0 and 'sha256:' in record['perceptual']
    assert record['projection']['distance'] < record['mean']['distance']
    img = load_generator(network, 'cpu').synthesis(torch.from_numpy(np.load(tmp_path / 'out' / 'projected_w.npz')['w']),
                                                   noise_mode='const')
    target = torch.from_numpy(pixels(tmp_path / 'out' / 'target.png').transpose(2, 0, 1) / 255)
    blocks = [x.reshape(3, 4, 4, 4, 4).mean((2, 4)) for x in ((img[0] + 1) / 2, target)]
    assert record['projection']['distance'] == pytest.approx((blocks[0] - blocks[1]).square().sum().item(), rel=1e-4)


def test_maps_position_by_position():
    """Vectors of length 1; means over the positions of each map, added up."""
    random = torch.Generator().manual_seed(0)
    maps = [torch.randn([2, 3, 2, 4], generator=random), torch.randn([2, 5, 1, 1], generator=random)]
    want = 0
    for part in maps:
        a, b = part.flatten(2)
        squares = [(a[:, i] / a[:, i].norm() - b[:, i] / b[:, i].norm()).square().sum() for i in range(a.shape[1])]
        want = want + sum(squares) / len(squares)
    feats = projector.unit_maps(maps)
    torch.testing.assert_close((feats[0] - feats[1]).square().sum(), want)


def test_a_teacher_with_maps(network, photos, tmp_path, monkeypatch):
    class Halves(torch.nn.Module):
        def feature_maps(self, x):
            return [x + 1, torch.nn.functional.avg_pool2d(x, 2) + 1]
    teacher = Teacher(Halves(), Preprocess(16, (0.5,) * 3, (0.5,) * 3), 3, 'halves')
    monkeypatch.setattr(projector, 'load_teacher', lambda name, device, option: teacher)
    assert run(network, photos / 'wide.jpg', tmp_path, '--perceptual=lite0', '--num-steps=40')[0] == 0
    record = json.loads((tmp_path / 'projection.json').read_text())
    assert record['perceptual'] == 'halves float32, maps of vectors of length 1'
    assert record['projection']['distance'] < record['mean']['distance'] and record['pixel_weight'] == 10


def test_large_pictures_are_shrunk_for_vgg16():
    img = torch.rand([2, 1, 512, 512]) * 2 - 1
    small = projector.to_vgg16(img)
    assert small.shape == (2, 3, 256, 256)
    torch.testing.assert_close(small[1, 2], (img[1, 0].reshape(256, 2, 256, 2).mean((1, 3)) + 1) * 127.5)
    assert projector.to_vgg16(img[:, :, :16, :16]).shape == (2, 3, 16, 16)


def test_video(network, photos, tmp_path, monkeypatch):
    frames = []
    monkeypatch.setattr(projector.video_files, 'check_mp4', lambda remedy: None)
    monkeypatch.setattr(projector.video_files, 'write_mp4',
                        lambda pictures, path, fps: frames.extend([path, *map(np.asarray, pictures)]))
    assert run(network, photos / 'wide.jpg', tmp_path, '--save-video')[0] == 0
    path, *frames = frames
    assert path == str(tmp_path / 'proj.mp4') and [frame.shape for frame in frames] == [(16, 32, 3)] * 5
    assert all((frame[:, :16] == pixels(tmp_path / 'target.png')).all() for frame in frames)
    assert ((frames[-1][:, 16:] == pixels(tmp_path / 'proj.png')).all() and (frames[0] == frames[1]).all()
            and (frames[1] != frames[4]).any())


def test_video_without_its_package(network, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    code, output = run(network, photos / 'wide.jpg', tmp_path / 'out', '--save-video=1')
    assert (code == 1 and re.search('Error: .*imageio-ffmpeg.* leave --save-video out', output)
            and not (tmp_path / 'out').exists())


def test_wrong_options(network, photos, tmp_path, monkeypatch):
    for name, data in dict(empty='', text='no picture', cut=(photos / 'wide.jpg').read_bytes()[:700]).items():
        (tmp_path / f'{name}.png').write_bytes(data if isinstance(data, bytes) else data.encode())
    monkeypatch.setattr(PIL.EpsImagePlugin, 'Ghostscript', lambda *args, **kwargs: pytest.fail('a program was started'))
    PIL.Image.new('RGB', (8, 8)).save(tmp_path / 'eps.png', 'EPS')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'wide.png').write_bytes((photos / 'wide.jpg').read_bytes())
    wide = photos / 'wide.jpg'
    for target, args, message in [
            (tmp_path / 'no.png', [], 'no.png: there is no such file; name a picture'),
            (tmp_path / 'text.png', [], 'text.png: is not a picture, or damaged at its beginning'),
            (tmp_path / 'empty.png', [], 'empty.png: is not a picture'),
            (tmp_path / 'eps.png', [], 'eps.png: is not a picture'),
            (tmp_path / 'cut.png', [], 'cut.png: is damaged'),
            (tmp_path / 'folder', [], 'folder: there is no picture in this folder'),
            (f'{wide},{tmp_path / "other"}', [], 'would have the same name, wide; rename one of them'),
            (wide, ['--class=1'], 'Error: --class=1: this generator is unconditional'),
            (wide, ['--perceptual=nothing.pt'], 'Error: --perceptual=nothing.pt: there is no such file'),
            (wide, ['--perceptual=nothing.pt'], '; or use --perceptual=lite0, which comes with pip'),
            (wide, ['--perceptual=nothing.safetensors'], 'Error: --perceptual=nothing.safetensors: nothing.safetensors '
                                                         'does not exist')]:
        code, output = run(network, target, tmp_path / 'out', *args)
        assert code == 1 and message in output and not (tmp_path / 'out').exists(), output
    for args, message in [(['--space=z'], "'z' is not one of 'w', 'w+'"),
                          (['--num-steps=0'], '0 is not in the range x>=1'),
                          (['--pixel-weight=-1'], '-1.0 is not in the range x>=0'),
                          (['--pixel-weight=nan'], 'nan is not a finite number'),
                          (['--pixel-weight=inf'], 'inf is not a finite number')]:
        code, output = run(network, wide, tmp_path / 'out', *args)
        assert code == 2 and message in output
    code, output = run(tmp_path / 'no.safetensors', wide, tmp_path / 'out')
    assert code == 1 and 'no.safetensors: there is no such file' in output
    code, output = run(network, wide, tmp_path / 'text.png')
    assert code == 1 and 'text.png: cannot be written: there is a file of this name; choose another folder' in output


def test_a_grey_network_sees_grey_targets(photos, tmp_path):
    save(tmp_path / 'net.safetensors', c_dim=0, img_channels=1)
    assert run(tmp_path / 'net.safetensors', photos / 'wide.jpg', tmp_path / 'out')[0] == 0
    grey = PIL.Image.open(photos / 'wide.jpg').convert('L').crop((10, 0, 30,
                                                                  20)).resize((16, 16), PIL.Image.Resampling.LANCZOS)
    assert ((pixels(tmp_path / 'out' / 'target.png') == np.asarray(grey)).all()
            and pixels(tmp_path / 'out' / 'proj.png').shape == (16, 16))


def test_a_damaged_state(tmp_path):
    (tmp_path / projection_files.STATE_FILE).write_bytes(b'nothing')
    with pytest.raises(UserError, match='the file is damaged .*; delete it, and the same command starts afresh'):
        projection_files.load_state(str(tmp_path), {})
