"""dataset_tool.py on what scanners and microscopes of laboratories write: negatives, signed values, long stacks, files
that are large."""

import io
import re
import struct

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.TiffImagePlugin
import pytest
from made_images import convert, make_folder, noise, read, refusal, run_tool

from training.dataset import DatasetError, ImageFolderDataset
from training.dataset import files as image_files
from training.dataset.building import scan
from training.dataset.building.sources import FileSource

UNSIGNED, SIGNED = 1, 2


def tiff(values, white_is_zero=False, kind=UNSIGNED):
    """The bytes of an uncompressed little-endian TIFF of 16-bit grey `values` [H, W]."""
    height, width = values.shape
    data = values.astype('<i2' if kind == SIGNED else '<u2').tobytes()
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1),
            (278, height), (279, len(data)), (339, kind)]
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
    return (b'II*\0' + struct.pack('<I', 8 + len(data)) + data + struct.pack('<H', len(tags)) + entries
            + struct.pack('<I', 0))


def test_negatives_are_turned(tmp_path):
    """Pillow turns those of 8 bits itself."""
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 257
    assert (np.asarray(convert(tmp_path, tiff(values), name='a.tif')) == values // 257).all()
    assert (np.asarray(convert(tmp_path / '2', tiff(values, True), name='a.tif')) == 255 - values // 257).all()
    source = make_folder(tmp_path / 'raw', {'a.tif': tiff(values, True)})
    assert (ImageFolderDataset(str(source))[0][0][0] == 255 - values // 257).all()         # in training
    got = np.asarray(convert(tmp_path / '3', tiff(values, True), '--white=4095', name='a.tif')).astype(int)
    assert (got == np.round((4095 - np.minimum(values.astype(int), 4095)) / 4095 * 255)).all()


def test_negatives_of_12_bits_are_noticed(tmp_path, capsys):
    values = np.random.RandomState(0).randint(0, 4001, (8, 8)).astype(np.uint16)
    values[0, 0] = 4000
    source = make_folder(tmp_path / 'in', {f'{i}.tif': tiff(values, True) for i in range(3)})
    note = ('the 16-bit images use only the values up to 4000 of 65535, so that all are almost white (at least 239 of '
            '255); dataset_tool.py --white=4095 makes 4095 black, as 0 is white in them')
    run_tool(source, tmp_path / 'white')
    assert note in capsys.readouterr().err and note in ImageFolderDataset(str(source)).notes
    run_tool(source, tmp_path / 'good', '--white=4095')
    assert note not in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['16 bits', '32 bits'])
def test_signed_values_need_black_and_white(tmp_path, capsys, kind):
    """As in CT: from -1024, air, to 3071."""
    values = np.linspace(-1024, 3071, 64).round().astype(np.int32).reshape(8, 8)
    picture = tiff(values, kind=SIGNED) if kind == '16 bits' else PIL.Image.fromarray(values)
    source = make_folder(tmp_path / 'in', {'a.tif': picture})
    refusal(source, tmp_path / 'out')
    assert ('a.tif: has values from -1024 to 3071; --black=VALUE --white=VALUE say which of them become black and '
            'white') in capsys.readouterr().err
    with pytest.raises(DatasetError, match='has values from -1024 to 3071; --black.*; rebuild .* with dataset_tool.py'):
        ImageFolderDataset(str(source))[0]
    got = np.asarray(convert(tmp_path, picture, '--black=-1024', '--white=3071', name='a.tif')).astype(float)
    assert np.abs(got - (values + 1024) / 4095 * 255).max() <= 0.5
    got = np.asarray(convert(tmp_path / '2', picture, '--black=-160', '--white=240', name='a.tif')).astype(float)
    assert np.abs(got - (values.clip(-160, 240) + 160) / 400 * 255).max() <= 0.5
    run_tool(source, tmp_path / 'out.zip', '--black=-160', '--white=240')
    with image_files.zipfile.ZipFile(tmp_path / 'out.zip') as archive:
        assert b'"black": -160, "white": 240' in archive.comment


def test_black_is_below_white(tmp_path):
    assert '--black=9 --white=9: black must be the smaller value' in refusal(tmp_path, tmp_path / 'out', '--black=9',
                                                                             '--white=9')


def pages_opened_anew(data):
    """RGB arrays of a file's pages, whose colour profiles are left alone."""
    with PIL.Image.open(io.BytesIO(data)) as opened:
        count = opened.n_frames
    for i in range(count):
        with PIL.Image.open(io.BytesIO(data)) as opened:
            opened.seek(i)
            yield np.asarray(opened.convert('RGB'))


def test_frames_that_build_on_others(tmp_path, monkeypatch):
    """APNG that disposes of frames: each is as Pillow gives it of a file opened anew, whoever reads which."""
    frames = [PIL.Image.fromarray(noise(8, 8, 4, seed=i), 'RGBA') for i in range(6)]
    for frame in frames:
        frame.putalpha(PIL.Image.fromarray((np.asarray(frame)[:, :, 3] > 128).astype(np.uint8) * 255))
    frames[0].putalpha(255)
    buffer = io.BytesIO()
    frames[0].save(buffer, 'png', save_all=True, append_images=frames[1:], disposal=2, blend=1)
    source = make_folder(tmp_path / 'in', {'a.png': buffer.getvalue()})
    run_tool(source, tmp_path / 'out', '--pages=all', '--color=rgb')
    got = [np.asarray(img) for img in read(tmp_path / 'out')[0].values()]
    assert len(got) == 6
    for i, image in enumerate(got):
        with PIL.Image.open(io.BytesIO(buffer.getvalue())) as opened:
            opened.seek(i)
            white = PIL.Image.new('RGBA', opened.size, 'white')
            assert (image == np.asarray(PIL.Image.alpha_composite(white, opened.convert('RGBA')).convert('RGB'))).all()


def test_a_page_has_its_own_colour_profile(tmp_path):
    """Not that of a page before it."""
    pages = [PIL.Image.fromarray(noise(8, 8, 3, seed=i)) for i in range(3)]
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile('LAB')).tobytes()     # no profile of RGB
    buffer = io.BytesIO()
    with PIL.TiffImagePlugin.AppendingTiffWriter(buffer) as writer:
        for i, page in enumerate(pages):
            page.save(writer, 'tiff', **(dict(icc_profile=profile) if i == 1 else {}))
            writer.newFrame()
    source = FileSource(str(make_folder(tmp_path / 'in', {'a.tif': buffer.getvalue()})))
    found = [scan._at_page(source, 'a.tif', i).info.get('icc_profile') for i in range(3)]
    assert [profile is not None for profile in found] == [False, True, False]


@pytest.mark.parametrize('kind', ['tiff', 'gif', 'webp'])
def test_a_stack_is_opened_once_by_a_thread(tmp_path, monkeypatch, kind):
    """And its pages are those that Pillow gives of a file opened anew."""
    pages = [PIL.Image.fromarray(noise(8, 8, 3, seed=i)) for i in range(12)]
    buffer = io.BytesIO()
    pages[0].save(buffer, kind, save_all=True, append_images=pages[1:])
    source = make_folder(tmp_path / 'in', {f'a.{kind}': buffer.getvalue(), f'b.{kind}': buffer.getvalue()})
    loads, load = [], FileSource.load
    monkeypatch.setattr(FileSource, 'load', lambda self, name: loads.append(name) or load(self, name))
    monkeypatch.setattr(scan.os, 'cpu_count', lambda: 1)
    run_tool(source, tmp_path / 'out', '--pages=all')
    assert loads == [f'{name}.{kind}' for name in 'aabbab']                 # to see it and to go through it; to write
    got = [np.asarray(img) for img in read(tmp_path / 'out')[0].values()]
    wanted = 2 * list(pages_opened_anew(buffer.getvalue()))
    assert len(got) == 24 and all((a == b).all() for a, b in zip(got, wanted, strict=True))


def test_a_file_may_be_large_in_a_folder_and_not_in_an_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_files, 'LARGEST_IMAGE', 500)
    source = make_folder(tmp_path / 'in', {'a.bmp': noise(16, 16, 3), 'b.bmp': noise(16, 16, 3, seed=1)})
    run_tool(source, tmp_path / 'out.zip')
    with image_files.zipfile.ZipFile(tmp_path / 'in.zip', 'w') as archive:
        for name in 'a.bmp', 'b.bmp':
            archive.write(source / name, name)
    refusal(tmp_path / 'in.zip', tmp_path / 'out2.zip')
    assert re.search(r'a.bmp: would unfold into 822 bytes, 500 are the limit in an archive; if you trust it, unpack it '
                     'and give the folder', capsys.readouterr().err)


def test_pictures_beside_class_folders(tmp_path, capsys):
    files = {f'{folder}/{i}.png': noise(8, 8, 3, seed=i) for folder in ('cats', 'dogs') for i in range(2)}
    source = make_folder(tmp_path / 'in', {**files, 'overview.png': noise(8, 8, 3)})
    run_tool(source, tmp_path / 'out.zip')
    assert ('1 of 5 images lie beside the folders (overview.png), so that cats, dogs are not taken for classes; for '
            'labels, move them into a folder') in capsys.readouterr().err
    assert read(tmp_path / 'out.zip')[1] == {'labels': None}
