"""dataset_tool.py: every refusal, and nothing left behind."""

import contextlib
import errno
import io
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
from made_images import make_folder, noise, read, refusal, run_tool

import dataset_tool
from training.dataset.building import build as dataset_build
from training.dataset.building import writer as image_files_writer

# Bad input.


@pytest.fixture
def bad_folder(tmp_path):
    png = io.BytesIO()
    PIL.Image.fromarray(noise(64, 64, 3)).save(png, 'png')
    lab = io.BytesIO()
    PIL.Image.new('LAB', (8, 8)).save(lab, 'tiff')
    return make_folder(tmp_path / 'bad', {
        '0.png': noise(8, 8, 3), '1.png': noise(8, 8, 3), '2.png': noise(8, 8, 3), 'cut.png': png.getvalue()[:6000],
        'empty.jpg': b'', 'float.tif': np.ones([8, 8], np.float32), 'lab.tif': lab.getvalue(), 'grey.png': noise(8, 8),
        'large.png': noise(16, 16, 3), 'text.png': b'hello',
    })


BAD = {
    'cut.png': r'is damaged \(.*\)',
    'empty.jpg': r'is not an image, or damaged at its beginning',
    'float.tif': r'has floating-point pixels; save it with 8 or 16 bits',
    'grey.png': r'is grey, most others are RGB; --color=rgb or --color=grey makes all equal',
    'lab.tif': r'has the colours of Lab; save it as RGB',
    'large.png': r'is 16x16, most others are 8x8; --width and --height make all equal',
    'text.png': r'is not an image, or damaged at its beginning',
}


def test_every_unusable_file_is_listed_and_nothing_written(tmp_path, bad_folder, capsys):
    message = refusal(bad_folder, tmp_path / 'new' / 'out.zip')
    assert 'bad: 7 of 10 images cannot be used' in message and '--on-error=skip' in message
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(BAD)
    for line, (name, reason) in zip(lines, BAD.items(), strict=True):
        assert re.fullmatch(f'  {re.escape(name)}: {reason}', line)
    assert os.listdir(tmp_path) == ['bad']


def test_skip_goes_on_without_them(tmp_path, bad_folder, capsys):
    run_tool(bad_folder, tmp_path / 'out.zip', '--on-error=skip')
    assert '7 of 10 images cannot be used and are left out' in capsys.readouterr().err
    assert list(read(tmp_path / 'out.zip')[0]) == [f'00000/img0000000{i}.png' for i in range(3)]


def test_color_and_size_mend_what_they_say(tmp_path, bad_folder):
    run_tool(bad_folder, tmp_path / 'out.zip', '--on-error=skip', '--color=rgb', '--width=8', '--height=8')
    assert len(read(tmp_path / 'out.zip')[0]) == 5


def test_a_damaged_zip_member(tmp_path, capsys):
    make_folder(tmp_path / 'in', {'a.png': noise(8, 8, 3), 'b.png': noise(8, 8, 3, seed=1)})
    run_tool(tmp_path / 'in', tmp_path / 'in.zip')
    data = bytearray((tmp_path / 'in.zip').read_bytes())
    data[len(data) // 2 - 200] ^= 255
    (tmp_path / 'in.zip').write_bytes(data)
    assert '1 of 2 images cannot be used' in refusal(tmp_path / 'in.zip', tmp_path / 'out')
    assert re.search(r'img0000000\d.png: is damaged \(BadZipFile: Bad CRC-32', capsys.readouterr().err)


@pytest.mark.parametrize('content, message', [
    (b'nonsense', 'dataset.json is not of the form'), (b'[1, 2]', 'dataset.json is not of the form'),
    (b'{}', "KeyError: 'labels'"), (b'{"labels": [["a.png", 1.5]]}', 'label of a.png is 1.5'),
    (b'{"labels": [["a.png", -1]]}', 'label of a.png is -1'),
    (b'{"labels": [["a.png", 1], ["b.png", [0.5]]]}', 'others are of another kind'),
    (b'{"labels": null, "class_names": "cat"}', 'class_names is not a list of names'),
])
def test_bad_dataset_json(tmp_path, content, message):
    source = make_folder(tmp_path / 'in', {'a.png': noise(8, 8, 3), 'b.png': noise(8, 8, 3), 'dataset.json': content})
    got = refusal(source, tmp_path / 'out')
    assert message in got and str(source) in got and 'correct it or remove it' in got


@pytest.fixture
def good(tmp_path):
    return make_folder(tmp_path / 'good', {'a/0.png': noise(8, 16, 3), 'a/1.png': noise(8, 16, 3)})


@pytest.mark.parametrize('options, message', [
    (['--transform=center-crop'], '--transform=center-crop needs --width and --height too'),
    (['--transform=center-crop', '--width=8'], '--transform=center-crop needs --height too'),
    (['--width=24', '--height=24'], '--width=24 --height=24: training needs square .* use --width=16 --height=16'),
    (['--width=8', '--height=4'], '--width=8 --height=4: training needs square .* use --width=8 --height=8'),
    (['--width=4', '--height=4'], r'\(8 or more\); use --width=8 --height=8'),
    (['--transform=center-crop-wide', '--width=4', '--height=8'],
     '--height=8 is not less than --width=4; .* or --transform=center-crop'),
    (['--transform=center-crop-wide', '--width=8', '--height=8'], '--height=8 is not less than --width=8; .* use a '
                                                                  'smaller --height'),
    (['--transform=center-crop-wide', '--width=32', '--height=8'], 'good: none of its 2 images can be used'),
    ([], 'good: 2 of 2 images would be 16x8, .* use --width=8 --height=8 --transform=center-crop'),
    (['--split=train'], '--split=train: good has no images in such a folder; its folders are a$'),
])
def test_refused_options(tmp_path, good, options, message):
    assert re.search(message, refusal(good, tmp_path / 'out', *options))
    assert os.listdir(tmp_path) == ['good']


def test_refused_sources(tmp_path):
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'a.txt').write_text('-')
    (tmp_path / 'x.zip').write_bytes(b'-')
    (tmp_path / 'x.jpg').write_bytes(b'-')
    dest = tmp_path / 'out'
    assert re.search('--source=.*nothing: no such file or folder; check the spelling',
                     refusal(tmp_path / 'nothing', dest))
    assert re.search(r'--source=.*notes: no images in it; 1 other files ignored \(.txt\); give a folder',
                     refusal(tmp_path / 'notes', dest))
    assert re.search('x.zip: not a readable zip archive .*; copy or download it again',
                     refusal(tmp_path / 'x.zip', dest))
    assert re.search('--source=.*x.jpg: cannot read this kind of file; give a folder',
                     refusal(tmp_path / 'x.jpg', dest))


def test_refused_destinations(tmp_path, good, monkeypatch):
    size = ['--transform=center-crop', '--width=8', '--height=8']
    (tmp_path / 'file.zip').write_bytes(b'mine')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine').touch()
    assert 'file.zip exists already; choose another name' in refusal(good, tmp_path / 'file.zip', *size)
    assert 'full exists already; choose another name' in refusal(good, tmp_path / 'full', *size)
    assert (tmp_path / 'file.zip').read_bytes() == b'mine'
    assert ('out.tar.gz: this kind of file cannot be written; end it in '
            '.zip' in refusal(good, tmp_path / 'out.tar.gz', *size))
    assert re.search('--dest=.*sub lies inside --source=.*good', refusal(good, good / 'sub', *size))
    assert 'file.zip is a file, not a folder' in refusal(good, tmp_path / 'file.zip' / 'out', *size)
    monkeypatch.setattr(os, 'access', lambda *args: False)                      # root may write anywhere
    assert f'no permission to write to {tmp_path}; choose another place' in refusal(good, tmp_path / 'out', *size)


def test_an_empty_folder_may_be_the_destination(tmp_path):
    (tmp_path / 'out').mkdir()
    run_tool(make_folder(tmp_path / 'in', {'a.png': noise(8, 8, 3)}), tmp_path / 'out')
    assert len(read(tmp_path / 'out')[0]) == 1


@pytest.mark.parametrize('dest', ['new/sub/out.zip', 'new/sub/out', 'out'])
@pytest.mark.parametrize('failure, code', [
    (OSError(errno.ENOSPC, 'No space left on device'), r'Error: .*out(.zip)?: cannot be written: the disk is full; '
                                                       r'free some space'),
    (KeyboardInterrupt(), 130),
], ids=['full disk', 'Ctrl-C'])
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, dest, failure, code):
    source = make_folder(tmp_path / 'in', {f'{i}.png': noise(8, 8, 3) for i in range(4)})
    written = []

    class FailingFile(io.FileIO):
        def write(self, data):
            if len(written) == 2:
                assert os.listdir(os.path.dirname(tmp_path / dest)) != []       # it had begun
                raise failure
            written.append(data)
            return super().write(data)

    def failing_writestr(archive, info, data):
        with contextlib.closing(FailingFile(archive.filename, 'ab')) as f:
            f.write(data)

    monkeypatch.setattr(image_files_writer, 'open', lambda path, mode, **_: FailingFile(path, mode), raising=False)
    monkeypatch.setattr(zipfile.ZipFile, 'writestr', failing_writestr)
    with pytest.raises(SystemExit) as exit_info:
        run_tool(source, tmp_path / dest)
    assert exit_info.value.code == code if isinstance(code, int) else re.match(code, exit_info.value.code)
    assert len(written) == 2 and os.listdir(tmp_path) == ['in']


def test_a_source_that_changes_meanwhile(tmp_path, monkeypatch):
    source = make_folder(tmp_path / 'in', {f'{i}.png': noise(8, 8, 3) for i in range(3)})
    scan_images = dataset_build.scan_images

    def scan_then_remove(*args):
        scans = scan_images(*args)
        (source / '1.png').unlink()
        return scans

    monkeypatch.setattr(dataset_build, 'scan_images', scan_then_remove)
    assert 'in: 1.png cannot be read any more (FileNotFoundError' in refusal(source, tmp_path / 'new' / 'out.zip')
    assert os.listdir(tmp_path) == ['in']


def test_as_a_program(tmp_path):
    """One line on stderr, exit code not 0, no traceback; and --option=value as well as --option value."""
    command = [sys.executable, dataset_tool.__file__, '--source', str(tmp_path / 'nothing'),
               f'--dest={tmp_path / "out.zip"}']
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode == 1 and result.stdout == ''
            and re.fullmatch(r'Error: --source=.*/nothing: no such .*\n', result.stderr))
    result = subprocess.run([*command, '--max-images=0'], capture_output=True, text=True)
    assert result.returncode == 2 and '--max-images' in result.stderr
