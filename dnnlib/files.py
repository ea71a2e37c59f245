"""Files: written whole or not at all, downloaded once and checked, named by what they contain."""

import contextlib
import errno
import glob
import hashlib
import os
import re
import sys
import time
import urllib.parse
import uuid

from .errors import UserError

REASONS = {
    errno.ENOSPC: 'the disk is full; free some space and run the same command again',
    errno.EDQUOT: 'the disk quota is used up; free some space and run the same command again',
    errno.EACCES: 'no permission to write there; choose another folder',
    errno.EROFS: 'the file system is read-only; choose another folder',
    errno.ENOTDIR: 'a part of the path is a file; choose another folder',
    errno.ENOENT: 'the folder is not there, or nothing can be made in it; choose another folder',
    errno.EFBIG: 'the file is larger than the system allows (ulimit -f); raise the limit and run the same '
                 'command again',
    errno.EEXIST: 'there is a file of this name; choose another folder',
}
LARGEST_DOWNLOAD = 8 << 30        # bytes
ABANDONED = 24 * 3600             # seconds after which an unfinished download counts as abandoned
UNFINISHED = re.compile(r'\.[0-9a-f]{8}\.tmp$')         # how `atomic_path` names temporary files


@contextlib.contextmanager
def atomic_path(path: str, keep_old_as: str | None = None):
    """Gives a temporary path next to `path`; moves it to `path` on success, removes it on any failure.

    A reader sees either the old file or the new one, never a half-written one, even after a power cut. With
    `keep_old_as`, the old file gets that name, a moment before the new one gets its own. Raises UserError with the
    reason and the remedy where the file cannot be written.
    """
    temp = f'{path}.{uuid.uuid4().hex[:8]}.tmp'
    try:
        yield temp
        os.chmod(temp, 0o666 & ~_umask())           # some writers make private files
        _to_disk(temp)
        if keep_old_as is not None and os.path.exists(path):
            os.replace(path, keep_old_as)
        os.replace(temp, path)
        with contextlib.suppress(OSError):          # not every file system can do it for folders
            _to_disk(os.path.dirname(path) or '.')
    except OSError as err:
        if _is_of_a_download(err):
            raise
        raise write_error(path, err) from err
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temp)


def _is_of_a_download(err):
    """Whether an OSError comes from the network, not the disk. Only downloads load the package requests."""
    return 'requests' in sys.modules and isinstance(err, sys.modules['requests'].RequestException)


def _to_disk(path):
    """Waits until a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: str) -> None:
    """Removes the temporary files that killed processes left behind; no other process may be writing there."""
    for name in os.listdir(folder):
        if UNFINISHED.search(name):
            os.remove(os.path.join(folder, name))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_error(path: str, err: OSError) -> UserError:
    """The `UserError` that says why `path` could not be written and what to do."""
    return UserError(f'{path}: cannot be written: '
                     f'{REASONS.get(err.errno) or f"{err.strerror or err}; choose another folder"}')


def make_dir(path: str) -> None:
    """Makes a folder and its parents where they are missing. Raises UserError if that is not possible."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as err:
        raise write_error(path, err) from err


def write_text(path: str, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with atomic_path(path) as temp, open(temp, 'w', encoding='utf-8') as f:
        f.write(text)


def sha256_of_file(path: str) -> str:
    """Hex SHA-256 of the bytes of `path`."""
    return _digest_of(path, hashlib.sha256())


def md5_of_file(path: str) -> str:
    """Hex MD5 of the bytes of `path`, as published with older archives. It detects damage, not tampering."""
    return _digest_of(path, hashlib.md5(usedforsecurity=False))


def _digest_of(path, digest):
    with open(path, 'rb') as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_dir(*parts: str) -> str:
    """Folder for downloads and computed statistics: $KDGAN_CACHE_DIR, else ~/.cache/kdgan; made if it is missing."""
    root = os.environ.get('KDGAN_CACHE_DIR') or os.path.join(os.path.expanduser('~'), '.cache', 'kdgan')
    path = os.path.join(root, *parts)
    make_dir(path)
    return path


def is_address(text: str) -> bool:
    """Whether `text` is an address ('https://...', 'hf:...') and not a path."""
    return re.match('[a-z]{2,}:', text) is not None             # one letter is a drive of Windows


def public_address(text: str) -> str:
    """An http(s) address in the form that may be published: without user, password, query and fragment. Other texts
    stay as they are."""
    return re.sub(r'(?s)^(https?://)(?:[^/?#]*@)?([^?#]*).*', r'\1\2', text)


def split_digest(url: str) -> tuple[str, str | None]:
    """'https://host/file#sha256=HEX' -> ('https://host/file', 'hex'); the digest is None where the address has none.

    Raises UserError if it is no SHA-256.
    """
    url, _, fragment = url.partition('#')
    name, _, digest = fragment.partition('=')
    if name != 'sha256':
        return url, None
    if re.fullmatch('[0-9a-fA-F]{64}', digest) is None:
        raise UserError(f'{url}#{fragment}: {digest!r} is no SHA-256; it has 64 hexadecimal digits')
    return url, digest.lower()


def download(url: str, sha256: str | None = None, *, what: str, option: str) -> str:
    """Path of the cached file of `url`, fetched on first use.

    If no digest is known, that of the first download is stored next to the file and must not change from then on. A
    download that is cut off or has another digest than expected, or more than LARGEST_DOWNLOAD bytes, leaves nothing
    behind.

    Args:
        url:    http(s) address; it may end in #sha256=HEX.
        sha256: expected digest in hex; None = that of the address, if it has one.
        what:   what the file is, for the message ("Inception detector").
        option: the option that takes a local copy instead ("--detector").
    Raises: UserError when it cannot be had or its digest differs; it says where to put a copy fetched by hand.
    """
    url, given = split_digest(url)
    sha256 = sha256 or given
    path = download_path(url)
    if not os.path.isfile(path):
        _fetch(url, path, sha256, what=what, option=option)
    got = sha256_of_file(path)
    pin = path + '.sha256'
    if sha256 is None and os.path.isfile(pin):
        with open(pin, encoding='utf-8') as f:
            sha256 = f.read().strip()
    if sha256 is None:
        write_text(pin, got + '\n')
    elif got != sha256:
        raise UserError(f'{path}: SHA-256 is {got}, expected {sha256}: the copy of {url} is damaged or another file; '
                        'delete it and try again')
    return path


def download_path(url: str) -> str:
    """Where the file of an address is kept once it is downloaded. Raises UserError if the folder cannot be made, or
    `url` is no address."""
    return os.path.join(cache_dir('downloads'), f'{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name_in(url)}')


def name_in(url: str) -> str:
    """Last part of the path in an address. Raises UserError if `url` is none."""
    try:
        return os.path.basename(urllib.parse.urlparse(url).path)
    except ValueError as err:
        raise UserError(f'{url}: is no address ({err}); check the spelling') from err


def need_requests(url: str, path: str, what: str, option: str) -> None:
    """Raises UserError if the package for downloads is missing; no other work needs it."""
    try:
        import requests  # noqa: F401 (imported where it is used)
    except ImportError as err:
        raise UserError(f'{what}: {url} cannot be fetched without the package requests ({err}): pip install requests; '
                        f'or download it elsewhere and name the file with {option}=FILE, or put it at {path}') from err


def _fetch(url: str, path: str, sha256: str | None, *, what: str, option: str) -> None:
    need_requests(url, path, what, option)
    import requests
    _remove_abandoned(path)
    try:
        with requests.get(url, stream=True, timeout=30) as response:
            response.raise_for_status()
            with atomic_path(path) as temp:
                with open(temp, 'wb') as f:
                    for chunk in within_limit(response.iter_content(1 << 20), _length(response), f'{what}: {url}'):
                        f.write(chunk)
                got = sha256_of_file(temp)
                if sha256 not in (None, got):
                    raise UserError(f'{what}: {url}: SHA-256 is {got}, expected {sha256}: it is another file, or was '
                                    'damaged on the way; check the digest, then try again')
    except requests.RequestException as err:
        raise UserError(f'{what}: {url} cannot be fetched ({reason_of(err)}); '
                        f'download it elsewhere and name the file with {option}=FILE, or put it at {path}') from err


def reason_of(err: Exception) -> str:
    """The reason why a download failed, in a few words: '404 Not Found', 'ConnectionError'."""
    answer = getattr(err, 'response', None)
    return type(err).__name__ if answer is None else f'{answer.status_code} {answer.reason}'


def _length(response):
    """Length of an answer in bytes; None = unknown, or counted compressed."""
    said = response.headers.get('Content-Length', '')
    return int(said[:20]) if said.isdecimal() and 'Content-Encoding' not in response.headers else None


def within_limit(chunks, length: int | None, what: str, have: int = 0):
    """Passes on the chunks of a download. Raises UserError if they are too many, together with the `have` bytes before
    them.

    Args:
        length: bytes of the whole file; None = not known. LARGEST_DOWNLOAD is the limit either way.
        what:   file and address, for the message.
    """
    limit, count = LARGEST_DOWNLOAD, have
    if length is not None and length > limit:
        raise UserError(f'{what}: has {length} bytes, {limit} are the limit; check the address')
    limit = limit if length is None else length
    for chunk in chunks:
        count += len(chunk)
        if count > limit:
            raise UserError(f'{what}: gives more than {limit} bytes, which are the limit; check the address')
        yield chunk


def _remove_abandoned(path):
    """Removes the remains of killed downloads of `path`; younger ones may still be running."""
    for temp in glob.glob(f'{glob.escape(path)}.*.tmp'):
        with contextlib.suppress(OSError):                  # another process may be doing the same
            if UNFINISHED.search(temp) and time.time() - os.path.getmtime(temp) > ABANDONED:
                os.remove(temp)
