import re

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli
from small_generators import save

import generate
import push_to_hub
from dnnlib import UserError
from viewing.networks import Network


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp('net') / 'net.safetensors'
    return str(path), save(path)


def run(network, out, *args):
    return run_cli(generate.main, f'--network={network}', f'--outdir={out}', '--device=cpu', *args)


def pixels(path):
    return np.asarray(PIL.Image.open(path))


def test_a_seed_gives_the_image_of_its_latent(network, tmp_path):
    path, G = network
    code, output = run(path, tmp_path, '--seeds=3,7-8', '--class=dog')
    assert code == 0 and 'Saved seed0003.png to seed0008.png' in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ['seed0003.png', 'seed0007.png', 'seed0008.png']
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 4)).float()
    img = G(z, torch.tensor([[0., 1, 0]]), noise_mode='const')
    want = ((img[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).detach().numpy()
    assert np.abs(pixels(tmp_path / 'seed0007.png').astype(int) - want).max() <= 1


def test_names_have_the_class_where_classes_take_turns(network, tmp_path):
    assert run(network[0], tmp_path, '--seeds=3,7-8')[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['seed0003-class0.png', 'seed0007-class1.png',
                                                          'seed0008-class2.png']


def test_images_are_written_as_they_are_made(network, tmp_path, monkeypatch):
    """So that those before Ctrl-C stay, and memory does not grow with their number."""
    path, G = network
    made = []

    def stop(self, ws, **kwargs):
        made.append(len(ws))
        if len(made) == 3:
            raise KeyboardInterrupt
        return torch.zeros([len(ws), 3, 16, 16])
    monkeypatch.setattr(type(G.synthesis), 'forward', stop)
    code, _output = run(path, tmp_path, '--seeds=0-9', '--class=0', '--batch=2')
    assert code != 0 and made == [2, 2, 2] and len(list(tmp_path.iterdir())) == 4


def test_vectors_for_labels(tmp_path):
    """Of a network that was trained with them, the numbers are given, and no class is made up."""
    G = save(tmp_path / 'net.safetensors', dataset=dict(label_vectors=True))
    message = ('Error: --class{}: this generator was trained with labels of 3 numbers; give such a one, like '
               '--class=0.5,0.5,0.5')
    for text in ('', '=1', '=0.5,nan,1', '=a,b,c'):
        code, output = run(tmp_path / 'net.safetensors', tmp_path / 'out', *([f'--class{text}'] if text else []))
        assert code == 1 and message.format(text) in output
    assert run(tmp_path / 'net.safetensors', tmp_path / 'out', '--class=0.3,-1,2', '--seeds=7')[0] == 0
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 4)).float()
    img = G(z, torch.tensor([[0.3, -1, 2]]), noise_mode='const')
    want = ((img[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).detach().numpy()
    assert np.abs(pixels(tmp_path / 'out' / 'seed0007.png').astype(int) - want).max() <= 1
    assert run(tmp_path / 'net.safetensors', tmp_path / 'out', '--class=0.3,-1,2', '--grid=2x1')[0] == 0


def test_pages_know_classes_alone(tmp_path):
    save(tmp_path / 'net.safetensors', dataset=dict(label_vectors=True))
    said = 'the network was trained with vectors for labels, and the page knows classes'
    with pytest.raises(UserError, match=f'--network=.*net.safetensors: {said}; use generate.py --class=NUMBERS'):
        Network(str(tmp_path / 'net.safetensors'), 'cpu')
    with pytest.raises(UserError, match=f'--space: {said}; leave it out'):
        push_to_hub.push(None, str(tmp_path / 'net.safetensors'), 'me/x', False, True, True)
    push_to_hub.push(None, str(tmp_path / 'net.safetensors'), 'me/x', False, False, True)


def test_fewer_names_than_classes(tmp_path):
    save(tmp_path / 'net.safetensors', class_names=['cat'])
    code, output = run(tmp_path / 'net.safetensors', tmp_path / 'out')
    assert code == 1 and 'it has 1 names for 3 classes' in output


@pytest.mark.parametrize('w, message', [
    (np.zeros([0, 6, 4]), 'w is empty'), (np.full([1, 6, 4], np.nan), 'w has numbers that are infinite or NaN')])
def test_latents_that_are_none(network, tmp_path, w, message):
    np.savez(tmp_path / 'w.npz', w=np.broadcast_to(w[..., :1], [len(w), network[1].num_ws, network[1].w_dim]))
    code, output = run(network[0], tmp_path / 'out', f'--projected-w={tmp_path / "w.npz"}')
    assert code == 1 and f'{message}; name a projected_w.npz of projector.py' in output


def test_damaged_latents(network, tmp_path):
    """In any place of the file."""
    np.savez_compressed(tmp_path / 'w.npz', w=np.random.rand(1, network[1].num_ws, network[1].w_dim))
    data, random = (tmp_path / 'w.npz').read_bytes(), np.random.RandomState(0)
    for _ in range(30):
        damaged = bytearray(data)
        damaged[random.randint(len(data))] ^= 1 << random.randint(8)
        (tmp_path / 'bad.npz').write_bytes(damaged)
        code, output = run(network[0], tmp_path / 'out', f'--projected-w={tmp_path / "bad.npz"}')
        assert code == 0 or (code == 1 and output.startswith('Error: --projected-w=')), output


def test_images_do_not_depend_on_the_batch(network, tmp_path):
    for batch in (1, 5):
        run(network[0], tmp_path / str(batch), '--seeds=0-4', '--class=0', f'--batch={batch}', '--trunc=0.7')
    for seed in range(5):
        a, b = [pixels(tmp_path / batch / f'seed{seed:04d}.png').astype(int) for batch in ('1', '5')]
        assert np.abs(a - b).max() <= 1


def test_grid_with_and_without_labels(network, tmp_path):
    assert run(network[0], tmp_path / 'a', '--grid=4x2')[0] == 0
    assert run(network[0], tmp_path / 'b', '--grid=4x2', '--labels=0')[0] == 0
    labelled, plain = pixels(tmp_path / 'a' / 'grid.png'), pixels(tmp_path / 'b' / 'grid.png')
    assert plain.shape == (32, 64, 3)
    assert labelled.shape[1] == 4 * 64 and labelled.shape[0] > 2 * 64           # enlarged, with a line of text
    assert (labelled[:64:4, :64:4] == plain[:16, :16]).all()


def test_rows_of_a_grid_are_classes():
    assert generate.classes_of(list(range(8)), 2, None, 3) == [0, 0, 1, 1, 2, 2, 0, 0]
    assert generate.classes_of([1, 2], 2, 2, 3) == [2, 2]
    assert generate.classes_of([1, 2], None, None, 0) is None
    assert (generate.labels_of([5], [1], ['cat', 'dog']) == ['dog, seed 5']
            and generate.labels_of([5], None, None) == ['seed 5'])


def test_projected_latents(network, tmp_path):
    path, G = network
    ws = G.mapping(torch.randn(2, 4), torch.eye(3)[:2]).detach()
    np.savez(tmp_path / 'w.npz', w=ws.numpy())
    assert run(path, tmp_path / 'out', f'--projected-w={tmp_path / "w.npz"}')[0] == 0
    want = ((G.synthesis(ws[1:], noise_mode='const')[0]
             + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).detach().numpy()
    assert np.abs(pixels(tmp_path / 'out' / 'proj01.png').astype(int) - want).max() <= 1


def test_noise_modes_and_truncation_differ(network, tmp_path):
    for name, args in dict(const=[], none=['--noise-mode=none'], zero=['--trunc=0']).items():
        run(network[0], tmp_path / name, '--seeds=0-1', '--class=0', *args)
    const, none, zero = [pixels(tmp_path / name / 'seed0000.png') for name in ('const', 'none', 'zero')]
    assert (const != none).any() and (const != zero).any()
    assert (zero == pixels(tmp_path / 'zero' / 'seed0001.png')).all()           # truncated to the average


@pytest.mark.parametrize('args, message', [
    (['--seeds=3-1'], 'Error: --seeds=3-1: the range 3-1 runs backwards; write 1-3'),
    (['--seeds=a'], "Error: --seeds=a: 'a' is neither a number nor a range"),
    (['--grid=4'], 'Error: --grid=4: must be columns x rows, like 8x6'),
    (['--grid=0x4'], 'Error: --grid=0x4'),
    (['--labels=0'], 'Error: --labels=0: has no effect without --grid; leave it out'),
    (['--labels=1'], 'Error: --labels=1: has no effect without --grid; leave it out'),
    (['--grid=1x1', '--seeds=0-3'], 'Error: --grid=1x1: holds 1 images, there are 4; use a larger grid'),
    (['--seeds=99999999999'], 'Error: --seeds=99999999999: a seed must be below 2^32'),
    (['--seeds=0-4000000000'], 'Error: --seeds=0-4000000000: these are 4000000001 images, a command makes at most '
                               '100000; run it several'),
    (['--seeds=0-99999,0'], 'these are 100001 images'),
    ([f'--seeds={"9" * 5000}'], 'is neither a number nor a range'),
    (['--grid=99999x9999'], 'Error: --grid=99999x9999: these are 999890001 images'),
    ([f'--grid={"9" * 5000}x1'], 'must be columns x rows'),
    (['--grid=00x1'], 'must be columns x rows'),
    (['--class=²'], 'Error: --class=²: must be a number from 0 to 2'),
    ([f'--class={"9" * 5000}'], 'must be a number from 0 to 2'),
    (['--trunc=nan'], 'Error: --trunc=nan: must be a number such as 0.7'),
    (['--projected-w=w.npz', '--seeds=1'], 'Error: --projected-w=w.npz: the latents are given; leave --seeds'),
    (['--class=5'], 'Error: --class=5: must be a number from 0 to 2 or one of cat, dog, fox'),
    (['--class=cow'], 'Error: --class=cow: must be a number from 0 to 2'),
    (['--projected-w=nothing.npz'], 'Error: --projected-w=nothing.npz: there is no such file')])
def test_wrong_options(args, message, network, tmp_path):
    code, output = run(network[0], tmp_path / 'out', *args)
    assert code == 1 and message in output
    assert not (tmp_path / 'out').exists()


def test_wrong_files(network, tmp_path):
    code, output = run(tmp_path / 'no.safetensors', tmp_path / 'out')
    assert code == 1 and re.search(r'Error: .*no\.safetensors: there is no such file', output)
    (tmp_path / 'net.pkl').write_bytes(b'\x80\x04')
    code, output = run(tmp_path / 'net.pkl', tmp_path / 'out')
    assert code == 1 and 'net.pkl: it ends too early' in output
    np.savez(tmp_path / 'w.npz', w=np.zeros([1, 2, 3]))
    code, output = run(network[0], tmp_path / 'out', f'--projected-w={tmp_path / "w.npz"}')
    assert code == 1 and re.search(r'w has shape \[1, 2, 3\], this generator takes \[n, 6, 4\]', output)
    np.save(tmp_path / 'd.npy', np.zeros(3))
    (tmp_path / 'text.npz').write_text('latents')
    np.savez(tmp_path / 'x.npz', x=np.zeros(3))
    for name, message in [('d.npy', 'is not an .npz file'), ('text.npz', 'is not an .npz file'),
                          ('x.npz', 'cannot be read .*with an entry w')]:
        code, output = run(network[0], tmp_path / 'out', f'--projected-w={tmp_path / name}')
        assert code == 1 and re.search(f'Error: --projected-w=.*{name}: {message}', output), output


def test_unconditional_generator_takes_no_class(tmp_path):
    save(tmp_path / 'net.safetensors', c_dim=0)
    code, output = run(tmp_path / 'net.safetensors', tmp_path / 'out', '--class=1')
    assert code == 1 and 'Error: --class=1: this generator is unconditional; leave --class out' in output
    assert run(tmp_path / 'net.safetensors', tmp_path / 'out', '--seeds=0')[0] == 0
