"""Large downloads with a progress bar, which continue where they broke off, also in the next process."""

import contextlib
import os
import re
import sys
import time

from tqdm import tqdm

from . import files
from .util import UnusableFile, UserError, format_bytes

try:
    import fcntl
except ImportError:                 # Windows: two processes that fetch one file at the same time are not kept apart
    fcntl = None

CHUNK = 1 << 16                     # bytes; data that is read but not yet written is lost when the connection breaks
PAUSE_SEC = 2.0                     # before asking again


def download(url: str, check, *, what: str, option: str) -> str:
    """Path of the cached file of `url`, fetched on first use and checked on each.

    After a broken connection, Ctrl-C or a killed process, the part is kept next to it, and this or the next call asks
    only for the rest (RFC 9110, Range and If-Range). If the server cannot tell whether its file is still the same, or
    does not serve parts, the download begins again.

    Args:
        url:    http(s) address.
        check:  called with a path; raises UnusableFile if that is not the whole and right file.
        what:   what the file is, for messages ("obama").
        option: the option that takes a local copy instead ("--source").
    Raises: UserError when it cannot be had, or is not the right file.
    """
    path = files.download_path(url)
    if os.path.isfile(path):
        try:
            check(path)
        except UnusableFile as err:
            raise UserError(f'{path}: {err}; delete it and run the same command again') from err
        return path
    files.need_requests(url, path, what, option)
    with _unfinished(path, what) as part:
        _receive_all(url, part, what, option)
        try:
            check(part.path)
        except UnusableFile as err:
            part.restart('')
            raise UserError(f'{what}: what {url} gives {err}; try again later, or get the archive elsewhere and name '
                            f'it with {option}=FILE') from err
        part.move_to(path)
    return path


class _Part:
    """PATH.part, the bytes so far, and PATH.part.version, the server's name of the version that they belong to."""

    def __init__(self, path):
        self.path, self.version_path = path + '.part', path + '.part.version'
        self.file = open(self.path, 'ab', buffering=0)          # noqa: SIM115 (closed by `_unfinished`)

    @property
    def size(self):
        return os.fstat(self.file.fileno()).st_size

    @property
    def version(self):
        """'' = not known: nothing can be added to these bytes."""
        try:
            with open(self.version_path, encoding='utf-8') as f:
                return f.read()
        except FileNotFoundError:
            return ''

    @property
    def is_of_use(self):
        return self.size > 0 and self.version != ''

    def restart(self, version):
        self.file.truncate(0)
        files.write_text(self.version_path, version)

    def write(self, chunk):
        rest = memoryview(chunk)
        while rest:
            rest = rest[self.file.write(rest):]

    def move_to(self, path):
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.path, path)
        os.remove(self.version_path)


@contextlib.contextmanager
def _unfinished(path, what):
    """The `_Part` of a path, this process's alone; on an error it stays if it can be continued, and is removed
    otherwise."""
    try:
        part = _Part(path)
    except OSError as err:
        raise files.write_error(path, err) from err
    if not _lock(part):
        part.file.close()
        raise UserError(f'{what}: another process is downloading it; wait for that one, then run the same '
                        'command again')
    try:
        yield part
    except OSError as err:
        raise files.write_error(path, err) from err
    except KeyboardInterrupt:
        _say('\n' + (_kept(part) or 'nothing of the download is kept'))
        raise
    finally:
        if not part.file.closed:
            if not part.is_of_use:
                for left in (part.path, part.version_path):
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(left)
            part.file.close()


def _lock(part):
    """Whether this process may write; the lock ends with the process. Where the file system cannot lock, all may."""
    if fcntl is not None:
        try:
            fcntl.flock(part.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return os.path.exists(part.path)                    # otherwise another process has just completed it


def _kept(part):
    return f'{format_bytes(part.size)} are kept, the same command continues from there' if part.is_of_use else ''


def _say(text):
    sys.stderr.write(text + '\n')


def _receive_all(url, part, what, option):
    """Requests the missing part, and repeats that after each break that got further than the one before."""
    import requests
    import urllib3
    farthest = part.size
    while True:
        try:
            if _receive(url, part, what):
                return
            reason = 'it ended too early'
        except (requests.RequestException, urllib3.exceptions.HTTPError) as err:
            reason = files.reason_of(err)
        if part.size <= farthest:
            remedies = [_kept(part), f'download it elsewhere and name the file with {option}=FILE']
            raise UserError(f'{what}: {url} cannot be fetched ({reason}); ' + '; or '.join(filter(None, remedies)))
        farthest = part.size
        _say(f'{what}: broke off at {format_bytes(farthest)} ({reason}), asking for the rest')
        time.sleep(PAUSE_SEC)


def _receive(url, part, what):
    """One request for the missing part. -> whether the file is complete now."""
    import requests
    start = part.size if part.is_of_use else 0
    # The file's own bytes: those of a compressed answer cannot be continued
    headers = {'Accept-Encoding': 'identity'}
    if start:
        headers.update({'Range': f'bytes={start}-', 'If-Range': part.version})
    with requests.get(url, stream=True, timeout=30, headers=headers) as response:
        status, (first, total) = response.status_code, _extent(response)
        if start and status == 416 and total == start:                      # the last process ended after the last byte
            return True
        continues = start > 0 and status == 206 and first == start and _version(response) in ('', part.version)
        if continues or start == 0 or status not in (206, 416):
            response.raise_for_status()
            _refuse_page(response, f'{what}: {url}')
            if not continues:
                if start:
                    _say(f'{what}: the server does not continue downloads, or has another file now; '
                         'the download begins again')
                part.restart(_version(response))
            _append(response, part, total, what, url)
            return total is None or part.size == total
    # Another part than the one asked for, or none: now without a Range
    part.restart('')
    return _receive(url, part, what)


def _extent(response):
    """(first byte of an answer, bytes of the whole file or None where it does not say)."""
    if response.status_code in (206, 416):
        found = re.fullmatch(r'bytes (?:(\d{1,18})-\d+|\*)/(?:(\d{1,18})|\*)',
                             response.headers.get('Content-Range', ''))
        return tuple(None if number is None else int(number) for number in found.groups()) if found else (None, None)
    length = response.headers.get('Content-Length', '')
    return 0, int(length[:20]) if length.isdecimal() else None


def _version(response):
    """The server's name of this version of its file, if it is exact enough to join parts; else ''."""
    etag = response.headers.get('ETag', '')
    # W/"..." means equivalent, not equal
    return etag if etag.startswith('"') else response.headers.get('Last-Modified', '')


def _refuse_page(response, what):
    kind = response.headers.get('Content-Type', '').partition(';')[0].strip().lower()
    if kind.startswith('text/') or kind.endswith(('/json', '/xml', '+xml')):
        raise UserError(f'{what}: gives {kind}, a page and no archive; open the address in a browser to see '
                        'what it says')


def _append(response, part, total, what, url):
    chunks = files.within_limit(response.raw.stream(CHUNK, decode_content=False), total, f'{what}: {url}',
                                have=part.size)
    _say(f'{what}: downloading {url}' + (f', {format_bytes(total)}' if total else '')
         + (f', from {format_bytes(part.size)} on' if part.size else ''))
    with tqdm(total=total, initial=part.size, desc=what, unit='B', unit_scale=True, leave=False, disable=None) as bar:
        try:
            for chunk in chunks:
                part.write(chunk)
                bar.update(len(chunk))
        except UserError:                               # without end: no file to continue
            part.restart('')
            raise
