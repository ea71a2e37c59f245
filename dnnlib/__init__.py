"""Small helpers without torch: configuration dictionaries, objects by name, files, downloads, messages."""

from .util import EasyDict, UnusableFile, UserError

__version__ = '0.1.0'

__all__ = ['EasyDict', 'UnusableFile', 'UserError']
