"""A generator as a page that runs it in the browser, by ONNX Runtime Web: a folder for any server of files."""

import contextlib
import gzip
import io
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
import zlib

import jinja2

from dnnlib import UserError, files
from training.networks.architectures import abilities_of

from .trained_on import refuse_vectors

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
    _read(runtime)


@contextlib.contextmanager
def folder(dest, runtime, export):
    """Gives the path for the ONNX file in a folder that appears as `dest`, with page and runtime, at the end.

    Args:
        dest:    must not be there, or be empty.
        runtime: as of `check_runtime`.
        export:  `export_files.Export`.
    Raises:      UserError if it cannot be written, or the labels are vectors; then nothing is left behind.
    """
    if os.path.lexists(dest) and not (os.path.isdir(dest) and not os.listdir(dest)):
        raise UserError(f'--dest={dest}', 'is there already', 'name a new folder, or delete it')
    refuse_vectors(export.info, '--format=web', 'use --format=onnx')
    parent, name = os.path.split(os.path.abspath(dest))
    try:
        with tempfile.TemporaryDirectory(prefix=f'{name}.', suffix='.tmp', dir=parent) as temp:
            made = os.path.join(temp, 'page')
            os.makedirs(os.path.join(made, 'runtime'))
            _write_page(made, export)
            for name, content in _read(runtime).items():
                pathlib.Path(made, RUNTIME[name]).write_bytes(content)
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


def _read(runtime):
    """-> {name of a file of onnxruntime-web: its bytes}. Raises UserError if `runtime` is another thing, or damaged."""
    where, remedy = f'--runtime={runtime}', f'get it with "{GET_IT}"'
    if not os.path.isdir(runtime) and not os.path.isfile(runtime):
        raise UserError(where, 'there is no such file or folder', remedy)
    try:
        found = _of_folder(runtime) if os.path.isdir(runtime) else _of_package(runtime)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as err:
        raise UserError(where, f'cannot be read as a package of npm ({err})', remedy) from err
    if not RUNTIME.keys() <= found.keys():
        raise UserError(where, f'there is no {" or no ".join(RUNTIME)} in it', remedy)
    return found


def _of_folder(path):
    places = [place for place in (path, os.path.join(path, 'dist'))
              if all(os.path.isfile(os.path.join(place, name)) for name in RUNTIME)]
    return {name: pathlib.Path(place, name).read_bytes() for place in places[:1] for name in RUNTIME}


def _of_package(path):
    with gzip.open(path) as file:                               # all of it: its checksum stands at the end
        content = file.read()
    with tarfile.open(fileobj=io.BytesIO(content), mode='r:') as archive:
        members = {re.sub('^package/dist/', '', member.name): member for member in archive if member.isfile()}
        return {name: archive.extractfile(members[name]).read() for name in RUNTIME if name in members}
