"""dataset_tool.py on what phones, scanners, microscopes and animators write; and which images --max-images takes."""

import io
import json
import re
import sys

import numpy as np
import PIL.Image
import pytest
from made_images import convert, make_folder, noise, read, refusal, run_tool

import train
from training.dataset import DatasetError, ImageFolderDataset
from training.dataset import convert as image_convert
from training.dataset.building import subsets


def encode(picture, kind, **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def stack(kind, count, seed=0):
    pages = [PIL.Image.fromarray(noise(8, 8, 3, seed=seed + i)) for i in range(count)]
    return encode(pages[0], kind, save_all=True, append_images=pages[1:])


# Pages and frames.

def test_further_pages_are_said_or_made(tmp_path, capsys):
    files = {'a.tif': stack('tiff', 3), 'b.png': stack('png', 2, seed=5), 'c.bmp': noise(8, 8, 3, seed=9)}
    source = make_folder(tmp_path / 'in', files)
    note = '2 files have several pages or frames, of which the first is used, 3 pictures are left out: a.tif, b.png;'
    run_tool(source, tmp_path / 'first')
    assert note in capsys.readouterr().err
    images, _ = read(tmp_path / 'first')
    assert [img.tobytes() for img in images.values()] == [noise(8, 8, 3, seed=i).tobytes() for i in (0, 5, 9)]
    notes = ImageFolderDataset(str(source)).notes
    assert [text for text in notes if 'pages' in text] == [
        '2 files have several pages or frames, of which the first is used: a.tif, b.png; dataset_tool.py --pages=all '
        'makes an image of each']
    run_tool(source, tmp_path / 'all', '--pages=all')
    assert 'pages or frames' not in capsys.readouterr().err
    images, _ = read(tmp_path / 'all')
    assert [img.tobytes() for img in images.values()] == [noise(8, 8, 3, seed=i).tobytes() for i in (0, 1, 2, 5, 6, 9)]
    assert json.loads((tmp_path / 'all.source.json').read_text())['pages'] == 'all'


@pytest.mark.parametrize('kind', ['gif', 'webp', 'avif', 'heif'])
def test_animations_of_every_kind_are_noticed(tmp_path, kind, capsys):
    PIL.Image.init()
    if kind == 'avif' and 'AVIF' not in PIL.Image.OPEN or kind == 'heif' and not image_convert.has_heif():
        pytest.skip('not read here')
    source = make_folder(tmp_path / 'in', {f'a.{kind}': stack(kind, 4), f'b.{kind}': stack(kind, 1)})
    run_tool(source, tmp_path / 'out')
    assert f'1 files have several pages or frames, of which the first is used, 3 pictures are left out: a.{kind};' in \
        capsys.readouterr().err
    assert any('1 files have several pages' in note for note in ImageFolderDataset(str(source)).notes)


def test_the_previews_in_photos_of_cameras_are_no_pictures(tmp_path, capsys):
    """MPO: phones and cameras put previews and depth maps behind a JPEG."""
    source = make_folder(tmp_path / 'in', {'a.jpg': stack('mpo', 3)})
    run_tool(source, tmp_path / 'out', '--pages=all')
    assert len(read(tmp_path / 'out')[0]) == 1 and 'pages' not in capsys.readouterr().err


def test_a_page_that_cannot_be_used_is_named(tmp_path, capsys):
    pages = [PIL.Image.fromarray(noise(side, side, 3)) for side in (8, 16, 8)]
    source = make_folder(tmp_path / 'in', {'a.tif': encode(pages[0], 'tiff', save_all=True, append_images=pages[1:])})
    assert 'in: 1 of 3 images cannot be used' in refusal(source, tmp_path / 'out', '--pages=all')
    assert '  a.tif, page 2: is 16x16, most others are 8x8;' in capsys.readouterr().err


# 12 bits in files of 16.

def test_12_bits_are_noticed_and_the_remedy_works(tmp_path, capsys):
    values = np.random.RandomState(0).randint(0, 4096, (8, 8)).astype(np.uint16)
    values[0, :2] = 0, 4000
    values[values > 4000] = 4000
    source = make_folder(tmp_path / 'in', {'a.png': values, 'b.png': values[::-1].copy(), 'c.png': values // 2})
    run_tool(source, tmp_path / 'dark')
    note = ('the 16-bit images use only the values up to 4000 of 65535, so that all are almost black (at most 16 of '
            '255); dataset_tool.py --white=4095 makes 4095 white')
    assert note in capsys.readouterr().err and note in ImageFolderDataset(str(source)).notes
    run_tool(source, tmp_path / 'good', '--white=4095')
    assert note not in capsys.readouterr().err
    got = np.asarray(read(tmp_path / 'good')[0]['00000/img00000000.png']).astype(float)
    assert np.abs(got - values / 4095 * 255).max() <= 0.5


def test_values_above_white_are_white(tmp_path):
    values = np.full([8, 8], 1000, np.uint16)
    values[0, 0] = 65535
    assert np.asarray(convert(tmp_path, values, '--white=1000')).min() == 255


def test_a_black_set_of_other_pictures_is_noticed(tmp_path, capsys):
    run_tool(make_folder(tmp_path / 'in', {'a.png': noise(8, 8, 3) // 16}), tmp_path / 'out')
    assert 'no pixel of the 1 images is brighter than 15 of 255: they are almost black' in capsys.readouterr().err
    run_tool(make_folder(tmp_path / 'in2', {'a.png': noise(8, 8, 3) // 16, 'b.png': noise(8, 8, 3)}), tmp_path / 'out2')
    assert 'almost black' not in capsys.readouterr().err                        # a night picture among others


# Very large pictures.

def test_more_pixels_than_the_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PIL.Image, 'MAX_IMAGE_PIXELS', 200)     # Pillow refuses what has more than twice as many
    source = make_folder(tmp_path / 'in', {'a.png': noise(32, 32, 3)})
    assert '1 of 1 images cannot be used' in refusal(source, tmp_path / 'out')
    assert 'a.png: has more than 400 pixels, as hostile files do; if you trust it, raise the limit with ' \
        'dataset_tool.py --max-pixels=N' in capsys.readouterr().err
    run_tool(source, tmp_path / 'out', '--max-pixels=1024')
    assert (tmp_path / 'out' / '00000' / 'img00000000.png').exists() and PIL.Image.MAX_IMAGE_PIXELS == 200
    refusal(source, tmp_path / 'no', '--max-pixels=1000')


# HEIC.

@pytest.fixture
def heic():
    return pytest.importorskip('pillow_heif')


@pytest.fixture
def without_heif(monkeypatch):
    """As where pillow-heif is not installed."""
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    for function in (image_convert.has_heif, image_convert._formats):
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in (image_convert.has_heif, image_convert._formats):
        function.cache_clear()


def heic_photo(heic, orientation=1):
    heic.register_heif_opener()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = np.zeros([32, 64, 3], np.uint8)
    picture[:, 32:] = 250
    return picture, encode(picture, 'heif', quality=100, exif=exif.tobytes())


@pytest.mark.parametrize('orientation, turn', [
    (1, lambda a: a), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)])
def test_heic_photos_are_read_upright(tmp_path, heic, orientation, turn):
    picture, data = heic_photo(heic, orientation)
    want = turn(picture)
    height, width = want.shape[:2]
    options = ['--transform=center-crop', '--width=32', '--height=32']
    img = np.asarray(convert(tmp_path, data, *options, name='IMG_0001.HEIC')).astype(int)
    top, left = (height - 32) // 2, (width - 32) // 2
    assert np.abs(img - want[top:top + 32, left:left + 32]).mean() < 5          # chroma is stored at half the size


def test_heic_in_training(tmp_path, heic):
    _, data = heic_photo(heic)
    square = encode(PIL.Image.open(io.BytesIO(data)).resize((32, 32)), 'heif')
    data = ImageFolderDataset(str(make_folder(tmp_path / 'in', {'a.heic': square})))
    assert data.image_shape == [3, 32, 32] and data[0][0][:, 16, 4].max() < 40 and data[0][0][:, 16, 28].min() > 210


def test_heic_without_the_package(tmp_path, heic, without_heif, capsys):
    _, data = heic_photo(heic)
    source = make_folder(tmp_path / 'in', {'a.HEIC': data, 'b.heic': data, 'c.png': noise(8, 8, 3)})
    remedy = 'pip install pillow-heif (the extra [heif]), or export it as JPEG'
    message = refusal(source, tmp_path / 'out')
    assert f'in: 2 of 3 images are HEIC (a.HEIC, b.heic), which needs a package: {remedy}; or leave them out' in message
    run_tool(source, tmp_path / 'out', '--on-error=skip')
    assert f'a.HEIC: is HEIC, which needs a package: {remedy}' in capsys.readouterr().err
    with pytest.raises(DatasetError, match=re.escape(f'a.HEIC is HEIC, which needs a package: {remedy}')):
        ImageFolderDataset(str(source))


# --max-images.

def test_max_images_takes_the_same_number_of_each_class_folder(tmp_path, capsys):
    names = [f'cat/{i}.png' for i in range(5)] + [f'dog/{i}.png' for i in range(5)] + ['eel/0.png']
    source = make_folder(tmp_path / 'in', {name: noise(8, 8, 3, seed=i) for i, name in enumerate(names)})
    run_tool(source, tmp_path / 'out', '--max-images=6')
    images, meta = read(tmp_path / 'out')
    assert [label for _, label in meta['labels']] == [0, 0, 0, 1, 1, 2] and meta['class_names'] == ['cat', 'dog', 'eel']
    assert [img.tobytes() for img in images.values()] == [noise(8, 8, 3, seed=i).tobytes() for i in (0, 1, 2, 5, 6, 10)]
    assert '--max-images=6: the first of each class, 3 of cat, 2 of dog, 1 of eel' in capsys.readouterr().err


def test_max_images_of_labels_in_a_file_takes_the_first_and_says_what_is_missing(tmp_path, capsys):
    """As StyleGAN2-ADA does it."""
    names = [f'{i}.png' for i in range(4)]
    meta = json.dumps({'labels': list(zip(names, [0, 0, 1, 1], strict=True)), 'class_names': ['cat', 'dog']}).encode()
    source = make_folder(tmp_path / 'in', {name: noise(8, 8, 3) for name in names} | {'dataset.json': meta})
    run_tool(source, tmp_path / 'out', '--max-images=2')
    assert [label for _, label in read(tmp_path / 'out')[1]['labels']] == [0, 0]
    assert '1 of 2 classes have no image: dog\n' in capsys.readouterr().err


@pytest.mark.parametrize('count, want', [(1, 'a'), (3, 'acf'), (5, 'abcdf'), (6, 'abcdef')])
def test_the_first_of_each(count, want):
    labels = dict(zip('abcdef', [0, 0, 1, 1, 1, 2], strict=True))
    assert ''.join(subsets.first_of_each(list('abcdef'), labels, count)) == want


# Little.

@pytest.mark.parametrize('count, note', [
    (1, '1 image is all that there is to learn from: a network can only repeat it;'), (2, '2 images are all'), (3, '')])
def test_hardly_any_images(tmp_path, capsys, count, note):
    source = make_folder(tmp_path / 'in', {f'{i}.png': noise(8, 8, 3, seed=i) for i in range(count)})
    run_tool(source, tmp_path / 'out.zip')
    said = capsys.readouterr().err
    assert note in said if note else said == ''


def test_notes_appear_where_a_run_begins(tmp_path, monkeypatch, capsys):
    source = make_folder(tmp_path / 'in', {f'{i}.png': noise(16, 16, 3, seed=i) for i in range(3)})
    labels = [[f'{name}.png', i % 2] for i, name in enumerate(['0', '1', '2', 'gone'])]
    (tmp_path / 'in' / 'dataset.json').write_text(json.dumps(dict(labels=labels)))
    note, = ImageFolderDataset(str(source), use_labels=True).notes
    options = [f'--outdir={tmp_path}/runs', f'--data={source}', '--cond=1', '--dry-run', '--metrics=none',
               '--device=cpu']
    monkeypatch.setattr(sys, 'argv', ['train.py', *options])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert not end.value.code
    assert 'gone.png' in note and f'{source}: {note}' in capsys.readouterr().out
