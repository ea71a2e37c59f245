"""A port to listen at: the one that the user named, or the first free one."""

import errno
from collections.abc import Callable
from typing import TypeVar

from .errors import UserError

MORE_PORTS = 20                 # that are tried if none is named
Listening = TypeVar('Listening')


def listen(start: Callable[[int], Listening], port: int | None, first: int) -> Listening:
    """-> what `start` returns for the port.

    Args:
        start: function from a port to a server or a socket; raises OSError if it cannot listen there.
        port:  of --port; None = the first free one of `MORE_PORTS` from `first` on.
    Raises: UserError if the port is taken, OSError for other reasons.
    """
    for candidate in [port] if port is not None else range(first, first + MORE_PORTS):
        try:
            return start(candidate)
        except OSError as err:
            if err.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    if port is not None:
        raise UserError(f'--port={port}', 'is taken, or may not be used', 'name another one, or leave it out')
    raise UserError(f'ports {first} to {first + MORE_PORTS - 1} are taken; name a free one with --port')
