"""dataset_tool.py imagenet: a stand-in of the same layout, pixels against Pillow and torchvision's rule, exact subsets,
and every refusal."""

import json
import os
import pathlib
import re
import zipfile

import numpy as np
import PIL.Image
import pytest
from conftest import run_cli
from made_images import ORIENTATION, noise, read

import dataset_tool
from kd_plugin.prompts import class_names_of
from training.dataset.building import imagenet as imagenet_source
from training.dataset.building import subsets

CLASSES = ['n01440764', 'n01443537', 'n01484850']


@pytest.fixture
def ilsvrc(tmp_path, monkeypatch):
    """A training folder of 12 pictures in 3 classes, taken for the whole."""
    monkeypatch.setattr(imagenet_source, 'NUM_IMAGES', 12)
    monkeypatch.setattr(imagenet_source, 'NUM_CLASSES', 3)
    for i in range(12):
        path = tmp_path / 'train' / CLASSES[i % 3] / f'{CLASSES[i % 3]}_{i}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(noise(100 + i, 90, 3, seed=i)).save(path, 'jpeg')
    (tmp_path / 'train' / CLASSES[0] / '.hidden.jpg').write_bytes(b'-')
    (tmp_path / 'train' / CLASSES[0] / 'notes.txt').write_bytes(b'-')
    (tmp_path / 'train' / 'n01440764.tar').write_bytes(b'-')
    (tmp_path / 'train' / 'readme').mkdir()
    return tmp_path / 'train'


def make(source, dest, *options):
    code, output = run_cli(dataset_tool.main, 'imagenet', f'--source={source}', f'--dest={dest}', *options)
    assert code == 0, output
    return output


def refusal(source, dest, *options):
    code, output = run_cli(dataset_tool.main, 'imagenet', f'--source={source}', f'--dest={dest}', *options)
    assert code == 1 and len(set(output.splitlines())) == 1 and not os.path.exists(dest), output
    return output.splitlines()[0]


def test_pixels_labels_and_order(ilsvrc, tmp_path):
    output = make(ilsvrc, tmp_path / 'out.zip')
    images, meta = read(tmp_path / 'out.zip')
    paths = [path for folder in CLASSES for path in sorted((ilsvrc / folder).glob('*_*.JPEG'))]
    assert [label for _, label in meta['labels']] == [0] * 4 + [1] * 4 + [2] * 4 and len(images) == 12
    assert ('12 images, 64x64 RGB; 1000 classes: tench, goldfish, great white shark' in output
            and meta['class_names'] == class_names_of('imagenet'))
    for path, image in zip(paths, images.values(), strict=True):
        whole = PIL.Image.open(path)
        top = int(round((whole.height - 90) / 2.0))         # torchvision's CenterCrop: 10 -> 5, 11 -> 6, 13 -> 6
        want = whole.crop((0, top, 90, top + 90)).resize((64, 64), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.array(image), np.array(want))


def test_odd_pictures(ilsvrc, tmp_path):
    """What the training set has among its JPEG files: CMYK, grey, a PNG; and orientation tags, which BigGAN's
    preparation ignores."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    folder = ilsvrc / CLASSES[0]
    turned = PIL.Image.fromarray(noise(70, 80, 3))
    turned.save(folder / 'n01440764_0.JPEG', 'jpeg', exif=exif)
    turned.convert('CMYK').save(folder / 'n01440764_3.JPEG', 'jpeg')
    turned.convert('L').save(folder / 'n01440764_6.JPEG', 'jpeg')
    turned.save(folder / 'n01440764_9.JPEG', 'png')
    make(ilsvrc, tmp_path / 'out.zip')
    images = list(read(tmp_path / 'out.zip')[0].values())
    for image, path in zip(images[:4], sorted(folder.glob('*_*.JPEG')), strict=True):
        want = PIL.Image.open(path).convert('RGB').crop((5, 0, 75, 70)).resize((64, 64), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.array(image), np.array(want))


@pytest.mark.parametrize('option, places', [('--fraction=50', 6), ('--count=5', 5), ('--fraction=8.4', 1)])
def test_a_subset_keeps_its_pictures_labels_and_says_so(ilsvrc, tmp_path, option, places):
    make(ilsvrc, tmp_path / 'all.zip')
    make(ilsvrc, tmp_path / 'part.zip', option)
    (whole, whole_meta), (part, part_meta) = read(tmp_path / 'all.zip'), read(tmp_path / 'part.zip')
    chosen = sorted(np.random.RandomState(0).permutation(12)[:places])
    whole_images = list(whole.values())
    assert [label for _, label in part_meta['labels']] == [whole_meta['labels'][i][1] for i in chosen]
    for i, image in zip(chosen, part.values(), strict=True):
        np.testing.assert_array_equal(np.array(image), np.array(whole_images[i]))
    with zipfile.ZipFile(tmp_path / 'part.zip') as archive:
        record = json.loads(archive.comment)
    assert (record['source_record'] == {'subset': {'images': places, 'of': 12, 'seed': 0}}
            and record['resize_filter'] == 'bilinear')


@pytest.mark.parametrize('percent, count', [(10, 128_117), (5, 64_058), (2.5, 32_029), (100, 1_281_167)])
def test_exact_fractions(percent, count):
    assert subsets.count_of(percent, None, imagenet_source.NUM_IMAGES) == count


def test_subsets_are_nested_and_as_numpy_draws_them():
    small, large = subsets.draw(5000, 50000), subsets.draw(10000, 50000)
    assert len(set(large)) == 10000 and set(small) < set(large) and sorted(small) == small.tolist()
    np.testing.assert_array_equal(small, np.sort(np.random.RandomState(0).choice(50000, 5000, replace=False)))
    assert small[:5].tolist() == [14, 22, 24, 28, 64]


def test_refusals(ilsvrc, tmp_path):
    dest = tmp_path / 'out.zip'
    assert re.search('--source=.*/nothing: cannot be listed .No such file or directory',
                     refusal(tmp_path / 'nothing', dest))
    assert re.search(r'--source=.*: no folders named by WordNet id \(n01440764, ...\) in it; give the folder',
                     refusal(ilsvrc / 'readme', dest))
    assert re.search('--source=.*JPEG: cannot be listed .Not a directory',
                     refusal(ilsvrc / CLASSES[0] / 'n01440764_0.JPEG', dest))
    assert re.search('--count=13: there are 12 images; ask for 1 to 12', refusal(ilsvrc, dest, '--count=13'))
    assert re.search('--fraction=-1: must be a percentage', refusal(ilsvrc, dest, '--fraction=-1'))
    assert re.search('--dest=.* lies inside --source', refusal(ilsvrc, ilsvrc / 'out.zip'))
    assert re.search('this kind of file cannot be written', refusal(ilsvrc, tmp_path / 'out.hdf5'))
    (ilsvrc / CLASSES[1] / 'n01443537_1.JPEG').unlink()
    assert re.search('11 images of 3 classes in it, the training set of ILSVRC-2012 has 12 of 3; complete it',
                     refusal(ilsvrc, dest))


def test_a_damaged_picture_is_named_and_nothing_written(ilsvrc, tmp_path):
    broken = ilsvrc / CLASSES[1] / 'n01443537_1.JPEG'
    broken.write_bytes(broken.read_bytes()[:500])
    code, output = run_cli(dataset_tool.main, 'imagenet', f'--source={ilsvrc}', f'--dest={tmp_path / "out.zip"}')
    assert (code == 1 and 'n01443537/n01443537_1.JPEG: is damaged' in output
            and '1 of 12 images cannot be used' in output)
    assert not pathlib.Path(tmp_path / 'out.zip').exists()
