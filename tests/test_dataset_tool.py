"""dataset_tool.py: pixels against numpy and hand-made pictures, labels, every refusal, and nothing left behind."""

import contextlib
import errno
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
from made_images import ORIENTATION, convert, make_cifar, make_folder, noise, read, refusal, run_tool

import dataset_tool
from training.dataset.building import build as dataset_build
from training.dataset.building import writer as image_files_writer


def coordinates(width, height):
    """RGB picture whose pixel (x, y) has the color (x, y, 7)."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.full_like(x, 7)], axis=2).astype(np.uint8)


# Pixels.

def test_center_crop_keeps_the_middle(tmp_path):
    img = convert(tmp_path, coordinates(13, 8), '--transform=center-crop', '--width=8', '--height=8')
    np.testing.assert_array_equal(np.array(img), coordinates(13, 8)[:, 2:10])


def test_box_filter_is_the_mean_of_blocks(tmp_path):
    blocks = noise(8, 8, 3).astype(int)
    # Rows sum to 0: the mean of a block is its colour, and so is that of its rows
    offsets = np.array([[-2, 2], [1, -1]])
    picture = np.clip(blocks, 2, 253)[:, None, :, None] + offsets[None, :, None, :, None]
    picture = picture.reshape(16, 16, 3).astype(np.uint8)
    img = convert(tmp_path, picture, '--width=8', '--height=8', '--resize-filter=box')
    np.testing.assert_array_equal(np.array(img), np.clip(blocks, 2, 253))


def test_lanczos_is_the_default_and_is_pillows(tmp_path):
    want = PIL.Image.fromarray(noise(20, 20, 3)).resize((8, 8), PIL.Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(np.array(convert(tmp_path, noise(20, 20, 3), '--width=8', '--height=8')),
                                  np.array(want))


def test_center_crop_wide_sets_rows_between_black_bars(tmp_path):
    """A 16x14 picture for 16x8: all 14 rows are wanted (16 * 14 / 16), squeezed to 8; below and above 4 black rows
    each."""
    picture = np.repeat(noise(7, 16, 3), 2, axis=0)
    img = np.array(convert(tmp_path, picture, '--transform=center-crop-wide', '--width=16', '--height=8',
                           '--resize-filter=box'))
    want = np.array(PIL.Image.fromarray(picture).resize((16, 8), PIL.Image.Resampling.BOX))
    assert img.shape == (16, 16, 3) and not img[:4].any() and not img[12:].any()
    np.testing.assert_array_equal(img[4:12], want)


def test_center_crop_wide_says_why_pictures_are_left_out(tmp_path, capsys):
    """32x12 gives 6 rows at a width of 16."""
    source = make_folder(tmp_path / 'in', {'fits.png': noise(8, 16, 3), 'narrow.png': noise(8, 15, 3),
                                           'wide.png': noise(12, 32, 3)})
    run_tool(source, tmp_path / 'out', '--transform=center-crop-wide', '--width=16', '--height=8')
    assert ('2 of 3 images are left out, less wide than --width=16 or, at that width, less high than --height=8 (a '
            'smaller --height takes wider pictures): narrow.png, wide.png') in capsys.readouterr().err


@pytest.mark.parametrize('orientation, turn', [
    (1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (4, np.flipud),
    (5, lambda a: a.transpose(1, 0, 2)),
    (6, lambda a: np.rot90(a, -1)), (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)), (8, np.rot90),
])
def test_photos_are_turned_upright(tmp_path, orientation, turn):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.kron(noise(2, 2, 3), np.ones([8, 8, 1], np.uint8))).save(buffer, 'jpeg', exif=exif)
    stored = np.array(PIL.Image.open(io.BytesIO(buffer.getvalue())))
    np.testing.assert_array_equal(np.array(convert(tmp_path, buffer.getvalue(), name='a.jpg')), turn(stored))


def test_the_orientation_of_a_png_is_ignored(tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    PIL.Image.fromarray(coordinates(8, 8)).save(buffer, 'png', exif=exif)
    np.testing.assert_array_equal(np.array(convert(tmp_path, buffer.getvalue())), coordinates(8, 8))


def test_16_bits_become_the_nearest_of_8(tmp_path):
    value = np.array([[0, 128, 129, 257], [257 * 77, 257 * 77 + 128, 257 * 77 + 129, 1000],
                      [65535, 65406, 65407, 40000], [1, 2, 3, 4]])
    want = [[round(v * 255 / 65535) for v in row] for row in value.tolist()]
    img = convert(tmp_path, np.tile(value, (2, 2)).astype(np.uint16))
    assert img.mode == 'L' and np.array(img)[:4, :4].tolist() == np.array(img)[4:, 4:].tolist() == want


def test_palette_images_get_their_colours(tmp_path):
    picture = PIL.Image.fromarray(np.kron(noise(2, 2, 3), np.ones([4, 4, 1], np.uint8)))
    img = convert(tmp_path, picture.quantize(4))
    assert img.mode == 'RGB'
    np.testing.assert_array_equal(np.array(img), np.array(picture))


# RGBA that hides nothing
@pytest.mark.parametrize('picture, want', [
    (PIL.Image.fromarray(noise(8, 8) > 127), (noise(8, 8) > 127) * 255),                                      # bilevel
    (np.dstack([noise(8, 8, 3), np.full([8, 8], 255, np.uint8)]), noise(8, 8, 3)),
    # Grey likewise
    (PIL.Image.merge('LA', [PIL.Image.fromarray(noise(8, 8)), PIL.Image.new('L', (8, 8), 255)]), noise(8, 8)),
], ids=['bilevel', 'rgba', 'la'])
def test_other_kinds_of_pixels(tmp_path, picture, want):
    np.testing.assert_array_equal(np.array(convert(tmp_path, picture)), want)


def test_transparent_parts_need_a_colour_behind_them(tmp_path, capsys):
    # A fifth of the colour, four fifths of white
    picture = np.full([8, 8, 4], [200, 0, 100, 51], np.uint8)
    make_folder(tmp_path / 'one', {'a.png': picture})
    refusal(tmp_path / 'one', tmp_path / 'no.zip')
    assert 'a.png: has transparent parts; --color=rgb puts white behind them' in capsys.readouterr().err
    np.testing.assert_array_equal(np.array(convert(tmp_path, picture, '--color=rgb')),
                                  np.full([8, 8, 3], [244, 204, 224]))


def test_color_grey(tmp_path):
    img = convert(tmp_path, np.full([8, 8, 3], [0, 255, 0], np.uint8), '--color=grey')
    assert img.mode == 'L' and set(np.array(img).flat) == {round(0.587 * 255)}  # luma of ITU-R 601


# Order, labels, record.

def test_order_names_and_labels_from_dataset_json(tmp_path):
    files = {name: noise(8, 8, 3, seed=i) for i, name in enumerate(['a-b/1.PNG', 'a/0.png', 'b.png'])}
    labels = {'a/0.png': 5, 'b.png': 0, 'a-b/1.PNG': 2, 'gone.png': 9}
    source = make_folder(tmp_path / 'in', {**files, 'notes.txt': b'-', '.hidden/x.png': b'-', '__MACOSX/._b.png': b'-',
                                           'dataset.json': json.dumps({'labels': list(labels.items())}).encode()})
    run_tool(source, tmp_path / 'out')
    images, meta = read(tmp_path / 'out')
    names = ['00000/img00000000.png', '00000/img00000001.png', '00000/img00000002.png']
    assert list(images) == names
    # By path components, not by strings
    for name, origin in zip(names, ['a/0.png', 'a-b/1.PNG', 'b.png'], strict=True):
        np.testing.assert_array_equal(np.array(images[name]), files[origin])
    assert meta == {'labels': [[names[0], 5], [names[1], 2], [names[2], 0]]}


def test_labels_from_class_folders(tmp_path, capsys):
    source = make_folder(tmp_path / 'in', {f'{part}/{animal}/{i}.png': noise(8, 8, 3)
                                           for part in ('test', 'train') for animal in ('dog', 'cat')
                                           for i in range(2)})
    run_tool(source, tmp_path / 'all.zip')
    assert 'test/cat, test/dog, train/cat, train/dog; --split=FOLDER takes one part' in capsys.readouterr().err
    meta = read(tmp_path / 'all.zip')[1]
    assert meta['class_names'] == ['cat', 'dog'] and [label for _, label in meta['labels']] == [0, 0, 1, 1, 0, 0, 1, 1]
    run_tool(source, tmp_path / 'train.zip', '--split=train', '--max-images=3')
    meta = read(tmp_path / 'train.zip')[1]
    assert meta['class_names'] == ['cat', 'dog'] and [label for _, label in meta['labels']] == [0, 0, 1]
    run_tool(tmp_path / 'train.zip', tmp_path / 'again.zip')
    assert read(tmp_path / 'again.zip')[1] == meta                              # names and labels survive a second pass


def test_an_image_outside_the_class_folders_means_no_labels(tmp_path):
    source = make_folder(tmp_path / 'in', {name: noise(8, 8, 3) for name in ['cat/0.png', 'dog/0.png', 'x.png']})
    run_tool(source, tmp_path / 'out.zip')
    assert read(tmp_path / 'out.zip')[1] == {'labels': None}


def test_one_missing_label_drops_all_and_says_so(tmp_path, capsys):
    source = make_folder(tmp_path / 'in', {'cat/0.png': noise(8, 8, 3), 'dog/0.png': noise(8, 8, 3),
                                           'dataset.json': b'{"labels": [["cat/0.png", 1]]}'})
    run_tool(source, tmp_path / 'out.zip')
    assert read(tmp_path / 'out.zip')[1] == {'labels': None}
    assert '1 of 2 images have no label (dog/0.png)' in capsys.readouterr().err


def test_the_record_and_the_same_bytes_every_time(tmp_path):
    source = make_folder(tmp_path / 'photos', {f'{i}.png': noise(16, 16, 3, seed=i) for i in range(3)})
    for dest in ('a.zip', 'b.zip', 'c'):
        run_tool(source, tmp_path / dest, '--width=8', '--height=8', '--max-images=2')
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()
    with zipfile.ZipFile(tmp_path / 'a.zip') as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        record = json.loads(archive.comment)
    assert record == json.loads((tmp_path / 'c.source.json').read_text())
    want = {'source': 'photos', 'images': 2, 'left_out': 0, 'max_images': 2, 'width': 8, 'size': [8, 8],
            'resize_filter': 'lanczos', 'mode': 'RGB'}
    assert {key: record[key] for key in want} == want
    assert str(tmp_path) not in json.dumps(record)
    run_tool(tmp_path / 'a.zip', tmp_path / 'd')
    assert json.loads((tmp_path / 'd.source.json').read_text())['source_record'] == record


# CIFAR archives.


@pytest.mark.parametrize('split, want', [(None, [3, 1, 4, 1, 5]), ('test', [0])])
def test_cifar10(tmp_path, split, want):
    batches = {f'data_batch_{i + 1}': {'data': noise(1, 3072, seed=i), 'labels': [label]}
               for i, label in enumerate([3, 1, 4, 1, 5])}
    batches['test_batch'] = {'data': noise(1, 3072, seed=9), 'labels': [0]}
    source = make_cifar(tmp_path / 'cifar-10-python.tar.gz', 'cifar-10-batches-py', batches,
                        {'batches.meta': {'label_names': list('abcdefghij')}})
    run_tool(source, tmp_path / 'out.zip', *([f'--split={split}'] if split else []))
    images, meta = read(tmp_path / 'out.zip')
    assert [label for _, label in meta['labels']] == want and meta['class_names'] == list('abcdefghij')
    # The format: red plane, green plane, blue plane
    planes = noise(1, 3072, seed=9 if split else 0).reshape(3, 32, 32)
    np.testing.assert_array_equal(np.array(images['00000/img00000000.png']), np.dstack(list(planes)))


def test_cifar100_takes_the_fine_labels(tmp_path):
    batch = {'data': noise(2, 3072), 'fine_labels': [1, 0], 'coarse_labels': [7, 7]}
    source = make_cifar(tmp_path / 'x.tar.gz', 'cifar-100-python', {'train': batch, 'test': batch},
                        {'meta': {'fine_label_names': ['apple', 'bee']}})
    run_tool(source, tmp_path / 'out')
    meta = read(tmp_path / 'out')[1]
    assert [label for _, label in meta['labels']] == [1, 0] and meta['class_names'] == ['apple', 'bee']


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ('owned',)


def test_a_cifar_archive_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = make_cifar(tmp_path / 'x.tar.gz', 'cifar-100-python', {'train': _Hostile()},
                        {'meta': {'fine_label_names': []}})
    assert re.search(r"not a readable CIFAR python archive .*names the global '\w+\.mkdir'",
                     refusal(source, tmp_path / 'out'))
    assert not os.path.exists('owned')


def python2(value):
    """Instructions that Python 2's pickle.dumps(value, 2) has for dicts, lists, strings, small numbers and uint8
    arrays."""
    if isinstance(value, str):
        return b'U' + bytes([len(value)]) + value.encode('latin-1') + b'q\x00'
    if isinstance(value, int):
        return b'K' + bytes([value])
    if isinstance(value, list):
        return b']q\x00(' + b''.join(map(python2, value)) + b'e'
    if isinstance(value, dict):
        return b'}q\x00(' + b''.join(python2(key) + python2(entry) for key, entry in value.items()) + b'u'
    head = b'cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x00K\x00\x85U\x01b\x87Rq\x00(K\x01'
    shape = b''.join(b'J' + n.to_bytes(4, 'little') for n in value.shape) + b'\x86'
    kind = b'cnumpy\ndtype\nq\x00U\x02u1K\x00K\x01\x87Rq\x00(K\x03U\x01|NNN' + b'J\xff\xff\xff\xff' * 2 + b'K\x00tb'
    return head + shape + kind + b'\x89T' + value.nbytes.to_bytes(4, 'little') + value.tobytes() + b'tb'


def test_what_python_2_has_written(tmp_path):
    """As the real archives are; with as many instructions as the largest, of CIFAR-100."""
    data = noise(3, 3072)
    for batch, name in [({'data': data, 'fine_labels': [1, 0, 1], 'coarse_labels': [7] * 3,
                          'filenames': ['b\xe9\xe9_1.png'] * 3}, 'small'),
                        ({'data': data, 'fine_labels': [1, 0, 1], 'coarse_labels': [7] * 100_000,
                          'filenames': ['bee.png'] * 50_000}, 'large')]:
        files = {'train': b'\x80\x02' + python2(batch) + b'.'}
        assert pickle.loads(files['train'], encoding='latin1')['filenames'] == batch['filenames']
        meta = {'meta': b'\x80\x02' + python2({'fine_label_names': ['apple', 'bee']}) + b'.'}
        run_tool(make_cifar(tmp_path / f'{name}.tar.gz', 'cifar-100-python', files, meta), tmp_path / name)
        images, meta = read(tmp_path / name)
        assert [label for _, label in meta['labels']] == [1, 0, 1] and meta['class_names'] == ['apple', 'bee']
        np.testing.assert_array_equal(np.array(images['00000/img00000002.png']),
                                      data[2].reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize('batch, message', [
    ({'data': noise(2, 3072).astype(np.float32), 'fine_labels': [1, 0]}, 'its images are float32, not uint8'),
    ({'data': noise(2, 3072), 'fine_labels': [1]}, 'ValueError'), ({'data': noise(2, 3000), 'fine_labels': [1, 0]},
                                                                   'ValueError'),
    ({'data': [1, 2], 'fine_labels': [1, 0]}, 'AttributeError'), ([1, 2], 'TypeError'),
    ({'fine_labels': [1]}, "KeyError: 'data'"),
    ({'data': noise(1, 3072), 'fine_labels': [[1]]}, 'TypeError'), (b'\x80\x02}T\xff\xff\xff\xff.', 'ends too early')])
def test_cifar_archives_of_something_else(tmp_path, batch, message):
    source = make_cifar(tmp_path / 'x.tar.gz', 'cifar-100-python', {'train': batch},
                        {'meta': {'fine_label_names': ['a', 'b']}})
    assert re.search(f'x.tar.gz: not a readable CIFAR python archive .*{message}', refusal(source, tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_broken_cifar_archives(tmp_path):
    (tmp_path / 'cifar-10-python.tar.gz').write_bytes(b'not gzip')
    assert 'cifar-10-python.tar.gz: not a readable CIFAR python archive' in refusal(tmp_path / 'cifar-10-python.tar.gz',
                                                                                    tmp_path / 'out')
    other = make_cifar(tmp_path / 'other.tar.gz', 'photos', {'a.png': b'-'}, {})
    assert ('holds neither cifar-10-batches-py/batches.meta nor '
            'cifar-100-python/meta' in refusal(other, tmp_path / 'out'))
    assert '--split=val: other.tar.gz has the parts train and test' in refusal(other, tmp_path / 'out', '--split=val')


# Bad input.

@pytest.fixture
def bad_folder(tmp_path):
    png = io.BytesIO()
    PIL.Image.fromarray(noise(64, 64, 3)).save(png, 'png')
    lab = io.BytesIO()
    PIL.Image.new('LAB', (8, 8)).save(lab, 'tiff')
    return make_folder(tmp_path / 'bad', {
        '0.png': noise(8, 8, 3), '1.png': noise(8, 8, 3), '2.png': noise(8, 8, 3), 'cut.png': png.getvalue()[:6000],
        'empty.jpg': b'',
        'float.tif': np.ones([8, 8], np.float32), 'lab.tif': lab.getvalue(),
        'grey.png': noise(8, 8), 'large.png': noise(16, 16, 3), 'text.png': b'hello',
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
    (b'{}', "KeyError: 'labels'"),
    (b'{"labels": [["a.png", 1.5]]}', 'label of a.png is 1.5'),
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
