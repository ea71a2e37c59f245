"""One command at a time trains in the folder of a run."""

import errno
import os

from dnnlib import UserError, files

try:
    import fcntl
except ImportError:             # Windows has other locks
    fcntl = None

LOCK_FILE = '.lock'
HELD = errno.EACCES, errno.EAGAIN


class RunLock:
    """The lock of a folder, which ends with this process at the latest."""

    def __init__(self, run_dir):
        self.run_dir, self.file = run_dir, None

    def take(self):
        """Raises UserError if another process has it. Where the file system knows no locks there is none."""
        if fcntl is None:
            return
        path = os.path.join(self.run_dir, LOCK_FILE)
        try:
            self.file = open(path, 'w')                         # noqa: SIM115 (closed by `close`)
        except OSError as err:
            raise files.write_error(path, err) from err
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)       # processes that are forked have no part in it
        except OSError as err:
            if err.errno in HELD:
                self.close()
                raise UserError(self.run_dir, 'another process is training in this folder',
                                'wait until it has ended, or use --new-run=1 for a run of its own') from None

    def close(self):
        if self.file is not None:
            self.file.close()
            self.file = None
