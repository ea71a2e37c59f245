"""New folders and zip archives of images, written whole or not at all; `../files.py` describes their content."""

import contextlib
import json
import os
import shutil
import uuid
import zipfile

from dnnlib.files import atomic_path, write_error

from ..files import record_path


class ImageFilesWriter:
    """What `new_image_files` gives: `write(name, data)` adds a file; `record` is stored at the end."""

    def __init__(self, write):
        self.write = write
        self.record: dict = {}


@contextlib.contextmanager
def new_image_files(path: str):
    """Gives an `ImageFilesWriter` for a new .zip (entries stored uncompressed) or folder at `path`.

    It gets its name at the end, when it is complete; on any failure, Ctrl-C included, nothing is left behind.
    Raises: UserError with reason and remedy where it cannot be written.
    """
    path = path.rstrip('/\\')
    missing = _missing_parents(path)
    try:
        _make_parents(path)
        with (_new_zip if path.lower().endswith('.zip') else _new_folder)(path) as writer:
            yield writer
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):      # not made, or in use by another program
                os.rmdir(folder)
        raise


def _missing_parents(path: str) -> list[str]:
    """The folders above `path` that do not exist yet, innermost first."""
    parent, missing = os.path.dirname(os.path.abspath(path)), []
    while not os.path.exists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    return missing


def _make_parents(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    except OSError as err:
        raise write_error(path, err) from err


@contextlib.contextmanager
def _new_zip(path: str):
    with atomic_path(path) as temp, zipfile.ZipFile(temp, 'w', zipfile.ZIP_STORED) as archive:
        def write(name, data):
            # Its date is fixed: the same images give the same archive on every day
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)

        writer = ImageFilesWriter(write)
        yield writer
        archive.comment = json.dumps(writer.record).encode()


@contextlib.contextmanager
def _new_folder(path: str):
    temp = f'{path}.{uuid.uuid4().hex[:8]}.tmp'

    def write(name, data):
        target = os.path.join(temp, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, 'wb') as f:
            f.write(data)

    try:
        os.mkdir(temp)
        writer = ImageFilesWriter(write)
        yield writer
        with atomic_path(record_path(path)) as temp_record:
            with open(temp_record, 'w', encoding='utf-8') as f:
                json.dump(writer.record, f, indent=2)
            _rename(temp, path)
    except OSError as err:
        raise write_error(path, err) from err
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _rename(temp: str, path: str) -> None:
    try:
        os.rename(temp, path)
    except OSError as err:
        raise write_error(path, err) from err
