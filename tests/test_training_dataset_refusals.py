"""training/dataset/folder.py: every refusal."""

import io
import json
import os
import re
import tracemalloc
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from data_files import NAMES, encode, make_files, noise, write

from training.dataset import DatasetError, ImageFolderDataset
from training.dataset import convert as image_convert
from training.dataset import folder as dataset
from training.dataset import headers as image_headers

# Bad input.


@pytest.fixture(params=['data.zip', 'data'])
def path(tmp_path, request):
    return write(tmp_path / request.param, make_files())


def error(path, read=None, **kwargs):
    with pytest.raises(DatasetError) as info:
        ds = ImageFolderDataset(str(path), **kwargs)
        assert read is not None, 'it should have been refused at once'
        ds[read]
    assert '\n' not in str(info.value)
    return str(info.value)


def test_nothing_there(tmp_path):
    assert re.search('nothing.zip: no such file or folder; check the spelling', error(tmp_path / 'nothing.zip'))
    assert re.search('empty.zip: no images in it; name a folder or .zip made by',
                     error(write(tmp_path / 'empty.zip', {'a.txt': b'-'})))
    (tmp_path / 'text.zip').write_bytes(b'hello')
    assert re.search('text.zip: not a readable zip archive .*; copy or download it again', error(tmp_path / 'text.zip'))


def test_mixed_and_non_square_sizes(tmp_path):
    files = {name: encode(noise(16, 16, 3)) for name in 'abc'}
    files = {f'{name}.png': data for name, data in files.items()}
    mixed = write(tmp_path / 'mixed.zip', {**files, 'b.png': encode(noise(16, 20, 3))})
    assert re.search('mixed.zip: b.png is 20x16 RGB, others are 16x16 RGB; rebuild with dataset_tool.py --width=16 '
                     '--height=16', error(mixed))
    grey = write(tmp_path / 'grey.zip', {**files, 'c.png': encode(noise(16, 16))})
    assert re.search('grey.zip: c.png is 16x16 grey, others are 16x16 RGB; .* --color=rgb', error(grey))
    wide = write(tmp_path / 'wide.zip', {'a.png': encode(noise(8, 16, 3))})
    message = ('wide.zip: a.png is 16x8 RGB, training needs square images; rebuild .* --width=8 --height=8 '
               '--transform=center-crop')
    assert re.search(message, error(wide))
    photos = write(tmp_path / 'photos.zip', {'a.png': encode(noise(300, 400, 3))})
    assert 'rebuild with dataset_tool.py --width=256 --height=256 --transform=center-crop' in error(photos)
    assert 'dataset_tool.py --width=64 --height=64 --transform=center-crop' in error(photos, remedy_side=64)
    assert re.search('x.zip: images are 8x8, not of resolution 16; .* --width=16',
                     error(write(tmp_path / 'x.zip', make_files()), resolution=16))


def test_a_wrong_record_is_found_out_on_reading(tmp_path):
    """The record vouches for the headers; an archive edited since then still cannot serve a wrong shape."""
    files = {'a.png': encode(noise(16, 16, 3)), 'b.png': encode(noise(8, 8, 3))}
    path = write(tmp_path / 'x.zip', files, comment=json.dumps({'tool': 'dataset_tool 1', 'images': 2}).encode())
    assert re.search('x.zip: b.png is 8x8 RGB, others are 16x16 RGB', error(path, read=1))


@pytest.mark.parametrize('ending', ['.zip', ''])
def test_damaged_images(tmp_path, ending):
    data = encode(noise(64, 64, 3))
    path = write(tmp_path / f'cut{ending}', {'a.png': data, 'b.png': data[:6000]})
    assert re.search(r'cut(.zip)?: b.png is damaged \(.*\); rebuild .* --on-error=skip', error(path, read=1))
    path = write(tmp_path / f'text{ending}', {'a.png': data, 'b.png': b'hello'})
    assert re.search(r'text(.zip)?: b.png is not an image, or damaged at its beginning; rebuild', error(path))
    path = write(tmp_path / f'jpeg{ending}', {'a.png': encode(np.zeros([8, 8, 4], np.uint8))})
    assert re.search(r'jpeg(.zip)?: a.png has transparent parts; --color=rgb .*; rebuild', error(path, read=0))


def test_a_damaged_zip_member(tmp_path):
    path = tmp_path / 'x.zip'
    write(path, {'a.png': encode(noise(16, 16, 3))})
    data = bytearray(path.read_bytes())
    data[300] ^= 255
    path.write_bytes(data)
    assert re.search(r'x.zip: a.png is damaged \(BadZipFile: Bad CRC-32', error(path, read=0))
    with pytest.raises(DatasetError, match='a.png is damaged'):
        ImageFolderDataset(str(path)).content_hash()


def test_missing_labels(tmp_path):
    files = make_files()
    files['dataset.json'] = json.dumps({'labels': [[NAMES[0], 1]]}).encode()
    message = error(write(tmp_path / 'some.zip', files), use_labels=True)
    assert re.search(r'some.zip: 6 of 7 images have no label \(00000/img00000001.png, .*7 in all|6 in all.*; '
                     r'dataset.json\)', message)
    assert '--cond' in message
    assert len(ImageFolderDataset(str(tmp_path / 'some.zip'))) == 7              # nobody asked for labels
    del files['dataset.json']
    message = error(write(tmp_path / 'none.zip', files), use_labels=True)
    assert re.search(r'none.zip: 7 of 7 images have no label \(.*there is no dataset.json, nor a folder per '
                     r'class\)', message)


@pytest.mark.parametrize('content', [b'nonsense', b'{}', b'{"labels": [["00000/img00000000.png", 1.5]]}'])
def test_bad_dataset_json(tmp_path, content):
    path = write(tmp_path / 'x.zip', {**make_files(), 'dataset.json': content})
    assert re.search('x.zip: dataset.json is not of the form .*; correct it or remove it', error(path))


def test_a_subset_of_nothing(path):
    assert re.search('0 images were asked for; ask for 1 to 7', error(path, max_size=0))


# Hostile archives.

def test_a_member_that_unfolds_without_end(tmp_path):
    """80 MB of zeros in 400 KB."""
    path = tmp_path / 'bomb.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('a.png', encode(noise(8, 8, 3)))
        with archive.open('b.png', 'w') as f:
            for _ in range(80):
                f.write(bytes(1 << 20))
        archive.comment = json.dumps({'tool': 'dataset_tool 1', 'images': 2}).encode()
    data = ImageFolderDataset(str(path))
    with pytest.raises(DatasetError, match='bomb.zip: b.png has 83,886,080 bytes, 67,108,864 are the limit; rebuild'):
        data[1]


@pytest.mark.parametrize('ending, head', [('.webp', b'RIFF\xff\xff\xff\x1fWEBPVP8X'),
                                          ('.png', b'\x89PNG\r\n\x1a\n\x13\0\0\0zTXt'),
                                          ('.gif', b'GIF89a'),
                                          ('.avif', b'\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf'), ('.ppm', b'P6\n#'),
                                          ('.jpg', b'\xff\xd8\xff')])
@pytest.mark.parametrize('size, message', [(5 << 20, 'has 5,242,.* bytes, 4,194,304 are the limit'), (3 << 20, '')])
def test_headers_that_unfold_without_end(tmp_path, monkeypatch, ending, head, size, message):
    """What is unfolded is bounded, and how often a decoder asks: some read byte by byte. Limits are a sixteenth
    here."""
    for module, name in ((dataset, 'LARGEST_FILE'), (image_headers, 'HEADER_BYTES'),
                         (image_headers, 'LONG_HEADER_BYTES')):
        monkeypatch.setattr(module, name, getattr(module, name) >> 4)
    path = tmp_path / 'bomb.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED,
                         compresslevel=1) as archive, archive.open(f'a{ending}', 'w') as f:
        f.write(head)
        for _ in range(size >> 20):
            f.write(bytes(1 << 20))
    unfolded, asked, read = [], [], zipfile.ZipExtFile.read

    def read_counted(self, n=-1):
        unfolded.append(read(self, n))
        return unfolded[-1]

    class CountedBytes(io.BytesIO):
        def read(self, n=-1):
            asked.append(n)
            return super().read(n)
    monkeypatch.setattr(zipfile.ZipExtFile, 'read', read_counted)
    monkeypatch.setattr(image_convert, 'io', SimpleNamespace(BytesIO=CountedBytes))
    damaged = r'is (damaged \(|not an image, or damaged at its beginning)'
    assert re.search(f'bomb.zip: a{ending} {message or damaged}', error(path))
    limit = image_headers.HEADER_BYTES if ending in ('.gif', '.ppm') else image_headers.LONG_HEADER_BYTES
    assert sum(map(len, unfolded)) <= (0 if message else limit) and len(asked) <= limit + 2 * image_headers.HEADER_BYTES


def test_formats_are_those_of_the_endings(tmp_path):
    """Pillow goes by the content, and would run Ghostscript."""
    eps = io.BytesIO()
    PIL.Image.fromarray(noise(8, 8, 3)).save(eps, 'eps')
    path = write(tmp_path / 'x.zip', {'a.png': eps.getvalue()})
    assert 'a.png is not an image, or damaged at its beginning; rebuild' in error(path)


def test_members_that_unfold_in_a_single_step(tmp_path):
    """bzip2 and LZMA: zipfile unfolds all that it has read, whatever it was asked for."""
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f'{method}.zip'
        with zipfile.ZipFile(path, 'w', method) as archive:
            archive.writestr('a.png', bytes(1 << 20))
        message = rf'1 of its 1 files are compressed by \w+ \(number {method} of the format\), which is not read'
        assert re.search(message, error(path))


def test_a_size_that_is_a_lie(tmp_path):
    """32 MB that are said to be 1000 bytes: no more than those are unfolded."""
    path = tmp_path / 'lie.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.png', bytes(32 << 20))
    path.write_bytes(path.read_bytes().replace((32 << 20).to_bytes(4, 'little'), (1000).to_bytes(4, 'little')))
    tracemalloc.start()
    assert 'lie.zip: a.png is damaged' in error(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize('kind, options', [
    ('jpeg', dict(icc_profile=bytes(3 << 20))), ('jpeg', dict(exif=b'Exif\0\0' + bytes(60_000), comment=bytes(60_000),
                                                              icc_profile=bytes(2 << 20))),
    ('webp', dict(lossless=True)), ('tiff', {}), ('bmp', {}), ('gif', {}), ('ppm', {}), ('png', {})])
def test_the_size_of_a_large_file_is_found(tmp_path, kind, options):
    """What stands before or behind the size, and decoders that want the whole file."""
    picture = io.BytesIO()
    PIL.Image.fromarray(noise(1024, 1024, 3)).save(picture, kind, **options)
    assert len(picture.getvalue()) > 1 << 20
    ds = ImageFolderDataset(write(tmp_path / 'x.zip', {f'a.{kind}': picture.getvalue()}))
    assert ds.image_shape == [3, 1024, 1024] and ds[0][0].shape == (3, 1024, 1024)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes')
def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'pipe', '/dev/zero'):
        assert re.fullmatch(f'{path}: is neither a folder nor a file; name a folder of images or a .zip archive',
                            error(path))
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'folder' / 'a.png')
    assert 'folder: a.png is damaged (OSError: it is no regular file)' in error(tmp_path / 'folder')
    with open(tmp_path / 'folder' / 'b.png', 'wb') as f:
        f.truncate(1 << 40)                             # takes no room on the disk
    os.remove(tmp_path / 'folder' / 'a.png')
    assert 'b.png has 1,099,511,627,776 bytes, 67,108,864 are the limit; rebuild' in error(tmp_path / 'folder')


@pytest.mark.parametrize('label', ['16384', '1' + '0' * 400, '[1' + '0' * 400 + ']', '[NaN]', '[Infinity]', '[-1e39]',
                                   'true', '[true]', str([0] * 16385), '-1', '1' + '0' * 5000])
def test_labels_out_of_range(tmp_path, label):
    text = f'{{"labels": [["a.png", {label}]]}}'
    message = error(write(tmp_path / 'x.zip', {'a.png': encode(noise(8, 8, 3)), 'dataset.json': text.encode()}),
                    use_labels=True)
    assert (re.search('x.zip: dataset.json is not of the form .*; correct it or remove it', message)
            and len(message) < 500)


def test_labels_at_the_limits(tmp_path):
    for i, (label, dim) in enumerate([(16383, 16384), ([3.4e38, -3.4e38, 0], 3)]):
        files = {'a.png': encode(noise(8, 8, 3)), 'dataset.json': json.dumps({'labels': [['a.png', label]]}).encode()}
        ds = ImageFolderDataset(write(tmp_path / f'{i}.zip', files), use_labels=True)
        assert ds.label_dim == dim and np.isfinite(ds[0][1]).all()


@pytest.mark.parametrize('text', ['[' * 5000, '{"labels": [' + '["a", 1],' * 5000 + '["a", 1]]}'])
def test_labels_that_are_deep_or_long(tmp_path, text):
    path = write(tmp_path / 'data.zip', {'a.png': encode(noise(8, 8, 3)),
                                         'dataset.json': text.encode() + b' ' * (2 << 20)})
    with pytest.raises(DatasetError, match='dataset.json is not of the form.*has 2,1.* bytes, 1,052,672 are the limit'):
        ImageFolderDataset(path, use_labels=True)
    path = write(tmp_path / 'deep.zip', {'a.png': encode(noise(8, 8, 3)), 'dataset.json': b'[' * 100_000})
    with pytest.raises(DatasetError, match='deep.zip: dataset.json is not of the form.*RecursionError'):
        ImageFolderDataset(path, use_labels=True)


def test_a_picture_that_claims_to_be_huge_is_not_decoded(tmp_path):
    """100 bytes that would be 10 gigabytes, in an archive that says it was checked."""
    png = bytearray(encode(noise(8, 8, 3)))
    png[16:24] = (60000).to_bytes(4, 'big') * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, 'big')
    record = json.dumps({'tool': 'dataset_tool 1', 'images': 2}).encode()
    data = ImageFolderDataset(write(tmp_path / 'data.zip', {'a.png': encode(noise(8, 8, 3)),
                                                            'b.png': bytes(png)}, record))
    with pytest.raises(DatasetError, match='b.png is 60000x60000 RGB, others are 8x8 RGB'):
        data[1]


def test_names_that_climb_out(tmp_path):
    """Nothing is ever unpacked: such members are hidden files or plain names, and nothing beside the archive is read or
    written."""
    (tmp_path / 'inner').mkdir()
    (tmp_path / 'secret.png').write_bytes(encode(noise(8, 8, 3, seed=1)))
    names = ['../secret.png', 'a/../../secret.png', f'{tmp_path}/secret.png']
    path = write(tmp_path / 'inner' / 'data.zip', {name: encode(noise(8, 8, 3)) for name in names})
    data = ImageFolderDataset(path)
    assert data.files.names == [f'{tmp_path}/secret.png'[1:]]
    assert np.array_equal(data[0][0], noise(8, 8, 3).transpose(2, 0, 1))
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['data.zip', 'inner', 'secret.png']
