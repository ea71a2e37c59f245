import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli
from small_generators import save

import style_mixing


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A conditional generator of 16x16 images and its file."""
    path = tmp_path_factory.mktemp('net') / 'net.safetensors'
    return str(path), save(path)


def run(net, out, *args):
    return run_cli(style_mixing.main, f'--network={net}', f'--outdir={out}', '--device=cpu', *args)


def pixels(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_a_mixture_has_the_columns_styles_in_its_layers(network, tmp_path):
    path, G = network
    code, output = run(path, tmp_path, '--rows=3,5', '--cols=8', '--styles=0,2-3', '--class=fox', '--trunc=0.8')
    assert code == 0 and f'Saved 3 images and 2 mixtures in {tmp_path}\n' in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ['3-8.png', '5-8.png', 'grid.png', 'seed0003.png',
                                                          'seed0005.png', 'seed0008.png']
    label = torch.tensor([[0, 0, 1.]])
    row, col = [G.mapping(torch.from_numpy(np.random.RandomState(seed).randn(1, 4)).float(), label, truncation_psi=0.8)
                for seed in (5, 8)]
    ws = torch.stack([(col if i in (0, 2, 3) else row)[:, i] for i in range(6)], dim=1)
    want = (G.synthesis(ws, noise_mode='const')[0].permute(1, 2, 0).detach().numpy() * 127.5
            + 128).clip(0, 255).astype(int)
    assert np.abs(pixels(tmp_path / '5-8.png') - want).max() <= 1
    assert (pixels(tmp_path / '5-8.png') != pixels(tmp_path / 'seed0005.png')).any()
    grid = pixels(tmp_path / 'grid.png')                                        # 64 pixels and 13 of text
    assert grid.shape == (3 * 77, 2 * 64, 3)
    assert (grid[154:218:4, 64::4] == pixels(tmp_path / '5-8.png')).all()
    assert (grid[154:218:4, :64:4] == pixels(tmp_path / 'seed0005.png')).all()
    assert (grid[:64:4, 64::4] == pixels(tmp_path / 'seed0008.png')).all() and (grid[:64, :64] == 255).all()


def test_no_and_all_layers(network, tmp_path):
    run(network[0], tmp_path, '--rows=1', '--cols=2', '--styles=0-5')
    assert np.abs(pixels(tmp_path / '1-2.png') - pixels(tmp_path / 'seed0002.png')).max() <= 1
    row, col = torch.zeros(2, 6, 4), torch.ones(3, 6, 4)
    assert style_mixing.mix(row, col, []).sum() == 0 and style_mixing.mix(row, col, [5])[:, :, 5].min() == 1


def test_layers():
    assert style_mixing.parse_layers('0,2-3', 6) == [0, 2, 3]
    assert (style_mixing.parse_layers(None, 14) == list(range(7))
            and style_mixing.parse_layers(None, 18) == list(range(7)))
    assert style_mixing.parse_layers(None, 8) == [0, 1, 2, 3]


@pytest.mark.parametrize('args, message', [
    (['--rows=3-1'], 'Error: --rows=3-1: the range 3-1 runs backwards; write 1-3'),
    (['--cols=a'], "Error: --cols=a: 'a' is neither a number nor a range"),
    (['--styles=0-6'], 'Error: --styles=0-6: this generator has the layers 0 to 5'),
    (['--styles=low'], "Error: --styles=low: 'low' is neither a number nor a range"),
    (['--class=cow'], 'Error: --class=cow: must be a number from 0 to 2'),
    (['--rows=0-999', '--cols=0-999'], 'Error: 1000 --rows and 1000 --cols: these are 1002000 images, a command makes '
                                       'at most 100000'),
    (['--trunc=inf'], 'Error: --trunc=inf: must be a number such as 0.7')])
def test_wrong_options(args, message, network, tmp_path):
    code, output = run(network[0], tmp_path / 'out', *args)
    assert code == 1 and message in output
    assert not (tmp_path / 'out').exists()


def test_unconditional(tmp_path):
    save(tmp_path / 'net.safetensors', c_dim=0)
    assert run(tmp_path / 'net.safetensors', tmp_path / 'out', '--rows=0', '--cols=1-2')[0] == 0
    assert len(list((tmp_path / 'out').iterdir())) == 3 + 2 + 1
