"""Pictures, folders of pictures and archives, and dataset_tool.py run on them."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import PIL.Image
import pytest

import dataset_tool

ORIENTATION = 0x0112                                # the EXIF tag


def run_tool(source, dest, *options):
    dataset_tool.main([f'--source={source}', f'--dest={dest}', *options], standalone_mode=False)


def refusal(source, dest, *options):
    """The message of a run that must end with an error."""
    with pytest.raises(SystemExit) as exit_info:
        run_tool(source, dest, *options)
    message = str(exit_info.value)
    assert message.startswith('Error: ') and '\n' not in message
    return message


def make_folder(path, files):
    """Files from {name: array, PIL image or bytes}."""
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            (content if isinstance(content, PIL.Image.Image) else PIL.Image.fromarray(content)).save(target)
    return path


def read(path):
    """({name: PIL image}, content of dataset.json) of a zip or folder, read without the project's code."""
    if path.is_dir():
        data = {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob('*')) if p.is_file()}
    else:
        with zipfile.ZipFile(path) as archive:
            data = {name: archive.read(name) for name in sorted(archive.namelist())}
    meta = json.loads(data.pop('dataset.json'))
    return {name: PIL.Image.open(io.BytesIO(content)) for name, content in data.items()}, meta


def convert(tmp_path, picture, *options, name='a.png'):
    """What the tool makes of a single picture, as PIL image."""
    run_tool(make_folder(tmp_path / 'one', {name: picture}), tmp_path / 'one.zip', *options)
    (img,) = read(tmp_path / 'one.zip')[0].values()
    return img


def noise(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)


def make_cifar(path, folder, batches, meta):
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in {**batches, **meta}.items():
            data = (content if isinstance(content, bytes)
                    else pickle.dumps(content, protocol=2).replace(b'numpy._core', b'numpy.core'))
            info = tarfile.TarInfo(f'{folder}/{name}')
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
