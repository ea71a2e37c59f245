"""Small helpers without torch: configuration dictionaries, objects by name, files, downloads, messages.

Programs import it before torch: it sets how the threads of torch wait (see `threads`).
"""

from . import threads
from .util import EasyDict, UnusableFile, UserError

__version__ = '0.1.0'

__all__ = ['EasyDict', 'UnusableFile', 'UserError']

threads.wait_briefly()
