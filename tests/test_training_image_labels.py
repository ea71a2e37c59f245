"""training/dataset/labels.py: which label an image gets, and that nothing of a dataset.json is passed over in
silence."""

import json
import re
import unicodedata
import zipfile

import numpy as np
import pytest
from made_images import make_folder, noise, read, refusal, run_tool

from training.dataset import DatasetError, ImageFolderDataset
from training.dataset.files import ImageFiles
from training.dataset.labels import empty_classes, read_labels


def labels_json(pairs, **more):
    return json.dumps(dict(labels=pairs, **more)).encode()


def folder(path, names, meta=None):
    files = {name: noise(8, 8, 3, seed=i) for i, name in enumerate(names)}
    return make_folder(path, files | ({'dataset.json': meta} if meta else {}))


def labels_of(path):
    files = ImageFiles(str(path))
    return read_labels(files, files.names)


# One spelling of names.

@pytest.mark.parametrize('spelling', [
    'a/é.png', './a/é.png', 'a\\é.png', 'a//é.png', '/a/é.png',
    './a/./' + unicodedata.normalize('NFD', 'é') + '.png'])
def test_names_are_spelled_alike_in_json_folders_and_zips(tmp_path, spelling):
    """By whichever program the JSON and the archive were written."""
    source = folder(tmp_path / 'in', ['a/é.png', 'b.png'], labels_json([[spelling, 1], ['b.png', 0]]))
    assert labels_of(source).by_name == {'a/é.png': 1, 'b.png': 0}
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        for name, path in [(spelling, 'a/é.png'), ('b.png', 'b.png')]:
            archive.write(source / path, name)
        archive.writestr('dataset.json', labels_json([['a/é.png', 1], ['b.png', 0]]))
    data = ImageFolderDataset(str(tmp_path / 'x.zip'), use_labels=True)
    assert data.files.names == ['a/é.png', 'b.png'] and data.raw_labels().tolist() == [1, 0] and data.notes == []
    np.testing.assert_array_equal(data[0][0], noise(8, 8, 3, seed=0).transpose(2, 0, 1))


@pytest.mark.parametrize('write, reads, note', [
    (lambda name: name.encode('utf-8'), 'café', False),                        # macOS: UTF-8 without the mark
    (lambda name: name.encode('cp437'), 'café', True),                         # the format's own code page
    (lambda name: name.encode('latin-1'), 'cafΘ', True)])                      # another one: cannot be known
def test_zip_names_without_the_mark_of_unicode(tmp_path, write, reads, note):
    class RawInfo(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):
            return write(self.filename), self.flag_bits

    picture = (folder(tmp_path / 'in', ['0.png']) / '0.png').read_bytes()
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        for name in ('bar/0.png', 'café/1.png', 'café/2.png'):
            archive.writestr(RawInfo(name), picture)
    found = ImageFiles(str(tmp_path / 'x.zip'))
    assert read_labels(found, found.names).class_names == ['bar', reads] and found.read(found.names[2]) == picture
    assert found.notes == (['2 names are not in Unicode and were read as cp437, as the zip format says: '
                            f'{reads}/1.png, {reads}/2.png; where that is wrong, rename the files'] if note else [])


# What of a dataset.json is not used.

@pytest.mark.parametrize('spell, example', [
    (lambda name: name.replace('.png', '.jpg'), 'a/0.jpg there is a/0.png here: they differ in the ending'),
    (str.upper, 'A/0.PNG there is a/0.png here: they differ in upper and lower case'),
    (lambda name: f'in/{name}', 'in/a/0.png there is a/0.png here: they differ in the folder'),
    (lambda name: f'photo{name[2]}.png', 'images without a label: a/0.png, a/1.png')])
def test_names_that_match_nothing_are_refused_or_said(tmp_path, spell, example, capsys):
    names = ['a/0.png', 'a/1.png', 'b/2.png']
    source = folder(tmp_path / 'in', names, labels_json([[spell(name), 0] for name in names]))
    message = refusal(source, tmp_path / 'out')
    assert '3 of 3 names in dataset.json are no images here and not used' in message and example in message
    assert 'correct the names, or remove dataset.json' in message
    with pytest.raises(DatasetError, match=re.escape(example.split(',')[0])):
        ImageFolderDataset(str(source), use_labels=True)
    (source / 'dataset.json').write_bytes(labels_json([[name, 1] for name in names] + [['gone.png', 0]]))
    run_tool(source, tmp_path / 'out.zip')
    said = capsys.readouterr().err
    assert '1 of 4 names in dataset.json are no images here and not used: gone.png\n' in said
    assert '1 of 2 classes have no image: 0; labels count from 0\n' in said
    assert '1 of 4 names in dataset.json' in ' '.join(ImageFolderDataset(str(source), use_labels=True).notes)


def test_a_set_packed_with_its_folder(tmp_path):
    """As `zip -r set.zip set` does it: names count from the folder of dataset.json."""
    names = ['00000/img00000000.png', '00001/img00001000.png']
    meta = labels_json(list(zip(names, [1, 0], strict=True)), class_names=['x', 'y'])
    set_folder = folder(tmp_path / 'set', names, meta)
    with zipfile.ZipFile(tmp_path / 'set.zip', 'w') as archive:
        for name in [*names, 'dataset.json']:
            archive.write(set_folder / name, f'set/{name}')
    data = ImageFolderDataset(str(tmp_path / 'set.zip'), use_labels=True)
    assert data.raw_labels().tolist() == [1, 0] and data.class_names == ['x', 'y']
    run_tool(tmp_path / 'set.zip', tmp_path / 'out')
    assert read(tmp_path / 'out')[1] == {'labels': [['00000/img00000000.png', 1], ['00000/img00000001.png', 0]],
                                         'class_names': ['x', 'y']}


def test_a_dataset_json_beside_the_images_is_said(tmp_path, capsys):
    """Two sets side by side: neither file speaks for all images, each does for its own part."""
    for i, part in enumerate(['test', 'train']):
        folder(tmp_path / 'in' / part, ['0.png', '1.png'], labels_json([['0.png', i], ['1.png', 1 - i]]))
    run_tool(tmp_path / 'in', tmp_path / 'all')
    assert ('test/dataset.json, train/dataset.json: not used; labels come from one dataset.json in a folder above all '
            'images\n') in capsys.readouterr().err
    run_tool(tmp_path / 'in', tmp_path / 'part', '--split=train')
    assert [label for _, label in read(tmp_path / 'part')[1]['labels']] == [1, 0]
    assert 'test/dataset.json: not used; labels come from train/dataset.json\n' in capsys.readouterr().err


def test_of_two_above_all_images_the_upper_one_counts(tmp_path):
    source = folder(tmp_path / 'in', ['set/0.png', 'set/1.png'], labels_json([['set/0.png', 0], ['set/1.png', 1]]))
    (source / 'set' / 'dataset.json').write_bytes(labels_json([['0.png', 1], ['1.png', 0]]))
    found = labels_of(source)
    assert found.by_name == {'set/0.png': 0, 'set/1.png': 1}
    assert found.notes == ['set/dataset.json: not used; labels come from dataset.json']


# What contradicts itself.

@pytest.mark.parametrize('pairs, class_names, message', [
    ([['a.png', 0], ['./a.png', 1]], None, './a.png has two labels, 0 and 1'),
    ([['a.png', 'cat'], ['b.png', 'dog']], ['cat'], 'the label "dog" is not among the class_names (cat)'),
    ([['a.png', 'cat'], ['b.png', 'dog']], ['cat', 'dog', 'cat'], 'the label "cat" stands twice in class_names; give'),
    ([['a.png', '3'], ['b.png', '10']], None, 'the label "10" is a number in quotation marks; write it without them'),
    ([['a.png', 'cat'], ['b.png', 1]], None, "the label of a.png is 'cat', neither a class number below 16384, nor"),
    ([['a.png', 0], ['b.png', 2]], ['x', 'y'], 'labels up to 2, which are 3 classes, and 2 class_names (x, y); name')])
def test_contradictions_are_refused_at_making_and_reading(tmp_path, pairs, class_names, message):
    source = folder(tmp_path / 'in', ['a.png', 'b.png'], labels_json(pairs, class_names=class_names))
    assert message in refusal(source, tmp_path / 'out')
    with pytest.raises(DatasetError, match=re.escape(message)):
        ImageFolderDataset(str(source))


def test_the_same_label_twice_is_no_contradiction(tmp_path):
    source = folder(tmp_path / 'in', ['a.png'], labels_json([['a.png', 2], ['a.png', 2]]))
    assert labels_of(source).by_name == {'a.png': 2}


@pytest.mark.parametrize('class_names, numbers', [(None, [1, 0, 1]), (['eel', 'dog', 'cat'], [1, 2, 1])])
def test_class_names_as_labels(tmp_path, class_names, numbers):
    """In alphabetical order like folders, or in the order given."""
    names = ['a.png', 'b.png', 'c.png']
    meta = labels_json(list(zip(names, ['dog', 'cat', 'dog'], strict=True)), class_names=class_names)
    source = folder(tmp_path / 'in', names, meta)
    data = ImageFolderDataset(str(source), use_labels=True)
    assert data.raw_labels().tolist() == numbers and data.class_names == (class_names or ['cat', 'dog'])
    run_tool(source, tmp_path / 'out')
    meta = read(tmp_path / 'out')[1]
    assert [label for _, label in meta['labels']] == numbers and meta['class_names'] == data.class_names


# Folders.

@pytest.mark.parametrize('names, classes', [
    (['00000/00000.png', '00000/00999.png', '01000/01000.png'], None),         # FFHQ
    (['ffhq/00000/00001.png', 'ffhq/69000/69999.png'], None),
    (['00000/img00000007.png', '00012/img00012345.png'], None),                # StyleGAN
    (['00000/00000_00000.ppm', '00001/00000_00001.ppm'], ['00000', '00001']),  # GTSRB: numbers that are classes
    (['0/1.png', '1/1000.png'], ['0', '1']),                                   # MNIST
    (['cat/1.png', '01000/01000.png'], ['01000', 'cat'])])
def test_folders_that_only_store_are_no_classes(tmp_path, names, classes):
    found = labels_of(folder(tmp_path / 'in', names))
    assert found.class_names == classes
    said = {'by number': 'folders that hold images by their number are no', 'digits': 'which tells a teacher nothing'}
    wanted = {'by number': classes is None, 'digits': classes is not None and 'cat' not in classes}
    assert {key: text in ' '.join(found.notes) for key, text in said.items()} == wanted


@pytest.mark.parametrize('labels, class_names, note', [
    ([0, 1, 2, 2], None, []), ([1, 2, 3], None, ['1 of 4 classes have no image: 0; labels count from 0']),
    ([0, 3, 5], None, ['3 of 6 classes have no image: 1, 2, 4; number the labels without gaps']),
    ([0, 2], ['cat', 'dog', 'eel', 'fox'], ['2 of 4 classes have no image: dog, fox'])])
def test_classes_without_images(labels, class_names, note):
    assert empty_classes(np.array(labels), class_names) == note
