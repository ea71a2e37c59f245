"""training/dataset/decode.py: the same pixels with pyspng and without; and which packages a program cannot do
without."""

import ast
import importlib.util
import io
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from made_images import noise

from dnnlib import UserError, files
from inference.walk import Walk
from training.dataset import DatasetError, ImageFolderDataset
from training.dataset import decode as image_decode

ROOT = pathlib.Path(__file__).parent.parent


def encode(picture, **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)).save(buffer, 'png', **options)
    return buffer.getvalue()


@pytest.fixture(params=['pyspng', 'Pillow'])
def decoder(request, monkeypatch):
    if request.param == 'Pillow':
        monkeypatch.setattr(image_decode, 'pyspng', None)
    elif image_decode.pyspng is None:
        pytest.skip('pyspng is not installed')
    return request.param


blocks = np.kron(noise(2, 4, 3), np.ones([8, 4, 1], np.uint8))           # few colours: a palette loses none


@pytest.mark.parametrize('picture, want', [
    (noise(16, 16, 3), noise(16, 16, 3)), (noise(16, 16), noise(16, 16)),
    (noise(16, 16).astype(np.uint16) * 257, noise(16, 16)), (PIL.Image.fromarray(blocks).quantize(9), blocks),
    (PIL.Image.fromarray(noise(16, 16) > 127), (noise(16, 16) > 127) * 255),
    (np.dstack([noise(16, 16, 3), np.full([16, 16], 255, np.uint8)]), noise(16, 16, 3))],
    ids=['RGB', 'grey', '16 bit', 'palette', 'bilevel', 'RGBA'])
def test_pixels_are_the_same_with_pyspng_and_without(picture, want, decoder, tmp_path):
    data = encode(picture)
    file = image_decode.ImageFile(data)
    pixels = file.pixels()
    np.testing.assert_array_equal(pixels.squeeze(), want)
    assert pixels.dtype == np.uint8 and file.shape == ((1 if want.ndim == 2 else 3), 16, 16)
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'a.png').write_bytes(data)
    served = ImageFolderDataset(str(tmp_path / 'x'))[0][0]
    assert served.flags.writeable and served.flags.c_contiguous
    np.testing.assert_array_equal(served.transpose(1, 2, 0).squeeze(), want)


def test_what_is_damaged_is_told_either_way(tmp_path, decoder):
    data = encode(noise(64, 64, 3))
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'a.png').write_bytes(data[:6000])
    with pytest.raises(DatasetError, match=r'a.png is damaged \(.*\); rebuild .* --on-error=skip'):
        ImageFolderDataset(str(tmp_path / 'x'))[0]


def needed_to_load(path):
    """Packages that a module imports when it is loaded, and cannot do without: not in a function, nor in a try."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


def test_no_program_needs_more_than_the_packages_named_here():
    """Whatever else is missing, each program starts: the others are asked for by the jobs that need them."""
    folders = ('dnnlib', 'torch_utils', 'training', 'inference', 'metrics', 'reporting', 'kd_plugin', 'reproduction',
               'viewing')
    modules = [*ROOT.glob('*.py'), *(path for name in folders for path in (ROOT / name).rglob('*.py'))]
    modules.remove(ROOT / 'viewing' / 'page.py')            # looked up by its name, when gradio is there
    assert len(modules) > 100
    own = {*folders, *(path.stem for path in ROOT.glob('*.py'))}
    needed = {name for path in modules for name in needed_to_load(path)} - own - set(sys.stdlib_module_names)
    assert needed == {'torch', 'numpy', 'PIL', 'click', 'safetensors', 'tqdm', 'jinja2', 'markupsafe'}


def test_an_import_of_pyspng_that_fails_is_no_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyspng', None)
    spec = importlib.util.find_spec('training.dataset.decode')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.pyspng is None
    np.testing.assert_array_equal(module.ImageFile(encode(noise(16, 16, 3))).pixels(), noise(16, 16, 3))


def test_what_a_download_and_a_spline_need_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path))
    for name in ('requests', 'scipy'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r'x: http://localhost/f cannot be fetched without .* pip install requests; or'):
        files.download('http://localhost/f', what='x', option='--o')
    with pytest.raises(UserError, match=r'--interpolation=spline needs the package scipy .* pip install scipy'):
        Walk(torch.zeros(3, 4))
    assert Walk(torch.zeros(3, 4), 'linear').at([0]).shape == (1, 4)
