"""training/dataset/folder.py: images, labels, subsets, mirroring, workers."""

import os
import pickle
import re
import threading
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch
from data_files import CLASSES, NAMES, encode, make_files, noise, write

from training.dataset import ImageFolderDataset

# What is served.


@pytest.fixture(params=['data.zip', 'data'])
def path(tmp_path, request):
    return write(tmp_path / request.param, make_files())


def test_images_and_shapes(path):
    ds = ImageFolderDataset(path, resolution=8)
    assert (ds.name, ds.image_shape, ds.num_channels, ds.resolution, len(ds),
            ds.num_images) == ('data', [3, 8, 8], 3, 8, 7, 7)
    assert (ds.label_shape, ds.label_dim, ds.has_labels, ds.has_onehot_labels) == ([0], 0, False, False)
    for i in range(7):
        image, label = ds[i]
        np.testing.assert_array_equal(image, noise(8, 8, 3, seed=i).transpose(2, 0, 1))
        assert image.dtype == np.uint8 and image.flags.writeable and label.shape == (0,) and label.dtype == np.float32


def test_class_numbers_become_one_hot(path):
    ds = ImageFolderDataset(path, use_labels=True)
    assert (ds.label_shape, ds.label_dim, ds.has_labels, ds.has_onehot_labels) == ([4], 4, True, True)
    for i, number in enumerate(CLASSES):
        label = ds[i][1]
        assert label.dtype == np.float32 and label.tolist() == [float(k == number) for k in range(4)]
        assert ds.get_details(i) == {'raw_idx': i, 'xflip': False, 'raw_label': number}


def test_vectors_stay_as_they_are(tmp_path):
    vectors = [[0.5, -1.25, i] for i in range(7)]
    ds = ImageFolderDataset(write(tmp_path / 'x.zip', make_files(vectors)), use_labels=True)
    assert (ds.label_dim, ds.has_labels, ds.has_onehot_labels) == (3, True, False)
    assert [ds.get_label(i).tolist() for i in range(7)] == vectors


def test_labels_null_means_none(tmp_path):
    ds = ImageFolderDataset(write(tmp_path / 'x.zip', make_files(None)), use_labels=True)
    assert not ds.has_labels and ds[0][1].shape == (0,)


def test_class_names_and_absent_classes(tmp_path):
    path = write(tmp_path / 'x.zip', make_files(class_names=['a', 'b', 'c', 'd', 'e']))
    assert ImageFolderDataset(path).class_names == ['a', 'b', 'c', 'd', 'e']
    # So that it agrees with the rest of its data set
    assert ImageFolderDataset(path, use_labels=True).label_dim == 5


def test_class_folders(tmp_path):
    files = {f'{animal}/{i}.png': encode(noise(8, 8, 3, seed=i)) for animal in ('dog', 'cat') for i in range(2)}
    ds = ImageFolderDataset(write(tmp_path / 'x', files), use_labels=True)
    assert ds.class_names == ['cat', 'dog'] and [ds.get_details(i).raw_label for i in range(4)] == [0, 0, 1, 1]


def test_the_folders_of_the_format_are_no_classes(tmp_path):
    files = {f'0000{i}/img0000{i}000.png': encode(noise(8, 8, 3)) for i in range(2)}
    assert ImageFolderDataset(write(tmp_path / 'x', files)).class_names is None


def test_mirrored_images_come_after_the_others(path):
    ds = ImageFolderDataset(path, xflip=True, use_labels=True)
    assert len(ds) == 14 and ds.num_images == 7
    for i in range(7):
        np.testing.assert_array_equal(ds[7 + i][0], np.flip(noise(8, 8, 3, seed=i), 1).transpose(2, 0, 1))
        np.testing.assert_array_equal(ds[7 + i][1], ds[i][1])
        assert ds.get_details(7 + i) == {'raw_idx': i, 'xflip': True, 'raw_label': CLASSES[i]}


@pytest.mark.parametrize('max_size, seed, want', [(3, 0, [1, 2, 6]), (5, 1, [0, 1, 2, 4, 6]), (7, 3, range(7)),
                                                  (99, 3, range(7))])
def test_subsets(path, max_size, seed, want):
    """Numbers recorded from the format's other implementations: the same --subset and --seed draw the same images."""
    ds = ImageFolderDataset(path, max_size=max_size, random_seed=seed, use_labels=True)
    assert [ds.get_details(i).raw_idx for i in range(len(ds))] == list(want) and ds.label_dim == 4
    np.testing.assert_array_equal(ds[1][0], noise(8, 8, 3, seed=list(want)[1]).transpose(2, 0, 1))


@pytest.mark.parametrize('picture, want', [
    (noise(8, 8), noise(8, 8)[None]),
    (PIL.Image.fromarray(noise(8, 8) > 127), (noise(8, 8) > 127)[None] * 255),
    ((noise(8, 8).astype(np.uint16) * 257), noise(8, 8)[None]),
    (np.dstack([noise(8, 8, 3), np.full([8, 8], 255, np.uint8)]), noise(8, 8, 3).transpose(2, 0, 1)),
    (PIL.Image.fromarray(np.full([8, 8, 3], [9, 8, 7], np.uint8)).quantize(2),
     np.full([8, 8, 3], [9, 8, 7]).transpose(2, 0, 1)),
], ids=['grey', 'bilevel', '16 bit', 'rgba', 'palette'])
def test_pictures_not_made_by_the_tool(tmp_path, picture, want):
    ds = ImageFolderDataset(write(tmp_path / 'x.zip', {'a.png': encode(picture)}))
    assert ds.image_shape == list(want.shape) and ds[0][0].flags.writeable
    np.testing.assert_array_equal(ds[0][0], want)


# Processes.

def test_a_thread_that_opens_the_archive_keeps_nobody_out(tmp_path, monkeypatch):
    """A process forked meanwhile would find a lock locked forever. And what another process has opened stays open."""
    files = ImageFolderDataset(write(tmp_path / 'x.zip', make_files())).files
    files.close()
    opening, go_on, opened = threading.Event(), threading.Event(), []

    class Archive(zipfile.ZipFile):
        def __init__(self, path):
            if threading.current_thread() is not threading.main_thread():
                opening.set()
                assert go_on.wait(60)
            super().__init__(path)
            opened.append(self)
    monkeypatch.setattr(zipfile, 'ZipFile', Archive)
    read = []
    thread = threading.Thread(target=lambda: read.append(files.read(NAMES[1])))
    thread.start()
    assert opening.wait(60)
    assert files.read(NAMES[0]) == encode(noise(8, 8, 3, seed=0))
    go_on.set()
    thread.join(60)
    assert read == [encode(noise(8, 8, 3, seed=1))] and len(opened) == 2
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    assert files.read(NAMES[0]) == encode(noise(8, 8, 3, seed=0)) and len(opened) == 3 and opened[0].fp is not None
    files.close()
    assert opened[2].fp is None and opened[0].fp is not None


# Python >= 3.12; few cores
@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded', 'ignore:This DataLoader will create')
@pytest.mark.parametrize('ending', ['.zip', ''])
def test_workers_read_what_this_process_reads(tmp_path, ending):
    """Many large reads: workers that shared one file position would soon disturb each other."""
    files = {f'{"ab"[i % 2]}/{i}.png': encode(noise(64, 64, 3, seed=i), compress_level=0) for i in range(60)}
    ds = ImageFolderDataset(write(tmp_path / f'x{ending}', files), use_labels=True, xflip=True)
    here = [ds[i] for i in range(len(ds))]                                      # the handle is open before the fork
    for _ in range(3):
        loader = torch.utils.data.DataLoader(ds, batch_size=2, num_workers=3)
        images, labels = (torch.cat(parts).numpy() for parts in zip(*loader, strict=True))
        np.testing.assert_array_equal(images, [image for image, _ in here])
        np.testing.assert_array_equal(labels, [label for _, label in here])


def test_pickled_and_closed(path):
    ds = ImageFolderDataset(path)
    image = ds[3][0]
    ds.close()
    np.testing.assert_array_equal(ds[3][0], image)                              # opens again
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds))[3][0], image)
    ds.close()
    ds.close()


# Content hash.

def test_content_hash_is_that_of_what_is_served(tmp_path):
    files = make_files()
    path = write(tmp_path / 'a.zip', files)
    plain = ImageFolderDataset(path).content_hash()
    assert re.fullmatch('[0-9a-f]{64}', plain)
    assert ImageFolderDataset(write(tmp_path / 'b', files)).content_hash() == plain           # the same as a folder
    others = [ImageFolderDataset(path, **kwargs).content_hash() for kwargs in
              [{'use_labels': True}, {'xflip': True}, {'max_size': 3}, {'max_size': 3, 'random_seed': 2}]]
    files[NAMES[2]] = encode(noise(8, 8, 3, seed=99))
    others.append(ImageFolderDataset(write(tmp_path / 'c.zip', files)).content_hash())
    files = {name + '.png' if name == NAMES[6] else name: data for name, data in make_files().items()}
    others.append(ImageFolderDataset(write(tmp_path / 'd.zip', files)).content_hash())
    assert len({plain, *others}) == 7
