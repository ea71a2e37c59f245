"""dataset_tool.py fetch: stand-in archives of the same layout from a server of our own, and every refusal."""

import hashlib
import io
import json
import os
import pathlib
import re
import zipfile

import numpy as np
import PIL.Image
import pytest
from conftest import run_cli
from download_server import serving
from made_images import make_cifar, noise, read

import dataset_tool
from dnnlib import resumable
from training.dataset import ImageFolderDataset
from training.dataset.building import public as public_data

NAMES = ['obama', 'grumpy_cat', 'panda', 'animalface-cat', 'animalface-dog', 'cifar10', 'cifar100']


def photos_zip(count=3, broken=False):
    """An archive as those of the low-shot sets: one folder, JPEG, and what macOS leaves behind."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        for i in range(count):
            picture = io.BytesIO()
            PIL.Image.fromarray(noise(40, 30, 3, seed=i)).save(picture, 'jpeg', quality=95)
            archive.writestr(f'100-shot-panda/{i}.jpg', picture.getvalue())
        archive.writestr('__MACOSX/100-shot-panda/._0.jpg', b'-')
    content = bytearray(data.getvalue())
    if broken:
        content[200] ^= 255
    return bytes(content)


def cifar_tar(path):
    """A CIFAR-10 archive of 4 images in each of its batches."""
    batches = {name: {'data': noise(4, 3072, seed=i), 'labels': [i, 1, 2, 3]}
               for i, name in enumerate([*(f'data_batch_{k}' for k in range(1, 6)), 'test_batch'])}
    return make_cifar(path, 'cifar-10-batches-py', batches,
                      {'batches.meta': {'label_names': list('abcdefghij')}}).read_bytes()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty current folder, and a cache of its own."""
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(resumable, 'PAUSE_SEC', 0)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path


@pytest.fixture
def server(place, monkeypatch):
    """Serves a panda of 3 images and a CIFAR-10 of 20 and 4."""
    with serving() as server:
        cifar = cifar_tar(place / 'cifar.tar.gz')
        server.files = {'/100-shot-panda.zip': photos_zip(), '/cifar-10-python.tar.gz': cifar}
        rows = {'panda': dict(url=server.address + '/100-shot-panda.zip', images=3),
                'cifar10': dict(url=server.address + '/cifar-10-python.tar.gz', images=20, test_images=4,
                                md5=hashlib.md5(cifar).hexdigest())}
        for name, row in rows.items():
            monkeypatch.setitem(public_data.PUBLIC_DATA, name, public_data.PUBLIC_DATA[name]._replace(**row))
        yield server


def fetch(*args):
    code, output = run_cli(dataset_tool.main, 'fetch', *args)
    assert code == 0, output
    return output


def refusal(*args):
    """The message of a command that must fail and leave nothing in the current folder that was not there."""
    before = os.listdir()
    code, output = run_cli(dataset_tool.main, 'fetch', *args)
    assert code != 0 and 'Error: ' in output and os.listdir() == before, output
    return output[output.index('Error: '):].strip()


def test_the_table():
    table = public_data.PUBLIC_DATA
    assert list(table) == NAMES and [row.images for row in table.values()] == [100, 100, 100, 160, 389, 50000, 50000]
    assert ([row.size for row in table.values()] == [256] * 5 + [32] * 2
            and [row.test_images for row in table.values()] == [0] * 5 + [10000] * 2)
    assert all(row.url.startswith('https://') and row.url.endswith(('.zip', '.tar.gz')) for row in table.values())
    assert all(row.md5 is None or re.fullmatch('[0-9a-f]{32}', row.md5) for row in table.values())


def test_low_shot_images_are_256_lanczos_and_all_are_used(server):
    output = fetch('panda')
    assert 'panda.zip: 3 images, 256x256 RGB; no labels' in output
    images, meta = read(pathlib.Path('panda.zip'))
    with zipfile.ZipFile(io.BytesIO(photos_zip())) as archive:
        wanted = [PIL.Image.open(archive.open(f'100-shot-panda/{i}.jpg')).resize((256, 256),
                                                                                 PIL.Image.Resampling.LANCZOS)
                  for i in range(3)]
    assert meta == {'labels': None} and len(images) == 3
    for image, want in zip(images.values(), wanted, strict=True):
        np.testing.assert_array_equal(np.array(image), np.array(want))


def test_the_record_says_where_it_is_from(server):
    fetch('panda')
    fetch('cifar10', '--ref')
    record, test_record = (json.loads(zipfile.ZipFile(name).comment) for name in ['panda.zip', 'cifar10-test.zip'])
    assert record['split'] is None and test_record['split'] == 'test'
    assert record['source'] == '100-shot-panda.zip' and record['width'] == 256 and record['resize_filter'] == 'lanczos'
    assert record['source_record'] == {'address': server.address + '/100-shot-panda.zip',
                                       'sha256': hashlib.sha256(photos_zip()).hexdigest()}


def test_cifar_with_labels_then_the_test_images_from_the_same_archive(server):
    fetch('cifar10')
    fetch('cifar10', '--ref')
    images, meta = read(pathlib.Path('cifar10.zip'))
    assert ([label for _, label in meta['labels']] == [x for i in range(5) for x in (i, 1, 2, 3)]
            and meta['class_names'] == list('abcdefghij'))
    assert len(images) == 20 and {image.size for image in images.values()} == {(32, 32)}
    images, meta = read(pathlib.Path('cifar10-test.zip'))
    assert [label for _, label in meta['labels']] == [5, 1, 2, 3] and len(server.asked) == 1
    np.testing.assert_array_equal(np.array(images['00000/img00000000.png']).transpose(2, 0, 1).ravel(),
                                  noise(4, 3072, seed=5)[0])


@pytest.mark.parametrize('option, count', [('--fraction=20', 4), ('--fraction=10', 2), ('--fraction=12.4', 2),
                                           ('--count=7', 7), ('--count=20', 20)])
def test_a_subset_is_exact_and_the_one_of_train_subset(server, option, count):
    fetch('cifar10', '--dest=all')
    fetch('cifar10', option, '--dest=part.zip')
    part, whole = ImageFolderDataset('part.zip',
                                     use_labels=True), ImageFolderDataset('all', use_labels=True, max_size=count,
                                                                          random_seed=0)
    assert len(part) == len(whole) == count
    for i in range(count):
        np.testing.assert_array_equal(part[i][0], whole[i][0])
        np.testing.assert_array_equal(part[i][1], whole[i][1])
    subset = part.files.record['source_record'].get('subset')
    assert subset == (None if count == 20 else {'images': count, 'of': 20, 'seed': 0})


def test_names_of_the_results(server):
    for options in [[], ['--fraction=10'], ['--count=20', '--dest=again.zip'], ['--ref']]:
        fetch('cifar10', *options)
    assert sorted(os.listdir()) == ['again.zip', 'cifar10-2.zip', 'cifar10-test.zip', 'cifar10.zip']


def test_a_file_fetched_by_other_means(server, place):
    (place / 'by hand').write_bytes(photos_zip())
    fetch('panda', f'--source={place / "by hand"}')
    assert server.asked == [] and len(read(pathlib.Path('panda.zip'))[0]) == 3


@pytest.mark.parametrize('name, content, message', [
    ('panda', photos_zip(2), 'has 2 images, 3 are expected: it is damaged or another archive; try again later'),
    ('panda', photos_zip(broken=True), r'is damaged or cannot be read \(BadZipFile: .*CRC'),
    ('panda', photos_zip()[:-100], 'is no zip archive, or only a part of one; try again later, or get the archive '
                                   'elsewhere'),
    ('panda', b'<html>moved</html>', 'is no zip archive, or only a part of one'),
    ('cifar10', b'-', 'is damaged or another file \\(MD5 336d5ebc5436534e61d16e63ddfca327, expected [0-9a-f]{32}\\)')])
def test_archives_that_are_not_what_they_should_be(server, place, name, content, message):
    server.files = dict.fromkeys(server.files, content)
    assert re.search(f'^Error: {name}: what http://.* gives ' + message, refusal(name))
    assert os.listdir(place / 'cache' / 'downloads') == []
    copy = place / 'copy'
    copy.write_bytes(content)
    assert re.search(r'^Error: --source=.*/copy: (is|has) .*; use a copy of http://.*, or leave --source out',
                     refusal(name, f'--source={copy}'))


def test_a_cifar_archive_of_another_size(server, monkeypatch):
    monkeypatch.setitem(public_data.PUBLIC_DATA, 'cifar10', public_data.PUBLIC_DATA['cifar10']._replace(images=21))
    assert re.search('cifar10: .* has 20 images where 21 are expected', refusal('cifar10'))


@pytest.mark.parametrize('args, message', [
    (['obamma'], "'obamma' is not one of 'obama'"), ([], "Missing argument '"),
    (['panda', '--ref'], '--ref: panda has no test images'),
    (['cifar10', '--ref', '--fraction=10'], '--ref: the FID always compares with all test images'),
    (['cifar10', '--fraction=0'], '--fraction=0: must be a percentage above 0 and up to 100, such as 10'),
    (['cifar10', '--fraction=nan'], '--fraction=nan: must be'),
    (['cifar10', '--fraction=101'], '--fraction=101: must be'),
    (['cifar10', '--fraction=inf'], '--fraction=inf: must be'),
    (['cifar10', '--fraction=1'], '--fraction=1: is less than one of 20 images; ask for more, or for --count=1'),
    (['cifar10', '--count=21'], '--count=21: there are 20 images; ask for 1 to 20'),
    (['cifar10', '--count=0'], '--count=0: there are'),
    (['cifar10', '--count=2', '--fraction=10'], '--count=2: --fraction=10 says how many images already'),
    (['panda', '--dest=x.tar'], '--dest=x.tar: this kind of file cannot be written'),
    (['panda', '--dest=/dev/null/x.zip'], '/dev/null is a file'),
    (['panda', '--source=nothing.zip'], '--source=nothing.zip: there is no such file; use a copy of http'),
    (['panda', '--source=.'], '--source=.: there is no such file')])
def test_wrong_options_are_refused_before_anything_is_asked(server, args, message):
    assert message in refusal(*args) and server.asked == []


def test_a_result_that_is_there_is_not_overwritten(server):
    pathlib.Path('panda.zip').write_bytes(b'mine')
    assert '--dest=panda.zip exists already; choose another name' in refusal('panda')
    assert server.asked == [] and pathlib.Path('panda.zip').read_bytes() == b'mine'


@pytest.mark.parametrize('change, message', [
    (dict(files={}), r'panda: http://.* cannot be fetched \(404 Not Found\); download it elsewhere and name the file '
                     r'with --source=FILE'),
    (dict(headers={'Content-Type': 'text/html'}), 'panda: http://.* gives text/html, a page and no archive'),
    (dict(cuts=[1000, 0]), r'panda: http://.* cannot be fetched \(.*\); 1.0 kB are kept, the same command continues '
                           r'from there; or')])
def test_bad_answers(server, change, message):
    vars(server).update(change)
    assert re.search('^Error: ' + message, refusal('panda'))


def test_a_truncated_download_is_completed(server):
    server.cuts = [1000, 0]
    assert '1.0 kB are kept, the same command continues from there' in refusal('panda')
    fetch('panda')
    assert ([asked for _, asked in server.asked] == [None, 'bytes=1000-', 'bytes=1000-']
            and len(read(pathlib.Path('panda.zip'))[0]) == 3)
