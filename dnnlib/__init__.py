"""Small helpers without torch: configuration dictionaries, objects by name, files, downloads, messages."""

from .util import EasyDict, UserError

__all__ = ['EasyDict', 'UserError']
