"""generate.py video, truncation and neighbors."""

import json
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli
from small_generators import read_video, save

import generate
from kd_plugin.teacher import load_teacher


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A conditional generator of 16x16 images and its file."""
    path = tmp_path_factory.mktemp('net') / 'net.safetensors'
    return str(path), save(path)


def run(command, net, out, *args):
    return run_cli(generate.main, command, f'--network={net}', f'--outdir={out}', '--device=cpu', *args)


def pixels(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_the_plain_command_keeps_its_form(network, tmp_path):
    code, output = run_cli(generate.main, '--help')
    assert code == 0 and 'Usage: main [OPTIONS]' in output and 'video' in output and '--projected-w' in output
    code, output = run_cli(generate.main, 'video', '--help')
    assert code == 0 and 'Usage: main video [OPTIONS]' in output and '--interpolation' in output
    code, output = run_cli(generate.main, f'--network={network[0]}', f'--outdir={tmp_path / "out"}', 'video')
    assert (code == 2
            and f'Error: put the command first: main video --network={network[0]} '
                f'--outdir={tmp_path / "out"}\n' in output)
    code, output = run_cli(generate.main, '--network', 'n', 'video', '--outdir=o p', '--loop=0')
    assert code == 2 and "Error: put the command first: main video --network n '--outdir=o p' --loop=0\n" in output
    assert not (tmp_path / 'out').exists()
    assert 'Got unexpected extra argument (more)' in run_cli(generate.main, f'--network={network[0]}',
                                                             '--outdir=o', 'more')[1]
    assert 'Missing option' in run_cli(generate.main)[1]
    code, output = run_cli(generate.main, 'vidoe', f'--network={network[0]}')
    assert code == 2 and "Error: 'vidoe' is no command; the commands are neighbors, truncation, video" in output


def test_video_of_several_walks(network, tmp_path):
    code, output = run('video', network[0], tmp_path, '--grid=2x1', '--seeds=0-5', '--steps=4', '--zoom=2', '--fps=10')
    assert code == 0 and f'Saved 12 frames as video.mp4 in {tmp_path}' in output
    frames, fps = read_video(tmp_path / 'video.mp4')
    assert frames.shape == (12, 32, 64, 3) and fps == 10


@pytest.mark.parametrize('space', ['z', 'w'])
def test_the_keyframes_of_a_video_are_the_images_of_their_seeds(space, network, tmp_path):
    code, output = run('video', network[0], tmp_path / 'video', '--frames', '--seeds=3,7', '--steps=2', '--class=dog',
                       '--trunc=0.7', '--loop=0', f'--space={space}')
    assert code == 0 and 'Saved 3 frames in' in output
    run_cli(generate.main, f'--network={network[0]}', f'--outdir={tmp_path}', '--device=cpu', '--seeds=3,7',
            '--class=dog', '--trunc=0.7')
    for frame, seed in ((0, 3), (2, 7)):
        of_video, of_seed = tmp_path / 'video' / f'frame{frame:05d}.png', tmp_path / f'seed{seed:04d}.png'
        assert np.abs(pixels(of_video) - pixels(of_seed)).max() <= 1


def test_video_of_projected_latents(network, tmp_path):
    path, G = network
    ws = torch.randn(2, 6, 4)
    np.savez(tmp_path / 'w.npz', w=ws.numpy())
    code, output = run('video', path, tmp_path / 'out', '--frames', f'--projected-w={tmp_path / "w.npz"}', '--steps=2',
                       '--interpolation=linear')
    assert code == 0 and 'Saved 4 frames in' in output
    want = G.synthesis(ws.mean(dim=0, keepdim=True), noise_mode='const')[0].permute(1, 2,
                                                                                    0).detach().numpy() * 127.5 + 128
    assert np.abs(pixels(tmp_path / 'out' / 'frame00001.png') - want.clip(0, 255).astype(int)).max() <= 1


def test_without_imageio_ffmpeg(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    code, output = run('video', network[0], tmp_path / 'out', '--seeds=0', '--steps=1')
    assert (code == 1 and 'Error: mp4: the package imageio-ffmpeg cannot be imported' in output
            and 'or add --frames for PNG files' in output)
    assert not (tmp_path / 'out').exists()
    assert run('video', network[0], tmp_path / 'out', '--seeds=0', '--steps=1', '--frames')[0] == 0


def test_truncation_sweep(network, tmp_path):
    code, output = run('truncation', network[0], tmp_path, '--seeds=2,4', '--trunc=0,0.5,1', '--class=1')
    assert (code == 0 and 'Saved seed0002-trunc0.png to seed0004-trunc1.png' in output
            and 'Saved truncation.png' in output)
    run_cli(generate.main, f'--network={network[0]}', f'--outdir={tmp_path}', '--device=cpu', '--seeds=4', '--class=1',
            '--trunc=0.5')
    half = pixels(tmp_path / 'seed0004-trunc0.5.png')
    assert np.abs(half - pixels(tmp_path / 'seed0004.png')).max() <= 1
    assert (pixels(tmp_path / 'seed0002-trunc0.png') == pixels(tmp_path / 'seed0004-trunc0.png')).all()
    sheet = pixels(tmp_path / 'truncation.png')
    assert sheet.shape[1] == 3 * 96 and (sheet[sheet.shape[0] // 2:][:96:6, 96:192:6] == half).all()


@pytest.mark.parametrize('space', ['pixels', 'teacher'])
def test_neighbors(space, network, tiny_data, tmp_path):
    code, output = run('neighbors', network[0], tmp_path, f'--data={tiny_data}', '--seeds=1,9', '--nearest=3',
                       f'--space={space}', *(['--teacher=demo'] if space == 'teacher' else []), '--mirror=1')
    assert code == 0 and 'Saved neighbors.png' in output
    record = json.loads((tmp_path / 'neighbors.json').read_text())
    assert (record['data']['images'] == 12
            and record['teacher'] == (f'{load_teacher("demo").identity} float32' if space == 'teacher' else None))
    assert [(row['seed'], row['class'], len(row['nearest'])) for row in record['neighbors']] == [(1, 0, 3), (9, 1, 3)]
    for row in record['neighbors']:
        distances = [n['distance'] for n in row['nearest']]
        assert distances == sorted(distances) and distances[0] > 0
        assert len({n['image'] for n in row['nearest']}) == 3
    assert pixels(tmp_path / 'neighbors.png').shape[1] == 4 * 96


def test_neighbors_know_the_data_of_the_training(tiny_data, tmp_path):
    from training.snapshots import files as snapshots
    save(tmp_path / 'a.safetensors')
    loaded = snapshots.load_networks(str(tmp_path / 'a.safetensors'), 'cpu', names=['G_ema'])
    info = dict(options=dict(training_set_kwargs=dict(path=tiny_data, xflip=True)), cur_nimg=0)
    snapshots.save_networks(str(tmp_path / 'b.safetensors'), loaded.networks, loaded.info['networks'], info)
    code, output = run('neighbors', tmp_path / 'b.safetensors', tmp_path / 'out', '--seeds=1', '--space=pixels')
    assert code == 1 and 'the data set that the snapshot was trained on is not there any more; name it' in output
    # The run has the path, the snapshot the name.
    (tmp_path / 'training_options.json').write_text(json.dumps(info['options']))
    assert run('neighbors', tmp_path / 'b.safetensors', tmp_path / 'out', '--seeds=1', '--space=pixels')[0] == 0
    data = json.loads((tmp_path / 'out' / 'neighbors.json').read_text())['data']
    assert data['mirrored'] is True and data['name'] == 'tiny'


@pytest.mark.parametrize('command, args, message', [
    ('video', ['--seeds=3-1'], 'Error: --seeds=3-1: the range 3-1 runs backwards'),
    ('video', ['--trunc=0.5,a'], 'Error: --trunc=0.5,a: must be numbers such as 0.7'),
    ('video', ['--grid=2x2', '--seeds=0-4'], 'Error: --grid=2x2: 5 keyframes cannot be shared by 4 walks'),
    ('video', ['--projected-w=w.npz', '--seeds=1'], 'Error: --projected-w=w.npz: the latents are given, in w; '
                                                    'leave --seeds'),
    ('video', ['--projected-w=nothing.npz'], 'Error: --projected-w=nothing.npz: there is no such file; name a '
                                             'projected_w.npz'),
    ('video', ['--class=cow'], 'Error: --class=cow: must be a number from 0 to 2'),
    ('video', ['--seeds=0-2000000'], 'Error: --seeds=0-2000000: these are 2000001 images, a command makes at '
                                     'most 100000'),
    ('video', ['--steps=100001'], 'Error: --steps=100001: these are 100001 images, a command makes at most 100000'),
    ('video', ['--steps=50001', '--seeds=1,2'], 'Error: --steps=50001 between 2 keyframes: these are 100002 images'),
    ('video', ['--zoom=2000'], 'Error: --zoom, --grid: the frames would have 32000x32000 pixels, 16384 a side is '
                               'the most'),
    ('video', ['--trunc=1e300'], 'Error: --trunc=1e300: must be numbers such as 0.7, with commas between them, from '
                                 '-100 to 100'),
    ('truncation', ['--seeds=0-19999'], 'Error: 20000 --seeds and 6 --trunc: these are 120000 images, a command makes '
                                        'at most 100000'),
    ('truncation', ['--trunc=nan'], 'Error: --trunc=nan: must be numbers such as 0.7'),
    ('truncation', ['--trunc='], 'Error: --trunc=: must be numbers such as 0.7'),
    ('neighbors', [], 'the snapshot does not say what it was trained on; name the real images with --data=PATH'),
    ('neighbors', ['--data=demo', '--teacher=nothing'], ', or --space=pixels'),
    ('neighbors', ['--data=demo', '--teacher=nothing.safetensors'],
     'Error: --teacher=nothing.safetensors: nothing.safetensors does not exist'),
    ('neighbors', ['--data=none.zip'], 'none.zip'),
    ('neighbors', ['--data=demo', '--space=pixels', '--teacher=demo'],
     'Error: --teacher=demo: has no effect with --space=pixels; leave it out'),
    ('video', ['--frames', '--fps=10'],
     'Error: --fps=10: has no effect with --frames, which have no speed; leave it out'),
    ('video', ['--frames', '--seed=0'], 'Error: --seed=0: has no effect with --noise-mode=const; leave it out'),
    ('video', ['--frames', '--noise-mode=none', '--seed=3'],
     'Error: --seed=3: has no effect with --noise-mode=none; leave it out')])
def test_wrong_options(command, args, message, network, tmp_path):
    code, output = run(command, network[0], tmp_path / 'out', *args)
    assert code == 1 and message in output
    assert len(set(output.splitlines())) == 1 and not (tmp_path / 'out').exists()


def test_data_of_another_size(network, tmp_path):
    for i in range(2):
        PIL.Image.new('RGB', (32, 32), (i, 0, 0)).save(tmp_path / f'{i}.png')
    code, output = run('neighbors', network[0], tmp_path / 'out', f'--data={tmp_path}', '--space=pixels')
    assert code == 1 and f'Error: --data={tmp_path}: images are 32x32 RGB, the network makes 16x16 RGB' in output


def test_a_generator_without_an_average(tmp_path):
    save(tmp_path / 'net.safetensors', mapping_kwargs=dict(num_layers=1, w_avg_beta=None))
    for command in ('video', 'truncation', None):
        args = [f'--network={tmp_path / "net.safetensors"}', f'--outdir={tmp_path / "out"}', '--device=cpu',
                '--trunc=0.5']
        code, output = run_cli(generate.main, *([command] if command else []), *args)
        assert (code == 1
                and 'Error: --trunc=0.5: this generator keeps no average of w to draw towards; use --trunc=1' in output)
    assert run('video', tmp_path / 'net.safetensors', tmp_path / 'out', '--seeds=0-1', '--steps=1', '--frames',
               '--interpolation=spherical')[0] == 0


def test_rows_of_a_grid_are_drawn_as_classes(network, tmp_path):
    """A grid of three classes holds what --class makes of the same seeds."""
    run_cli(generate.main, f'--network={network[0]}', f'--outdir={tmp_path}', '--device=cpu', '--grid=2x3',
            '--labels=0')
    grid = pixels(tmp_path / 'grid.png')
    for row in range(3):
        out = tmp_path / str(row)
        run_cli(generate.main, f'--network={network[0]}', f'--outdir={out}', '--device=cpu',
                f'--seeds={2 * row}-{2 * row + 1}', f'--class={row}')
        want = np.concatenate([pixels(path) for path in sorted(out.iterdir())], axis=1)
        assert np.abs(grid[row * 16:row * 16 + 16] - want).max() <= 1
