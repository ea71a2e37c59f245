"""training/dataset/listing.py: links, names that stand twice, and archives that cannot be read."""

import builtins
import os
import zipfile

import pytest
from made_images import make_folder, noise, read, refusal, run_tool

from training.dataset import DatasetError, ImageFolderDataset
from training.dataset.files import ImageFiles

links = pytest.mark.skipif(not hasattr(os, 'symlink') or os.name == 'nt', reason='no links')


def pictures(path, *names):
    return make_folder(path, {name: noise(8, 8, 3, seed=i) for i, name in enumerate(names)})


@links
def test_linked_folders_and_files_are_read(tmp_path):
    store = pictures(tmp_path / 'store', 'cats/0.png', 'cats/old/1.png', 'dog.png')
    source = pictures(tmp_path / 'in', 'birds/0.png')
    (source / 'cats').symlink_to(store / 'cats')
    (source / 'dogs').mkdir()
    (source / 'dogs' / 'dog.png').symlink_to(store / 'dog.png')
    files = ImageFiles(str(source))
    assert files.names == ['birds/0.png', 'cats/0.png', 'cats/old/1.png', 'dogs/dog.png'] and files.notes == []
    assert files.read('cats/old/1.png') == (store / 'cats' / 'old' / '1.png').read_bytes()


@links
def test_circles_of_links_end_and_nothing_is_read_twice(tmp_path):
    source = pictures(tmp_path / 'in', 'a/0.png', 'b/0.png')
    (source / 'a' / 'up').symlink_to(source)                    # a circle
    (source / 'self').symlink_to('self')                        # leads to itself
    (source / 'all').symlink_to(source / 'b')                   # the same pictures under a second name
    (source / 'gone').symlink_to(tmp_path / 'nothing')
    (source / '.trash').symlink_to(tmp_path)
    files = ImageFiles(str(source))
    assert files.names == ['a/0.png', 'b/0.png']
    assert files.notes == ['2 linked folders lead to pictures that are here already, and are left out: a/up, all',
                           '2 links lead nowhere: gone, self']


@links
def test_a_link_to_a_picture_that_is_gone_is_no_silence(tmp_path, capsys):
    source = pictures(tmp_path / 'in', '0.png')
    (source / '1.png').symlink_to(tmp_path / 'nothing.png')
    assert '1 of 2 images cannot be used' in refusal(source, tmp_path / 'out')
    assert '1.png: is damaged (FileNotFoundError' in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_name_that_stands_three_times_in_a_zip(tmp_path, capsys):
    """The last one counts, as it does for unzip; a back slash makes no other name."""
    parts = pictures(tmp_path / 'in', *(f'{i}.png' for i in range(4)))
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        for i, name in enumerate(['a/x.png', 'a/x.png', 'b.png', 'a\\x.png']):
            archive.write(parts / f'{i}.png', name)
    run_tool(tmp_path / 'x.zip', tmp_path / 'out')
    said = '2 files have the name of another one and are not used, the last of a name is: a/x.png, a/x.png; rename them'
    assert said in capsys.readouterr().err and said in ImageFolderDataset(str(tmp_path / 'x.zip')).notes
    images, _ = read(tmp_path / 'out')
    assert [img.tobytes() for img in images.values()] == [noise(8, 8, 3, seed=i).tobytes() for i in (3, 2)]


@pytest.mark.skipif(os.name == 'nt' or os.uname().sysname == 'Darwin', reason='the file system wants Unicode')
def test_names_on_disk_that_are_no_unicode(tmp_path):
    source = pictures(tmp_path / 'in', 'dog/0.png', 'x/1.png')
    os.rename(os.fsencode(source / 'x'), os.fsencode(source) + b'/caf\xe9')
    files = ImageFiles(str(source))
    assert files.names == ['café/1.png', 'dog/0.png'] and len(files.read('café/1.png')) > 0
    assert files.notes == ['1 names are not in Unicode and were read as Latin-1: café/1.png; where that is wrong, '
                           'rename the files']
    assert ImageFolderDataset(str(source)).class_names == ['café', 'dog']


def test_an_encrypted_zip_is_one_clear_line(tmp_path):
    source = pictures(tmp_path / 'in', '0.png', '1.png')
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        for name in ('0.png', '1.png'):
            archive.write(source / name, name)
        archive.writestr('notes.txt', '-')
    data = bytearray((tmp_path / 'x.zip').read_bytes())
    for at in [i for i in range(len(data)) if data[i:i + 4] == b'PK\x01\x02'][:2]:      # the flag of both pictures
        data[at + 8] |= 1
    (tmp_path / 'x.zip').write_bytes(data)
    said = 'x.zip: 2 of its 2 files are encrypted (0.png, 1.png); unpack it with its password and give the folder'
    assert said in refusal(tmp_path / 'x.zip', tmp_path / 'out')
    with pytest.raises(DatasetError, match=r'2 of its 2 files are encrypted'):
        ImageFolderDataset(str(tmp_path / 'x.zip'))


@pytest.mark.parametrize('method, name', [(zipfile.ZIP_BZIP2, 'bzip2'), (zipfile.ZIP_LZMA, 'LZMA')])
def test_a_zip_compressed_otherwise_is_one_clear_line(tmp_path, method, name):
    source = pictures(tmp_path / 'in', '0.png', '1.png')
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w', method) as archive:
        archive.write(source / '0.png', '0.png', zipfile.ZIP_STORED)
        archive.write(source / '1.png', '1.png')
    message = refusal(tmp_path / 'x.zip', tmp_path / 'out')
    assert (f'1 of its 2 files are compressed by {name} (number {method} of the format), which is not read (1.png); '
            'zip them again by the usual method, deflate, or unpack the archive and give the folder') in message


@pytest.mark.parametrize('zipped', [False, True])
def test_nothing_but_hidden_pictures_is_said(zipped, tmp_path):
    """What macOS adds is no picture of anybody."""
    source = pictures(tmp_path / 'in', '.data/cat/0.png', '__MACOSX/._1.png', '._2.png')
    if zipped:
        with zipfile.ZipFile(tmp_path / 'in.zip', 'w') as archive:
            for name in ('.data/cat/0.png', '__MACOSX/._1.png', '._2.png'):
                archive.write(source / name, name)
        source = tmp_path / 'in.zip'
    found = '.data/cat/0.png' if zipped else '.data'
    line = f'no images in it; files and folders whose names begin with a point are not looked at: {found}; '
    assert line in refusal(source, tmp_path / 'out')
    with pytest.raises(DatasetError, match=line.replace('.', r'\.')):
        ImageFolderDataset(str(source))
    pictures(tmp_path / 'more', 'a.png', '.data/b.png')
    assert ImageFiles(str(tmp_path / 'more')).notes == []


def test_a_record_that_cannot_be_read(tmp_path, monkeypatch):
    source = pictures(tmp_path / 'in', '0.png')
    (tmp_path / 'in.source.json').write_text('{}')
    plain_open = open

    def refusing(path, *args, **kwargs):
        if str(path).endswith('.source.json'):
            raise PermissionError(13, 'Permission denied', str(path))
        return plain_open(path, *args, **kwargs)
    monkeypatch.setattr(builtins, 'open', refusing)
    message = r'in\.source\.json: this file cannot be read \(Permission denied\); correct its permissions, or remove it'
    with pytest.raises(DatasetError, match=message):
        ImageFiles(str(source))
