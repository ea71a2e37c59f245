"""training/dataset/color.py: colours against the formulas of the profiles, written by hand."""

import io
import struct

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from made_images import convert, make_folder, noise, run_tool

from training.dataset import ImageFolderDataset
from training.dataset import color as image_color
from training.dataset.convert import open_image, to_rgb_or_grey

D50 = (0.9642, 1, 0.8249)
# columns: XYZ of red, green and blue under D50 (published values)
DISPLAY_P3 = np.array([[.51512, .29198, .15710], [.24120, .69225, .06657], [-.00105, .04189, .78407]])
SRGB = np.array([[.43607, .38515, .14307], [.22249, .71687, .06061], [.01392, .09708, .71410]])


def fixed(*values):
    return b''.join(struct.pack('>i', round(value * 65536)) for value in values)


def make_profile(space, tags, kind=b'mntr', connection=b'XYZ '):
    """An ICC profile, version 2.1 (ICC.1:1998-09)."""
    tags = {b'desc': b'desc\0\0\0\0' + struct.pack('>I', 2) + b'x\0' + bytes(78), b'cprt': b'text\0\0\0\0x\0\0\0',
            b'wtpt': b'XYZ \0\0\0\0' + fixed(*D50)} | tags
    table, body, start = struct.pack('>I', len(tags)), b'', 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack('>II', start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack('>I', start + len(body)) + b'none' + struct.pack('>I', 0x02100000) + kind + space + connection
    return (head + bytes(12) + b'acsp' + bytes(28) + fixed(*D50)).ljust(128, b'\0') + table + body


def gamma(exponent):
    return b'curv\0\0\0\0' + struct.pack('>IH', 1, round(exponent * 256)) + b'\0\0'


def rgb_profile(matrix, exponent):
    names = (b'rXYZ', b'gXYZ', b'bXYZ')
    columns = {name: b'XYZ \0\0\0\0' + fixed(*column) for name, column in zip(names, matrix.T, strict=True)}
    return make_profile(b'RGB ', columns | dict.fromkeys((b'rTRC', b'gTRC', b'bTRC'), gamma(exponent)))


def grey_profile(exponent):
    return make_profile(b'GRAY', {b'kTRC': gamma(exponent)})


def cmyk_profile(lab_of):
    """An output profile of a table with two points a side: lab_of(c, m, y, k) for inks 0 or 1."""
    table = b''
    for i in range(16):
        lightness, a, b = lab_of(*(i >> 3 & 1, i >> 2 & 1, i >> 1 & 1, i & 1))
        table += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    identity = bytes(range(256))
    lut = b'mft1\0\0\0\0' + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + identity * 4 + table + identity * 3
    return make_profile(b'CMYK', {b'A2B0': lut}, b'prtr', b'Lab ')


def encode_srgb(linear):
    """IEC 61966-2-1, as 0..255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def encode(picture, kind='png', **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def served(data):
    return np.asarray(to_rgb_or_grey(open_image(data))).astype(float)


# Values.

@pytest.mark.parametrize('kind, mode', [('png', 'RGB'), ('tiff', 'RGB'), ('png', 'RGBA'), ('png', 'P')])
def test_display_p3_becomes_srgb(kind, mode):
    """Linear light through both matrices, by the exponent of the one and the curve of the other."""
    picture = noise(16, 16, 3) if mode != 'P' else np.kron(noise(2, 4, 3), np.ones([8, 4, 1], np.uint8))
    want = encode_srgb((picture / 255) ** 2.2 @ (np.linalg.inv(SRGB) @ DISPLAY_P3).T)
    img = PIL.Image.fromarray(picture)
    img = img.quantize(8) if mode == 'P' else img.convert(mode)
    got = served(encode(img, kind, icc_profile=rgb_profile(DISPLAY_P3, 2.2)))
    assert np.abs(got - picture).mean() > 5             # the profile makes a difference
    assert np.abs(got - want).max() <= 2


@pytest.mark.parametrize('exponent', [1.0, 1.8])
@pytest.mark.parametrize('mode', ['L', 'LA', '16 bit'])
def test_grey_profiles(exponent, mode):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = values.astype(np.uint16) * 257 if mode == '16 bit' else PIL.Image.fromarray(values).convert(mode)
    got = served(encode(picture, icc_profile=grey_profile(exponent)))
    assert got.shape == (16, 16) and np.abs(got - encode_srgb((values / 255) ** exponent)).max() <= 2


def test_cmyk_by_its_profile():
    """From the Lab values in the table of the profile to sRGB by the formulas of CIE 1976."""
    lab = {(0, 0, 0, 0): (100, 0, 0), (0, 1, 1, 0): (60, 30, 20), (1, 0, 1, 0): (50, -20, 10),
           (1, 1, 0, 0): (40, 10, -30)}
    profile = cmyk_profile(lambda *inks: lab.get(inks, (0, 0, 0)))
    for inks, (lightness, a, b) in [*lab.items(), ((0, 0, 0, 1), (0, 0, 0))]:
        root = np.array([0, 0, 0]) + (lightness + 16) / 116 + np.array([a / 500, 0, -b / 200])
        xyz = np.array(D50) * np.where(root > 6 / 29, root ** 3, 3 * (6 / 29) ** 2 * (root - 4 / 29))
        picture = PIL.Image.new('CMYK', (4, 4), tuple(255 * ink for ink in inks))
        got = served(encode(picture, 'tiff', icc_profile=profile))
        assert np.abs(got - encode_srgb(np.linalg.inv(SRGB) @ xyz)).max() <= 3, inks        # 8 bits of Lab are coarse


def test_transparent_parts_keep_their_place_and_white_is_white():
    picture = np.dstack([noise(8, 8, 3), np.full([8, 8], 255, np.uint8)])
    picture[:4, :, 3] = 0
    data = encode(picture, icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    got = np.asarray(to_rgb_or_grey(open_image(data), 'rgb'))
    assert (got[:4] == 255).all() and np.abs(got[4:] - served(encode(picture[4:, :, :3], icc_profile=rgb_profile(
        DISPLAY_P3, 2.2)))).max() == 0


# What changes nothing, and what cannot be used.

def test_srgb_under_any_name_changes_no_pixel_and_costs_nothing(monkeypatch):
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile('sRGB')).tobytes()
    picture = noise(16, 16, 3)
    np.testing.assert_array_equal(served(encode(picture, icc_profile=profile)), picture)
    for name in ('buildTransform', 'applyTransform'):
        monkeypatch.setattr(PIL.ImageCms, name, None)           # known by now, and not even applied
    np.testing.assert_array_equal(served(encode(picture[::-1].copy(), icc_profile=profile)), picture[::-1])
    grey = noise(16, 16)                                        # a profile left behind when the picture became grey
    data = encode(grey, icc_profile=profile)
    np.testing.assert_array_equal(served(data), grey)
    assert image_color.profile_problem(open_image(data)) is None


@pytest.mark.parametrize('picture, profile, problem', [
    (noise(8, 8, 3), b'nonsense', 'a colour profile that is damaged, so that their pixels are taken as they are'),
    (noise(8, 8, 3), rgb_profile(SRGB, 2.2)[:300], 'a colour profile that is damaged'),
    (noise(8, 8, 3), grey_profile(1.0), 'a colour profile that is for GRAY pixels'),
    (noise(8, 8), rgb_profile(DISPLAY_P3, 1.0), 'a colour profile that is for RGB pixels')],
    ids=['nonsense', 'cut off', 'grey on RGB', 'RGB on grey'])
def test_profiles_that_cannot_be_used_are_said(tmp_path, capsys, picture, profile, problem):
    data = encode(picture, icc_profile=profile)
    np.testing.assert_array_equal(served(data), picture)
    source = make_folder(tmp_path / 'in', {'a.png': data, 'b.png': picture})
    run_tool(source, tmp_path / 'out')
    assert f'1 of 2 images have {problem}' in capsys.readouterr().err
    notes = ImageFolderDataset(str(source)).notes
    assert any(f'1 of 2 images have {problem}' in note and 'a.png' in note for note in notes)


def test_a_pillow_without_littlecms(monkeypatch):
    def lacking(*args):
        raise ImportError('The _imagingcms C module is not installed')
    monkeypatch.setattr(PIL.ImageCms, 'ImageCmsProfile', lacking)
    image_color._correction.cache_clear()
    data = encode(noise(8, 8, 3), icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    np.testing.assert_array_equal(served(data), noise(8, 8, 3))
    assert 'needs LittleCMS, which this Pillow lacks' in image_color.profile_problem(open_image(data))


def test_cmyk_without_a_profile_is_said(tmp_path, capsys):
    run_tool(make_folder(tmp_path / 'in', {'a.tif': PIL.Image.new('CMYK', (8, 8), (0, 255, 255, 0))}), tmp_path / 'out')
    assert '1 of 1 images have CMYK pixels without a colour profile, so that their colours are a guess: a.tif' in \
        capsys.readouterr().err


def test_the_tool_and_training_see_the_same_colours(tmp_path):
    """And the tool's pictures carry no profile that would be applied a second time."""
    data = encode(noise(8, 8, 3), icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    made = convert(tmp_path, data)
    assert 'icc_profile' not in made.info
    direct = ImageFolderDataset(str(tmp_path / 'one'))[0][0]
    np.testing.assert_array_equal(np.asarray(made), direct.transpose(1, 2, 0))
    assert np.abs(direct.astype(int) - noise(8, 8, 3).transpose(2, 0, 1)).mean() > 5
