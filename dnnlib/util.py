"""Configuration dictionaries, objects built by name, the log file, and how a user's mistake is reported."""

import contextlib
import importlib
import os
import sys
from typing import Any, Callable

from . import files
from .errors import UnusableFile, UserError  # noqa: F401  (imported from here by everybody)


@contextlib.contextmanager
def user_errors():
    """Ends the program with one line instead of a traceback on `UserError`, and with code 130 on Ctrl-C."""
    try:
        yield
    except UserError as err:
        sys.exit(f'Error: {err}')
    except KeyboardInterrupt:
        sys.stderr.write('\nInterrupted.\n')
        sys.exit(130)


class EasyDict(dict):
    """A dictionary whose entries can also be read and written as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


def get_obj_by_name(name: str) -> Any:
    """'package.module.attribute' -> the object. Raises ImportError or AttributeError if there is none."""
    module_name, _, attribute = name.rpartition('.')
    return getattr(importlib.import_module(module_name), attribute)


def construct_class_by_name(*args, class_name: str, **kwargs) -> Any:
    """Calls the class named `class_name` with the other arguments: how a `*_kwargs` entry becomes an object."""
    return get_obj_by_name(class_name)(*args, **kwargs)


def call_func_by_name(*args, func_name: str, **kwargs) -> Any:
    """Calls the function named `func_name` with the other arguments."""
    func: Callable = get_obj_by_name(func_name)
    return func(*args, **kwargs)


def is_url(obj: Any) -> bool:
    """Whether it is an http or https address."""
    return isinstance(obj, str) and obj.startswith(('http://', 'https://'))


def open_url(url: str, return_filename: bool = False) -> Any:
    """The file of an http(s) address, downloaded once to the cache, or of a path: opened to read bytes, or its name.

    Raises UserError if it cannot be had.
    """
    path = files.download(url, what='open_url', option='open_url') if is_url(url) else os.fspath(url)
    if not os.path.isfile(path):
        raise UserError(f'open_url: {path}: there is no such file; name a file or an address')
    return path if return_filename else open(path, 'rb')        # noqa: SIM115 (closed by the caller)


def split_names(text: str) -> list[str]:
    """'a, b,' -> ['a', 'b']."""
    return [name.strip() for name in text.split(',') if name.strip()]


def format_time(seconds: float) -> str:
    """Seconds -> '59s', '1m 01s', '1h 02m 03s' or '2d 07h 33m'."""
    s = round(seconds)
    minutes, sec = divmod(s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if s < 60:
        return f'{s}s'
    if s < 60 * 60:
        return f'{minutes}m {sec:02}s'
    if s < 24 * 60 * 60:
        return f'{hours}h {minutes:02}m {sec:02}s'
    return f'{days}d {hours:02}h {minutes:02}m'


def format_bytes(size: int) -> str:
    """Bytes -> '999 B', '1.2 kB', '34.5 MB' or '1.0 GB', in powers of 1000."""
    for power, unit in [(3, 'GB'), (2, 'MB'), (1, 'kB')]:
        if size >= 1000 ** power:
            return f'{size / 1000 ** power:.1f} {unit}'
    return f'{size} B'


class Logger:
    """While open, everything printed also goes to `file_name`. If that cannot be written any more (a full disk), it
    says so once and goes on printing: other writers report what to do.
    """

    def __init__(self, file_name: str, file_mode: str = 'a'):
        self.file = open(file_name, file_mode, encoding='utf-8')        # noqa: SIM115 (closed by `close`)
        self.stdout = sys.stdout
        sys.stdout = self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def write(self, text: str) -> None:
        self.stdout.write(text)
        if self.file is not None:
            self._log(text)
        self.stdout.flush()

    def _log(self, text: str) -> None:
        try:
            self.file.write(text)
            self.file.flush()
        except OSError as err:
            self._give_up(err)

    def _give_up(self, err: OSError) -> None:
        name, file, self.file = self.file.name, self.file, None
        self.stdout.write(f'\nWarning: {name} cannot be written ({err.strerror or err}); what follows is '
                          'printed only.\n')
        with contextlib.suppress(OSError):          # close tries once more to write the rest
            file.close()

    def flush(self) -> None:
        self.stdout.flush()

    def isatty(self) -> bool:
        return self.stdout.isatty()

    def close(self) -> None:
        if sys.stdout is self:
            sys.stdout = self.stdout
        if self.file is not None:
            self.file.close()
