"""export.py --format=web: the folder that it writes, and the page in it in a real browser."""

import functools
import http.server
import json
import pathlib
import re
import shutil
import sys
import tarfile

import browsing
import network_server
import numpy as np
import pytest
import small_generators
import torch
from conftest import run_cli

import export
from dnnlib import UserError
from inference import export_files, export_web
from training.snapshots import files as snapshots

HOSTILE = ['</script><script>alert(1)</script>', '"fox" & \'dog\' 😀', '<img src=x onerror=alert(2)>']
PACKAGE = pathlib.Path(sys.prefix) / f'onnxruntime-web-{export_web.VERSION}.tgz'
RUNTIME_NEEDED = pytest.mark.skipif(
    not PACKAGE.exists(), reason=f'there is no {PACKAGE}: {export_web.GET_IT} --pack-destination={sys.prefix}')


def run(network, dest, runtime, *args):
    return run_cli(export.main, f'--network={network}', '--format=web', f'--dest={dest}', f'--runtime={runtime}', *args)


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory):
    """A folder with files of the names of the runtime, which do nothing."""
    folder = tmp_path_factory.mktemp('onnxruntime-web') / 'dist'
    folder.mkdir()
    for name in export_web.RUNTIME:
        (folder / name).write_text(f'not the real {name}')
    return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory, stand_in):
    """(folder of the page, its generator): of three classes, whose names are hostile."""
    folder = tmp_path_factory.mktemp('web')
    G = small_generators.save(folder / 'net.safetensors')
    snapshot = snapshots.load_networks(str(folder / 'net.safetensors'))
    kwargs = dict(G_ema=snapshot.info['networks']['G_ema'])
    snapshots.save_networks(str(folder / 'net.safetensors'), dict(G_ema=G), kwargs, dict(class_names=HOSTILE))
    runtime = PACKAGE if PACKAGE.exists() else stand_in.parent
    code, output = run(folder / 'net.safetensors', folder / 'site/', runtime)
    assert code == 0, output
    assert re.search(r'site \(generator: \d\.\d MB\): 15 images from random inputs differ', output)
    return folder / 'site', G


def test_what_is_in_the_folder(made):
    site, _ = made
    names = {path.relative_to(site).as_posix() for path in site.rglob('*') if path.is_file()}
    assert names == {'index.html', 'style.css', 'page.js', 'generator.js', 'worker.js', 'latents.js', 'generator.onnx',
                     'runtime/ort.js', 'runtime/ort.wasm', 'LICENSES.txt'}
    own = ''.join((site / name).read_text() for name in names if name.endswith(('.js', '.html', '.css'))
                  and not name.startswith('runtime'))
    assert re.findall('https?://', own) == []
    assert re.findall(r'\bon\w+=|style=', (pathlib.Path(export_web.HERE) / 'index.html').read_text()) == []
    assert [path.name for path in site.parent.iterdir()] in (['net.safetensors', 'site'], ['site', 'net.safetensors'])


def test_the_batch_is_free(made):
    """Activations are scaled: the weights of all convolutions are constants, and none is grouped by image."""
    onnx = pytest.importorskip('onnx')
    graph = onnx.load(made[0] / 'generator.onnx').graph
    constants = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in ('Conv', 'ConvTranspose')]
    made_of = {output: node for node in graph.node for output in node.output}

    def constant(name):
        return name in constants or (name in made_of and all(map(constant, filter(None, made_of[name].input))))
    assert len(convolutions) >= 8 and all(constant(node.input[1]) for node in convolutions)
    assert [dim.dim_param for dim in graph.output[0].type.tensor_type.shape.dim][0] == 'N'


def facts_of(tmp_path, **changes):
    small_generators.save(tmp_path / 'x.safetensors', **changes)
    snapshot = snapshots.load_networks(str(tmp_path / 'x.safetensors'))
    return export_web.facts(export_files.Export('web', snapshot.G_ema, snapshot.info, 'z', 'const', 18, {}))


def test_what_the_page_knows(tmp_path):
    assert facts_of(tmp_path) == dict(z_dim=4, classes=['cat', 'dog', 'fox'], truncation=True, resolution=16,
                                      channels=3)
    plain = dict(c_dim=0, img_channels=1, mapping_kwargs=dict(num_layers=1, w_avg_beta=None))
    assert facts_of(tmp_path, **plain) == dict(z_dim=4, classes=[], truncation=False, resolution=16, channels=1)


def test_one_version_everywhere():
    root = pathlib.Path(export.__file__).parent
    for name, times in (('Makefile', 1), ('docs/export.md', 3)):
        found = re.findall(r'onnxruntime-web[@-](\d[\d.]*\d)', (root / name).read_text())
        assert found == [export_web.VERSION] * times, name


# -- mistakes

@pytest.mark.parametrize('args, message', [
    (['--format=web'], 'Error: --format=web: needs the package onnxruntime-web, which the page is given a copy of; get '
                       'it with "npm pack onnxruntime-web@'),
    (['--format=web', '--runtime=nowhere'], 'Error: --runtime=nowhere: there is no such file or folder; get it with'),
    (['--format=web', '--runtime=.'], 'Error: --runtime=.: there is no ort.wasm.bundle.min.mjs or no '),
    (['--format=web', '--runtime=no.tgz'], 'Error: --runtime=no.tgz: cannot be read as a package of npm ('),
    (['--format=web', '--runtime=other.tgz'], 'Error: --runtime=other.tgz: there is no ort.wasm.bundle.min.mjs'),
    (['--format=web', '--input=w'], 'Error: --input=w: --format=web has no such choice; leave it out'),
    (['--format=onnx', '--dest=x.onnx', '--runtime=no.tgz'],
     'Error: --runtime=no.tgz: --format=onnx takes no runtime with it; leave it out')])
def test_mistakes(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'no.tgz').write_bytes(b'text')
    with tarfile.open(tmp_path / 'other.tgz', 'w:gz'):
        pass
    code, output = run_cli(export.main, '--network=demo', '--dest=site', *args)
    assert code == 1 and output.startswith(message), output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['no.tgz', 'other.tgz']


def packed(path, stand_in):
    with tarfile.open(path, 'w:gz') as archive:
        archive.add(stand_in, 'package/dist')
    return path.read_bytes()


def test_a_packed_runtime(stand_in, tmp_path):
    packed(tmp_path / 'x.tgz', stand_in)
    assert export_web._read(str(tmp_path / 'x.tgz')) == {
        name: (stand_in / name).read_bytes() for name in export_web.RUNTIME}


def test_a_damaged_runtime(stand_in, tmp_path):
    """Cut off anywhere, or with other bits, or with folders under the names of the files: one line."""
    path, whole = tmp_path / 'x.tgz', packed(tmp_path / 'x.tgz', stand_in)
    damaged = [whole[:length] for length in (0, 8, 40, len(whole) // 2, len(whole) - 4)]
    for content in [*damaged, whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r'x\.tgz: cannot be read as a package of npm \(.*\); get it with "npm'):
            export_web.check_runtime(str(path))
    with tarfile.open(path, 'w:gz') as archive:
        for name in export_web.RUNTIME:
            archive.add(stand_in, f'package/dist/{name}', recursive=False)
    with pytest.raises(UserError, match='there is no ort.wasm.bundle.min.mjs'):
        export_web.check_runtime(str(path))


def test_a_folder_that_is_there(tmp_path, stand_in):
    (tmp_path / 'mine.txt').write_text('mine')
    code, output = run('demo', tmp_path, stand_in)
    assert code == 1 and output.startswith(f'Error: --dest={tmp_path}: is there already; name a new folder'), output
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_nothing_is_left_of_a_failure(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(export_files, 'write', lambda *args: (_ for _ in ()).throw(OSError(28, 'No space left')))
    code, output = run('demo', tmp_path / 'site', stand_in)
    assert code == 1 and 'the disk is full' in output and list(tmp_path.iterdir()) == []


# -- in a browser

class Files(http.server.SimpleHTTPRequestHandler):
    """Any server of files: it knows only the oldest types."""
    extensions_map = {'.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css',
                      '': 'application/octet-stream'}

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def browser():
    pytest.importorskip('playwright', reason='pip install playwright')
    with browsing.started() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    with browsing.quiet_pages(browser) as open_page:
        yield open_page


@pytest.fixture(scope='module')
def address(made):
    with network_server.serving(functools.partial(Files, directory=str(made[0]))) as server:
        yield f'{server.address}/'


def want(G, seeds, psi, label):
    z = torch.tensor(np.stack([np.random.RandomState(seed).randn(G.z_dim) for seed in seeds]), dtype=torch.float32)
    with torch.no_grad():
        return G(z, torch.eye(3)[[label] * len(seeds)], truncation_psi=psi, noise_mode='const').numpy()


def drawn(page, number):
    """The pixels of a picture of the page [16, 16, 3]."""
    found = page.locator('figure img').nth(number).evaluate('''async image => {
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext('2d');
        canvas.drawImage(image, 0, 0);
        return [...canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data];
    }''')
    return np.array(found).reshape(16, 16, 4)[:, :, :3]


def ready(page):
    from playwright.sync_api import expect
    expect(page.locator('#status')).to_contain_text('s each', timeout=browsing.LIMIT)
    return page


@browsing.NEEDED
@RUNTIME_NEEDED
def test_images_are_those_of_torch(made, address, open_page):
    """As many at once as one likes."""
    page = ready(open_page(address))
    ask = "async request => [...await (await import('./generator.js')).images(request)]"
    for seeds, psi, label in ([0, 5, 2 ** 32 - 1], 1, 2), ([7], 0.3, 0), ([1, 2], -0.5, 1):
        found = np.array(page.evaluate(ask, dict(seeds=seeds, psi=psi, label=label)))
        expected = want(made[1], seeds, psi, label)
        assert np.abs(found.reshape(expected.shape) - expected).max() < 1e-3
        assert expected.std() > 0.1


@browsing.NEEDED
@pytest.mark.parametrize('seed', [0, 5, 2 ** 31, 2 ** 32 - 1])
def test_a_seed_is_that_of_numpy(seed, address, browser):
    page = browser.new_page()
    page.goto(address)
    found = page.evaluate("async seed => [...(await import('./latents.js')).latent(seed, 1301)]", seed)
    page.close()
    np.testing.assert_allclose(found, np.random.RandomState(seed).randn(1301).astype(np.float32), rtol=1e-6)


@browsing.NEEDED
@RUNTIME_NEEDED
def test_what_a_visitor_chooses(made, address, open_page):
    from playwright.sync_api import expect
    page = ready(open_page(address))
    G, to_uint8 = made[1], lambda img: np.floor(np.clip(img * 127.5 + 128, 0, 255)).astype(int).transpose(1, 2, 0)
    assert page.locator('figure img').count() == 4
    for number in range(4):
        assert np.abs(drawn(page, number) - to_uint8(want(G, [number], 0.7, 0)[0])).max() <= 1
    page.get_by_label('Class').select_option(label=HOSTILE[1])
    page.get_by_label('Images').select_option('1')
    page.get_by_label('Psi').fill('0.25')
    page.get_by_label('Seed as a number').fill('300')
    image = page.get_by_alt_text(f'Generated image of seed 300, psi 0.25, {HOSTILE[1]}', exact=True)
    expect(image).to_be_visible(timeout=browsing.LIMIT)
    assert np.abs(drawn(page, 0) - to_uint8(want(G, [300], 0.25, 1)[0])).max() <= 1
    assert page.get_by_label('Seed', exact=True).input_value() == '300'
    page.get_by_label('Seed', exact=True).press('ArrowRight')
    expect(page.locator('figcaption')).to_have_text('seed 301', timeout=browsing.LIMIT)
    page.get_by_role('button', name='Other seeds').click()
    expect(page.locator('figcaption')).to_have_text('seed 302', timeout=browsing.LIMIT)
    assert page.locator('figure a').get_attribute('download') == 'seed0302.png'
    page.get_by_label('Seed as a number').fill('4294967294')
    for seed in (4294967295, 0):
        page.get_by_role('button', name='Other seeds').click()
        expect(page.locator('figcaption')).to_have_text(f'seed {seed}', timeout=browsing.LIMIT)
    assert page.locator('option').filter(has_text='alert').all_inner_texts() == [HOSTILE[0], HOSTILE[2]]


@browsing.NEEDED
@RUNTIME_NEEDED
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1180])
def test_the_page_is_legible(width, scheme, address, open_page):
    page = ready(open_page(address, width, scheme))
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    found = page.evaluate(browsing.CONTRAST)
    assert len(found) > 8 and [entry for entry in found if entry[0] < 4.5] == []
    assert browsing.bad_images(page) == []
    for name in ('Seed', 'Seed as a number', 'Psi (low: typical) 0.70', 'Class', 'Images'):
        assert page.get_by_label(name, exact=True).count() == 1, name


@browsing.NEEDED
def test_a_server_that_gives_another_file(made, tmp_path, open_page):
    """Many answer every wrong address with the same page."""
    shutil.copytree(made[0], tmp_path / 'site')
    (tmp_path / 'site' / 'runtime' / 'ort.js').write_text('export const env = {wasm: {}};')
    (tmp_path / 'site' / 'runtime' / 'ort.wasm').write_text('<!doctype html>')
    with network_server.serving(functools.partial(Files, directory=str(tmp_path / 'site'))) as server:
        page = open_page(f'{server.address}/')
        said = 'It does not work: runtime/ort.wasm: the server gives something else under this name'
        page.get_by_text(said).wait_for()
        assert page.get_by_text(said).count() == 1


def test_the_page_says_what_it_knows(made):
    """As data that no name of a class ends."""
    text = (made[0] / 'index.html').read_text()
    data = re.search(r'<script type="application/json" id="facts">(.*?)</script>', text, re.S)[1]
    assert json.loads(data)['classes'] == HOSTILE and text.count('<script') == 2


@RUNTIME_NEEDED
def test_the_files_of_the_runtime_are_those_of_the_package(made):
    with tarfile.open(PACKAGE) as archive:
        for source, target in export_web.RUNTIME.items():
            assert (made[0] / target).read_bytes() == archive.extractfile(f'package/dist/{source}').read()
