"""A generator as a page that runs it in the browser, by ONNX Runtime Web: a folder for any server of files."""

import contextlib
import os
import re
import shutil
import tarfile
import tempfile

import jinja2

from dnnlib import UserError, files
from training.networks.architectures import abilities_of

HERE = os.path.join(os.path.dirname(__file__), 'web')
MODEL_FILE = 'generator.onnx'
VERSION = '1.30.0'              # of onnxruntime-web, with which the page was tried
GET_IT = f'npm pack onnxruntime-web@{VERSION}'
# Of the package, and their names here: endings that every server of files knows
RUNTIME = {'ort.wasm.bundle.min.mjs': 'runtime/ort.js', 'ort-wasm-simd-threaded.wasm': 'runtime/ort.wasm'}
TITLE = 'Generator'


def check_runtime(runtime):
    """Raises UserError unless `runtime` is the package onnxruntime-web: what `npm pack` gives, or its folder."""
    if runtime is None:
        raise UserError('--format=web', 'needs the package onnxruntime-web, which the page is given a copy of',
                        f'get it with "{GET_IT}" and add --runtime=onnxruntime-web-{VERSION}.tgz')
    with _opened(runtime):
        pass


@contextlib.contextmanager
def folder(dest, runtime, export):
    """Gives the path for the ONNX file in a folder that appears as `dest`, with page and runtime, at the end.

    Args:
        dest:    must not be there, or be empty.
        runtime: as of `check_runtime`.
        export:  `export_files.Export`.
    Raises:      UserError if it cannot be written; then nothing is left behind.
    """
    if os.path.lexists(dest) and not (os.path.isdir(dest) and not os.listdir(dest)):
        raise UserError(f'--dest={dest}', 'is there already', 'name a new folder, or delete it')
    parent, name = os.path.split(os.path.abspath(dest))
    try:
        with tempfile.TemporaryDirectory(prefix=f'{name}.', suffix='.tmp', dir=parent) as temp:
            made = os.path.join(temp, 'page')
            os.makedirs(os.path.join(made, 'runtime'))
            _write_page(made, export)
            with _opened(runtime) as read:
                for source, target in RUNTIME.items():
                    with open(os.path.join(made, target), 'wb') as f:
                        f.write(read(source))
            yield os.path.join(made, MODEL_FILE)
            if os.path.isdir(dest):
                os.rmdir(dest)
            os.rename(made, dest)
    except OSError as err:
        raise files.write_error(dest, err) from err


def _write_page(made, export):
    loader = jinja2.FileSystemLoader(HERE)
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = env.get_template('index.html').render(title=TITLE, facts=facts(export))
    files.write_text(os.path.join(made, 'index.html'), page)
    for name in os.listdir(HERE):
        if name != 'index.html' and not os.path.isdir(os.path.join(HERE, name)):
            shutil.copyfile(os.path.join(HERE, name), os.path.join(made, name))


def facts(export):
    """What the page has to know of the generator; JSON-able."""
    G = export.G
    names = export.info['training'].get('class_names') or [f'class {k}' for k in range(G.c_dim)]
    return dict(z_dim=G.z_dim, classes=names if G.c_dim > 0 else [], truncation='truncation' in abilities_of(G),
                resolution=G.img_resolution, channels=G.img_channels)


@contextlib.contextmanager
def _opened(runtime):
    """-> function from the name of a file of onnxruntime-web to its bytes. Raises UserError if it is another thing."""
    where, remedy = f'--runtime={runtime}', f'get it with "{GET_IT}"'
    if os.path.isdir(runtime):
        place = next((place for place in (runtime, os.path.join(runtime, 'dist'))
                      if all(os.path.isfile(os.path.join(place, name)) for name in RUNTIME)), None)
        if place is None:
            raise UserError(where, f'there is no {" or no ".join(RUNTIME)} in this folder', remedy)
        yield lambda name: _content(os.path.join(place, name))
        return
    if not os.path.isfile(runtime):
        raise UserError(where, 'there is no such file or folder', remedy)
    try:
        archive = tarfile.open(runtime)  # noqa: SIM115
    except (tarfile.TarError, OSError, EOFError) as err:
        raise UserError(where, f'is no package of npm ({err})', remedy) from err
    with archive:
        found = {re.sub('^package/dist/', '', name): name for name in archive.getnames()}
        if not set(RUNTIME) <= found.keys():
            raise UserError(where, f'there is no {" or no ".join(RUNTIME)} in it', remedy)
        yield lambda name: archive.extractfile(found[name]).read()


def _content(path):
    with open(path, 'rb') as f:
        return f.read()
