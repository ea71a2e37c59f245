"""dataset_tool.py: pixels against numpy and hand-made pictures, and labels."""

import io
import json
import zipfile

import numpy as np
import PIL.Image
import pytest
from made_images import ORIENTATION, convert, make_folder, noise, read, refusal, run_tool


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
