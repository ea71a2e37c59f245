"""dnnlib/resumable.py against a server of our own: cut off, killed, redirected, missing, wrong, and servers that do not
continue."""

import errno
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import wait_until
from download_server import serving

from dnnlib import UnusableFile, UserError, files, resumable

CONTENT = np.random.RandomState(0).bytes(5000)
LONG = np.random.RandomState(1).bytes(300_000)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(resumable, 'PAUSE_SEC', 0)
    monkeypatch.setattr(resumable, 'CHUNK', 100)
    return tmp_path / 'cache' / 'downloads'


@pytest.fixture
def server():
    with serving() as server:
        server.files['/a.zip'] = CONTENT
        yield server


def is_content(path):
    if pathlib.Path(path).read_bytes() != CONTENT:
        raise UnusableFile('is damaged')


def fetch(server, path='/a.zip', check=is_content):
    return resumable.download(server.address + path, check, what='panda', option='--source')


def refusal(server, *args):
    with pytest.raises(UserError) as error:
        fetch(server, *args)
    assert '\n' not in str(error.value)
    return str(error.value)


def ranges_asked(server):
    return [asked for _, asked in server.asked]


def test_fetched_once_and_checked_on_each_use(server, cache):
    path = fetch(server)
    assert fetch(server) == path == files.download_path(server.address + '/a.zip') and ranges_asked(server) == [None]
    assert os.listdir(cache) == [os.path.basename(path)]
    pathlib.Path(path).write_bytes(b'x')
    assert refusal(server) == f'{path}: is damaged; delete it and run the same command again'


def test_a_redirect_is_followed_and_continued_behind_it(server):
    server.moved['/old.zip'] = '/a.zip'
    server.cuts = [2000]
    fetch(server, '/old.zip')
    assert server.asked == [('/old.zip', None), ('/a.zip', None), ('/old.zip', 'bytes=2000-'),
                            ('/a.zip', 'bytes=2000-')]


def test_what_breaks_off_is_continued_at_once(server, capsys):
    server.cuts = [2000, 1500]
    fetch(server)
    assert ranges_asked(server) == [None, 'bytes=2000-', 'bytes=3500-']
    assert 'panda: broke off at 2.0 kB (' in capsys.readouterr().err


@pytest.mark.parametrize('headers', [{}, {'ETag': '"v1"'}, {'ETag': 'W/"v1"'}])
def test_the_next_call_continues(server, cache, headers):
    server.headers, server.cuts = headers, [2000, 0]
    message = refusal(server)
    assert re.search(r'^panda: http://.*/a.zip cannot be fetched \(\w+\); 2.0 kB are kept, the same command continues '
                     r'from there; '
                     r'or download it elsewhere and name the file with --source=FILE$', message)
    fetch(server)
    assert ranges_asked(server) == [None, 'bytes=2000-', 'bytes=2000-'] and len(os.listdir(cache)) == 1


@pytest.mark.parametrize('change', [dict(ranges='ignored'), dict(ranges='wrong'), dict(ranges='refused'),
                                    dict(headers={'ETag': '"v2"'}),
                                    dict(headers={'Last-Modified': 'Tue, 02 Jan 2024 00:00:00 GMT'})])
def test_what_cannot_be_continued_begins_again(server, change):
    """The part kept is of other bytes here: a file that is put together from both would be noticed."""
    server.files['/a.zip'], server.cuts = bytes(5000), [2000, 0]
    refusal(server)
    server.files['/a.zip'] = CONTENT
    vars(server).update(change)
    fetch(server)
    assert ranges_asked(server)[2] == 'bytes=2000-'


def test_a_changed_file_behind_a_server_that_does_not_look_at_if_range(server):
    server.headers, server.cuts = {'ETag': '"v1"'}, [2000, 0]
    refusal(server)
    part = files.download_path(server.address + '/a.zip') + '.part'
    pathlib.Path(part + '.version').write_text('"v0"')
    # The stand-in takes either for a match, and gives a part of v1
    server.headers = {'ETag': '"v1"', 'Last-Modified': '"v0"'}
    fetch(server)
    assert ranges_asked(server)[2:] == ['bytes=2000-', None]


def test_a_server_that_ignores_ranges_is_not_asked_for_ever(server):
    server.ranges, server.cuts = 'ignored', [2000] * 10
    assert '2.0 kB are kept' in refusal(server)
    assert ranges_asked(server) == [None, 'bytes=2000-']


def test_without_a_version_nothing_is_kept(server, cache):
    server.headers, server.cuts = {'Last-Modified': None}, [2000, 1000]
    assert 'kept' not in refusal(server)
    assert ranges_asked(server) == [None, None] and os.listdir(cache) == []


def test_parts_of_limited_size(server):
    server.ranges, server.cuts = 'limited', [2500]
    fetch(server)
    assert ranges_asked(server) == [None, 'bytes=2500-', 'bytes=3500-', 'bytes=4500-']


@pytest.mark.parametrize('path, headers, message', [
    ('/none.zip', {}, r'cannot be fetched \(404 Not Found\); download it elsewhere and name the file with '
                      r'--source=FILE$'),
    ('/a.zip', {'Content-Type': 'text/html; charset=utf-8'}, 'gives text/html, a page and no archive; open the address '
                                                             'in a browser'),
    ('/a.zip', {'Content-Length': '9' * 30}, r'has 9{20} bytes, 8589934592 are the limit; check the address'),
    ('/wrong.zip', {}, 'is damaged; try again later, or get the archive elsewhere and name it with --source=FILE$')])
def test_a_bad_answer_is_one_line_and_leaves_nothing_behind(server, cache, path, headers, message):
    server.files['/wrong.zip'], server.headers = b'something else', headers
    assert re.search(message, refusal(server, path))
    assert os.listdir(cache) == []


def test_a_download_without_end(server, cache, monkeypatch):
    monkeypatch.setattr(files, 'LARGEST_DOWNLOAD', 1000)
    server.headers = {'Content-Length': None}
    assert 'gives more than 1000 bytes' in refusal(server)
    assert os.listdir(cache) == []


def test_offline():
    with serving() as gone:
        pass
    assert re.search(r'cannot be fetched \(ConnectionError\); download it elsewhere', refusal(gone))


def test_no_address():
    with pytest.raises(UserError, match='http://[x/a.zip: is no address'.replace('[', r'\[')):
        resumable.download('http://[x/a.zip', is_content, what='panda', option='--source')


def test_a_full_disk(server, monkeypatch):
    write = resumable._Part.write

    def write_until_full(part, chunk):
        if part.size >= 3000:
            raise OSError(errno.ENOSPC, 'No space left on device')
        write(part, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(resumable._Part, 'write', write_until_full)
        assert re.search('a.zip: cannot be written: the disk is full; free some space and run the same command again',
                         refusal(server))
    fetch(server)
    assert ranges_asked(server) == [None, 'bytes=3000-']


def test_a_cache_where_nothing_can_be_made(server, cache):
    cache.parent.write_bytes(b'')
    assert re.search('downloads: cannot be written: a part of the path is a file; choose another folder',
                     refusal(server))


def start_process(server):
    """Another process that fetches a long file and is held up after 200 kB of it."""
    # What a shell starts in the background ignores it
    code = ('import signal\nfrom dnnlib import resumable, util\nsignal.signal(signal.SIGINT, '
            'signal.default_int_handler)\nwith util.user_errors():\n    '
            f'print(resumable.download({server.address + "/long.zip"!r}, lambda path: None, what="panda", '
            'option="--source"))\n')
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, PYTHONPATH=str(pathlib.Path(resumable.__file__).parents[1])))
    part = files.download_path(server.address + '/long.zip') + '.part'
    wait_until(lambda: process.poll() is not None or (os.path.exists(part) and os.path.getsize(part) >= 3 * 65536))
    assert process.poll() is None
    return process


@pytest.mark.parametrize('end, code', [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_process_is_continued(server, cache, end, code):
    server.files['/long.zip'], server.stops = LONG, {'/long.zip': 200_000}
    process = start_process(server)
    assert 'panda: another process is downloading it; wait for that one' in refusal(server, '/long.zip')
    process.send_signal(end)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code and 'Traceback' not in err
    assert end == signal.SIGKILL or '196.6 kB are kept, the same command continues from there' in err
    server.stops = {}
    path = fetch(server, '/long.zip', lambda path: None)
    assert (pathlib.Path(path).read_bytes() == LONG and ranges_asked(server) == [None, 'bytes=196608-']
            and len(os.listdir(cache)) == 1)


def test_killed_after_the_last_byte(server):
    path = files.download_path(server.address + '/a.zip')
    server.cuts = [4000, 0]
    refusal(server)
    with open(path + '.part', 'ab') as f:
        f.write(CONTENT[4000:])
    fetch(server)
    assert ranges_asked(server)[2:] == ['bytes=5000-']
