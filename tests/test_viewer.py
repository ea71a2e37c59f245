"""viewer.py: the pictures that it makes, in this process; the page that shows them, in a real browser."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import browsing
import numpy as np
import PIL.Image
import pytest
import small_generators
import torch
import toy_architecture
from conftest import run_cli

import viewer
from dnnlib import UserError, ports
from training.networks import architectures
from training.snapshots import files as snapshots
from viewing import networks as shown
from viewing import serve

ROOT = pathlib.Path(__file__).parent.parent
HOSTILE = '<script>alert(1)<∕script> "quoted" \'single\' <img src=x onerror=alert(2)> ${1+1} {{1}} 😀.safetensors'
PLAIN = shown.Look(1, None, True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """One network with classes, 16x16, under a hostile name; one without, 32x32."""
    folder = tmp_path_factory.mktemp('networks')
    small_generators.save(folder / HOSTILE)
    small_generators.save(folder / 'plain.safetensors', c_dim=0, img_resolution=32)
    return folder


@pytest.fixture(scope='module')
def classes(folder):
    return shown.Network(str(folder / HOSTILE), 'cpu')


def want(network, seeds, classes, psi=1, noise='const'):
    """uint8 [n, H, W, C] of seeds and classes, the plain way."""
    G = network.G
    z = torch.tensor(np.stack([np.random.RandomState(seed).randn(G.z_dim) for seed in seeds]), dtype=torch.float32)
    c = torch.eye(G.c_dim)[classes] if G.c_dim else None
    with torch.no_grad():
        img = G(z, c, truncation_psi=psi, noise_mode=noise)
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def tiles(picture, side, zoom):
    """uint8 [n, side, side, C] of a picture without captions, row by row."""
    pixels = np.asarray(picture)
    assert (pixels[::zoom, ::zoom].repeat(zoom, 0).repeat(zoom, 1) == pixels).all()
    rows, columns = pixels.shape[0] // side // zoom, pixels.shape[1] // side // zoom
    return pixels[::zoom, ::zoom].reshape(rows, side, columns, side, -1).swapaxes(1, 2).reshape(-1, side, side, 3)


@pytest.mark.parametrize('look, of_row, psi, noise', [
    (PLAIN, [0, 1], 1, 'const'), (shown.Look(0.5, 2, False), [2, 2], 0.5, 'none')])
def test_a_grid(classes, look, of_row, psi, noise):
    found = tiles(classes.grid([5, 6, 7, 8], 2, look), 16, 6)
    expected = want(classes, [5, 6, 7, 8], [of_row[0]] * 2 + [of_row[1]] * 2, psi, noise)
    assert (found == expected).all() and len(np.unique(found.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize('part, layers', [('coarse', [0, 1]), ('middle', [2, 3]), ('fine', [4, 5])])
def test_mixtures(classes, part, layers):
    assert shown.layers_of(part, 6) == layers
    picture = np.asarray(classes.mixtures(3, 4, part, PLAIN))
    assert picture.shape[1] == 4 * 96
    a, b = [classes.G.mapping(torch.tensor(np.random.RandomState(seed).randn(1, 4), dtype=torch.float32),
                              torch.eye(3)[:1]) for seed in (3, 4)]
    mixed = a.clone()
    mixed[:, layers] = b[:, layers]
    with torch.no_grad():
        img = classes.G.synthesis(mixed, noise_mode='const')[0]
    expected = (img * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    assert (picture[:96:6, 192:288:6] == expected).all()


def test_thirds_of_the_layers():
    for num_ws in (5, 8, 14, 18):
        assert sum((shown.layers_of(part, num_ws) for part in shown.PARTS), []) == list(range(num_ws))


def test_a_walk(classes, tmp_path):
    """It begins at the first seed and ends at the last, in the class that was chosen; a video goes there and back."""
    look = shown.Look(1, 1, True)
    for share, seed in ((0, 3), (0.5, 4), (1, 5)):
        found = tiles(classes.on_the_way([3, 4, 5], share, look), 16, 6)
        assert np.abs(found.astype(int) - want(classes, [seed], [1])).max() <= 1
    path = str(tmp_path / 'walk.mp4')
    classes.video(path, [3, 4], 5, look)
    frames, fps = small_generators.read_video(path)
    assert frames.shape == (10, 96, 96, 3) and fps == 30
    assert np.abs(frames[0].astype(int) - want(classes, [3], [1])[0].repeat(6, 0).repeat(6, 1)).mean() < 12
    with pytest.raises(UserError, match='2 seeds with 301 frames each make 602 frames, 600 are the most'):
        classes.video(path, [3, 4], 301, look)


def test_files(classes, tmp_path):
    images, latents = classes.save(str(tmp_path), [3, 4], 1, PLAIN)
    with zipfile.ZipFile(images) as archive:
        assert archive.namelist() == ['seed0003-class0.png', 'seed0004-class1.png']
        found = [np.asarray(PIL.Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    assert (np.stack(found) == want(classes, [3, 4], [0, 1])).all()
    w = torch.from_numpy(np.load(latents)['w'])
    with torch.no_grad():
        img = classes.G.synthesis(w, noise_mode='const')
    expected = want(classes, [3, 4], [0, 1])
    assert ((img * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy() == expected).all()


def test_nearest_photos(classes, tiny_data):
    found = viewer.training_images([classes], tiny_data, None)
    real = found[classes.name]
    imgs = torch.stack([torch.from_numpy(real.dataset[i][0]) for i in (7, 2)])
    classes_images = classes.images
    try:
        classes.images = lambda ws, look: imgs              # of the training: each is its own nearest
        sheet = np.asarray(classes.neighbors([0, 1], PLAIN, real, 2))
    finally:
        classes.images = classes_images
    height = sheet.shape[0] // 2
    for row, i in enumerate((7, 2)):
        for column in (0, 1):
            tile = sheet[row * height:row * height + 96:6, column * 96:column * 96 + 96:6]
            assert (tile == real.dataset[i][0].transpose(1, 2, 0)).all()


def test_data_of_the_size_of_one_network(classes, folder, tiny_data, capsys):
    plain = shown.Network(str(folder / 'plain.safetensors'), 'cpu')
    assert list(viewer.training_images([plain, classes], tiny_data, None)) == [classes.name]
    assert 'plain.safetensors: without its nearest training images' in capsys.readouterr().out
    with pytest.raises(UserError, match='images are 16x16 RGB, the network makes 32x32 RGB'):
        viewer.training_images([plain], tiny_data, None)


def test_a_class_that_another_network_has(classes):
    with pytest.raises(UserError, match='has the classes 0 to 2; choose one of these'):
        classes.grid([0], 1, shown.Look(1, 3, True))


def test_names_that_tell_networks_apart(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        small_generators.save(tmp_path / name / 'x.safetensors')
    one, two = str(tmp_path / 'a' / 'x.safetensors'), str(tmp_path / 'b' / 'x.safetensors')
    found = shown.load_all([one, two, two, 'demo'], 'cpu')
    assert [network.name for network in found] == ['a/x.safetensors', 'b/x.safetensors', 'b/x.safetensors (3)', 'demo']


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The file of a network without w, psi, noise and styles."""
    monkeypatch.setitem(architectures.ARCHITECTURES, 'toy', toy_architecture.ARCHITECTURE)
    path, kwargs = str(tmp_path / 'toy.safetensors'), dict(z_dim=4, c_dim=0, img_resolution=8, img_channels=1)
    snapshots.save_networks(path, dict(G_ema=toy_architecture.Generator(**kwargs)),
                            dict(G_ema=dict(class_name=toy_architecture.G, **kwargs)), {})
    return path


def test_a_network_that_can_do_little(toy, tmp_path):
    network, look = shown.Network(toy, 'cpu'), shown.Look(0.5, None, False)
    assert np.asarray(network.grid([0, 1], 2, look)).shape == (96, 192)
    assert np.asarray(network.on_the_way([0, 1], 0.5, look)).shape == (96, 96)
    assert [os.path.basename(name) for name in network.save(str(tmp_path), [0], 1, look)] == ['images.zip']


LABELS = '''
import json, sys
import toy_architecture
from training.networks import architectures
from viewing import networks, serve
architectures.ARCHITECTURES['toy'] = toy_architecture.ARCHITECTURE
folder, *groups = sys.argv[1:]
Page = serve.load_gradio(folder)
for group in groups:
    page = Page(networks.load_all(group.split('|'), 'cpu'), {}, folder)
    parts = [part['props'] for part in page.blocks.get_config_file()['components']]
    print(json.dumps([part.get('label') or part.get('value') for part in parts if part.get('visible')]))
'''


def test_what_no_network_can_do_is_not_shown(toy, folder, tmp_path):
    """In a process of its own: gradio leaves sockets open."""
    pytest.importorskip('gradio', reason='pip install gradio')
    plain, classes = str(folder / 'plain.safetensors'), str(folder / HOSTILE)
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}'}
    result = subprocess.run([sys.executable, '-c', LABELS, str(tmp_path), toy, plain, f'{toy}|{plain}|{classes}'],
                            env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    of_toy, of_plain, of_all = [set(json.loads(line)) for line in result.stdout.splitlines()]
    assert {'First seed', 'Seeds on the way', 'Make files: images as PNG'} <= of_toy
    psi, noise, styles, choice = 'Truncation psi', 'Noise of the layers', 'Seed A', 'Network'
    assert {psi, noise, styles, choice, 'Class', 'Photos beside each'} & of_toy == set()
    assert {psi, noise, styles, choice, 'Class'} & of_plain == {psi, noise, styles}
    assert {psi, noise, styles, choice, 'Class'} <= of_all


FILES = '''
import os, sys
from viewing import networks, serve
temp, made, network = sys.argv[1:]
page = serve.load_gradio(temp)(networks.load_all([network], 'cpu'), {}, made)
last = 2 ** 32 - 1
from viewing.page import next_seed
for first in (0, last - 15, last - 14, last - 7):
    page.files('plain.safetensors', 0, 2, 1, 1, -1, True)
    print([sorted(os.listdir(at.path)) for at in os.scandir(made)], next_seed(first, 4, 2))
'''


def test_files_of_one_request_are_kept(folder, tmp_path):
    """Those of the latest; and other seeds are the next ones, up to the largest, and then the first ones again."""
    pytest.importorskip('gradio', reason='pip install gradio')
    (tmp_path / 'made').mkdir()
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}'}
    args = [str(tmp_path / 'browsers'), str(tmp_path / 'made'), str(folder / 'plain.safetensors')]
    result = subprocess.run([sys.executable, '-c', FILES, *args], env=env, capture_output=True, text=True)
    names = ['images.zip', 'projected_w.npz']
    assert result.stdout.splitlines() == [f'{[names]} {seed}' for seed in (8, 4294967288, 0, 7)], result.stderr


# -- mistakes

@pytest.mark.parametrize('args, message', [
    (['--network=nowhere.safetensors'], 'Error: --network=nowhere.safetensors: there is no such file'),
    (['--network=demo', '--teacher=lite0'], 'Error: --teacher=lite0: there is nothing to compare; name the training '
                                            'images with --data'),
    (['--network=demo', '--host=192.0.2.1'], 'Error: --host=192.0.2.1: cannot be listened at'),
    ([], 'Usage:')])
def test_mistakes(args, message, monkeypatch):
    monkeypatch.setattr(serve, 'load_gradio', lambda folder: None)
    code, output = run_cli(viewer.main, *args)
    assert code in (1, 2) and output.startswith(message) and 'Traceback' not in output, output


def test_what_is_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, 'load_gradio', lambda folder: None)
    (tmp_path / 'cats.zip').write_bytes(b'PK\x05\x06' + bytes(18))
    code, output = run_cli(viewer.main, f'--network={tmp_path / "cats.zip"}')
    assert code == 1 and output.startswith('Error: ') and 'cats.zip' in output and output.count('\n') <= 1


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    for name in ('GRADIO_ANALYTICS_ENABLED', 'GRADIO_TEMP_DIR', 'HF_HUB_DISABLE_TELEMETRY'):
        monkeypatch.setenv(name, '')
    code, output = run_cli(viewer.main, '--network=demo')
    assert code == 1 and re.fullmatch(r'Error: the viewer needs the package gradio, which cannot be imported \(.*\); '
                                      r'install it with: pip install gradio', output.splitlines()[0]), output


def test_a_port_that_is_taken():
    with serve.listen(serve.LOOPBACK, None) as one:
        taken = one.getsockname()[1]
        with pytest.raises(UserError, match=f'--port={taken}: is taken, or may not be used; name another one'):
            serve.listen(serve.LOOPBACK, taken)
        with serve.listen(serve.LOOPBACK, None) as other:
            assert taken < other.getsockname()[1] < serve.PORT + ports.MORE_PORTS
            assert one.getsockname()[0] == '127.0.0.1'


@pytest.mark.parametrize('host, names', [
    ('127.0.0.1', ['127.0.0.1', 'localhost']), ('localhost', ['localhost', '127.0.0.1']),
    ('127.0.0.2', ['127.0.0.2', 'localhost']), ('::1', ['[::1]', 'localhost']), ('0.0.0.0', None), ('::', None)])
def test_the_names_that_are_answered(host, names):
    """Wherever only this machine can ask, those of this machine."""
    with serve.listen(host, None) as at:
        assert serve.own_names(host, at) == names


# -- in a browser

@pytest.fixture(scope='module')
def address(folder, tiny_data):
    """Of viewer.py in a process of its own, with two networks and the photos of one of them."""
    pytest.importorskip('gradio', reason='pip install gradio')
    command = [sys.executable, 'viewer.py', f'--network={folder / HOSTILE}',
               f'--network={folder / "plain.safetensors"}', f'--data={tiny_data}', '--device=cpu']
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            while not lines or 'Showing' not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], lines
            found = re.search(r' at (http://127\.0\.0\.1:\d+/) \(this machine only\)\. Ctrl-C ends it\.$', lines[-1])
            assert HOSTILE in lines[-1]
            yield found[1]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) == 0 and process.stdout.read().strip() == 'Ended.'


@pytest.fixture
def page(address):
    pytest.importorskip('playwright', reason='pip install playwright')
    with browsing.started() as browser, browsing.quiet_pages(browser) as open_page:
        yield open_page(address)


def picture(page, alt):
    """The pixels of the picture on the page with this alternative text, which is there in the end."""
    image = page.get_by_alt_text(alt, exact=True)
    image.wait_for()
    with urllib.request.urlopen(image.get_attribute('src')) as answer:
        return np.asarray(PIL.Image.open(io.BytesIO(answer.read())))


@browsing.NEEDED
def test_the_page(page, classes, folder, tmp_path):
    from playwright.sync_api import expect
    plain = shown.Network(str(folder / 'plain.safetensors'), 'cpu')
    alt = f'Images of {HOSTILE}'
    assert (tiles(picture(page, alt), 16, 6) == want(classes, range(8), [0] * 4 + [1] * 4)).all()
    assert (tiles(picture(page, 'Images of plain.safetensors'), 32, 3) == want(plain, range(8), None)).all()
    assert page.evaluate("document.querySelector('img[src=x]')") is None
    assert page.get_by_text(HOSTILE, exact=True).count() >= 1

    image = page.get_by_alt_text(alt, exact=True)
    before = image.get_attribute('src')
    page.get_by_label('number input for Truncation psi').fill('0')
    page.get_by_label('number input for Truncation psi').press('Enter')
    expect(image).not_to_have_attribute('src', before)
    assert (tiles(picture(page, alt), 16, 6) == want(classes, range(8), [0] * 4 + [1] * 4, 0)).all()

    page.get_by_role('button', name='Make files').click()
    page.get_by_text('projected_w').wait_for()
    with page.expect_download() as download:
        page.locator('a[download]').last.click()
    download.value.save_as(tmp_path / 'w.npz')
    assert np.load(tmp_path / 'w.npz')['w'].shape == (8, 6, 4)


@browsing.NEEDED
def test_other_tabs(page):
    page.get_by_alt_text('Images of plain.safetensors', exact=True).wait_for()
    page.get_by_role('tab', name='Mix styles').click()
    assert picture(page, 'Two images and their mixtures').shape[1] == 4 * 96
    page.get_by_role('tab', name='Walk').click()
    assert picture(page, 'Image on the way').shape == (96, 96, 3)
    page.get_by_label('Seeds on the way').fill('5,<img src=y>')
    page.get_by_role('button', name='Make a video').click()
    page.get_by_text("Seeds=5,<img src=y>: '<img src=y>' is neither a number nor a range").wait_for()
    assert page.locator('img[src=y]').count() == 0
    page.get_by_label('Seeds on the way').fill('5,6')
    page.get_by_role('button', name='Make a video').click()
    page.locator('video').wait_for(state='attached')
    page.get_by_role('tab', name='Nearest photos').click()
    page.get_by_role('button', name='Find').click()
    assert picture(page, 'Images beside the training images nearest to them').shape[1] == 5 * 96


def test_what_the_server_says(address):
    """A policy that lets no address but its own be asked, no text with an address that a browser would fetch, and no
    answer under the name of another machine."""
    with urllib.request.urlopen(address) as answer:
        text, policy = answer.read().decode(), answer.headers['Content-Security-Policy']
    assert policy == serve.POLICY and 'http' not in policy
    assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text) == []
    assert 'fonts.googleapis' not in text and '"analytics_enabled":false' in text.replace(' ', '')
    with pytest.raises(urllib.error.HTTPError, match='400'):
        urllib.request.urlopen(urllib.request.Request(address, headers=dict(Host='elsewhere.example')))


@pytest.mark.parametrize('route', ['gradio_api/upload', 'gradio_api/upload/', 'gradio_api/upload?upload_id=1'])
def test_no_file_is_taken(address, route):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    headers = {'Content-Type': 'multipart/form-data; boundary=x'}
    with pytest.raises(urllib.error.HTTPError, match='403'):
        urllib.request.urlopen(urllib.request.Request(address + route, body, headers))
