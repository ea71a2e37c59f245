import errno
import hashlib
import os
import pathlib
import pickle

import pytest
import requests

from dnnlib import EasyDict, UserError, files, util


def test_easydict_entries_are_attributes():
    d = EasyDict(a=1)
    d.b = 2
    del d.a
    assert d == {'b': 2}
    with pytest.raises(AttributeError, match='a'):
        _ = d.a


def test_objects_by_name():
    assert util.get_obj_by_name('os.path.join') is os.path.join
    assert util.construct_class_by_name(3, class_name='fractions.Fraction', denominator=6) * 2 == 1
    assert util.call_func_by_name('a', 'b', func_name='os.path.join') == os.path.join('a', 'b')


@pytest.mark.parametrize('seconds, text', [(0, '0s'), (59.4, '59s'), (59.6, '1m 00s'), (3599, '59m 59s'),
                                           (3723.2, '1h 02m 03s'), (200000, '2d 07h 33m')])
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


def test_a_user_error_ends_the_program_with_one_line(capsys):
    with pytest.raises(SystemExit) as exit_info, util.user_errors():
        raise UserError('--data=x: missing')
    assert exit_info.value.code == 'Error: --data=x: missing'
    with pytest.raises(SystemExit) as exit_info, util.user_errors():
        raise KeyboardInterrupt
    assert exit_info.value.code == 130


def test_logger_writes_to_both(tmp_path, capsys):
    with util.Logger(tmp_path / 'log.txt'):
        print('one')
    print('two')
    assert (tmp_path / 'log.txt').read_text() == 'one\n'
    assert capsys.readouterr().out == 'one\ntwo\n'


def test_atomic_path_leaves_the_old_file_and_no_rest_when_the_disk_is_full(tmp_path):
    path = str(tmp_path / 'a.txt')
    files.write_text(path, 'old')
    with pytest.raises(UserError, match=r'a\.txt: cannot be written: the disk is full; free some '
                                        r'space'), files.atomic_path(path) as temp:
        pathlib.Path(temp).write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert os.listdir(tmp_path) == ['a.txt']
    assert pathlib.Path(path).read_text() == 'old'


def test_atomic_path_cleans_up_after_ctrl_c(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.atomic_path(str(tmp_path / 'a')) as temp:
        pathlib.Path(temp).write_text('half')
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_make_dir_refuses_a_path_through_a_file(tmp_path):
    (tmp_path / 'f').write_text('')
    with pytest.raises(UserError, match='f/sub: cannot be written: a part of the path is a file'):
        files.make_dir(str(tmp_path / 'f' / 'sub'))


class FakeResponse:
    def __init__(self, body, fail_after=None, **headers):
        self.body, self.fail_after, self.headers = body, fail_after, {name.replace('_', '-'): value
                                                                      for name, value in headers.items()}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return False

    def raise_for_status(self):
        pass

    def iter_content(self, _size):
        yield self.body
        if self.fail_after:
            raise requests.ConnectionError('cut off')


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def fetch(url='https://a.b/net.pt', sha256=None):
    return files.download(url, sha256, what='Inception detector', option='--detector')


def test_download_once_and_pin_the_digest(cache, monkeypatch):
    calls = []
    monkeypatch.setattr(requests, 'get', lambda url, **kw: calls.append(url) or FakeResponse(b'weights'))
    path = fetch()
    assert pathlib.Path(path).read_bytes() == b'weights'
    assert fetch() == path and len(calls) == 1
    pathlib.Path(path).write_bytes(b'other')
    with pytest.raises(UserError, match=f'expected {hashlib.sha256(b"weights").hexdigest()}'):
        fetch()


def test_download_with_a_known_digest(cache, monkeypatch):
    monkeypatch.setattr(requests, 'get', lambda url, **kw: FakeResponse(b'weights'))
    with pytest.raises(UserError, match='SHA-256 is'):
        fetch(sha256='0' * 64)


@pytest.mark.parametrize('response', [None, FakeResponse(b'half', fail_after=True)])
def test_offline_says_what_to_fetch_and_where_to_put_it(cache, monkeypatch, response):
    def get(url, **kw):
        if response is None:
            raise requests.ConnectionError('no route')
        return response
    monkeypatch.setattr(requests, 'get', get)
    with pytest.raises(UserError, match=r'Inception detector: https://a\.b/net\.pt cannot be fetched '
                                        r'.*--detector=FILE, or put it at .*net\.pt'):
        fetch()
    assert os.listdir(cache / 'downloads') == []


@pytest.mark.parametrize('headers, message', [
    (dict(), 'gives more than 100 bytes, which are the limit; check the address'),
    (dict(Content_Length='150'), 'has 150 bytes, 100 are the limit'),
    (dict(Content_Length='20'), 'gives more than 20 bytes'), (dict(Content_Length='20', Content_Encoding='gzip'),
                                                              'gives more than 100 bytes'),
    (dict(Content_Length='9' * 5000), 'has 9{20} bytes'), (dict(Content_Length='?'), 'gives more than 100 bytes')])
def test_a_download_without_end(cache, monkeypatch, headers, message):
    monkeypatch.setattr(files, 'LARGEST_DOWNLOAD', 100)
    monkeypatch.setattr(requests, 'get', lambda url, **kw: FakeResponse(bytes(101), **headers))
    with pytest.raises(UserError, match=f'^Inception detector: https://a.b/net.pt: {message}'):
        fetch()
    assert os.listdir(cache / 'downloads') == []


def test_a_compressed_answer_may_be_longer_than_it_says(cache, monkeypatch):
    monkeypatch.setattr(requests, 'get',
                        lambda url, **kw: FakeResponse(b'weights', Content_Length='3', Content_Encoding='gzip'))
    assert pathlib.Path(fetch()).read_bytes() == b'weights'


def test_abandoned_downloads_are_removed(cache, monkeypatch):
    monkeypatch.setattr(requests, 'get', lambda url, **kw: FakeResponse(b'weights'))
    path = pathlib.Path(fetch())
    path.unlink()
    rests = {name: path.with_name(path.name + name) for name in ('.01234567.tmp', '.89abcdef.tmp', '.notes.tmp')}
    rests['other'] = path.with_name('other.01234567.tmp')
    for name, rest in rests.items():
        rest.write_bytes(b'-')
        if name != '.89abcdef.tmp':
            os.utime(rest, (0, 0))
    fetch()
    assert [name for name, rest in rests.items() if rest.exists()] == ['.89abcdef.tmp', '.notes.tmp', 'other']


@pytest.mark.parametrize('text, want', [
    ('https://host/a/net.pkl?X-Signature=secret&b=@', 'https://host/a/net.pkl'),
    ('http://me:secret@host:8080/net.pkl#sha256=12', 'http://host:8080/net.pkl'),
    ('https://token@host?q', 'https://host'), ('https://host/a@b/net.pkl', 'https://host/a@b/net.pkl'),
    ('https://a@b@host/x?\ny', 'https://host/x'), ('hf:user/repo@v1', 'hf:user/repo@v1'),
    ('/data/net#1?.pkl', '/data/net#1?.pkl'), ('ffhq256', 'ffhq256'), ('', '')])
def test_addresses_as_they_may_be_published(text, want):
    assert files.public_address(text) == want


def test_the_parts_of_a_message():
    err = UserError('a.pt', 'is damaged', 'use another one')
    assert str(err) == 'a.pt: is damaged; use another one'
    assert (err.fact, err.remedy) == ('a.pt: is damaged', 'use another one')
    whole = UserError('--batch=3: is odd; use 4')
    assert str(whole) == whole.fact == '--batch=3: is odd; use 4' and whole.remedy is None
    for error in (err, whole):
        again = pickle.loads(pickle.dumps(error))           # they come from worker processes
        assert (str(again), again.fact, again.remedy) == (str(error), error.fact, error.remedy)
