"""One command at a time trains in the folder of a run."""

import os

from dnnlib import UserError

try:
    import fcntl
except ImportError:             # Windows has other locks
    fcntl = None

LOCK_FILE = '.lock'


class RunLock:
    """The lock of a folder, which ends with this process at the latest."""

    def __init__(self, run_dir):
        self.run_dir, self.file = run_dir, None

    def take(self):
        """Raises UserError if another process has it. Where the file system knows no locks there is none."""
        if fcntl is None:
            return
        self.file = open(os.path.join(self.run_dir, LOCK_FILE), 'w')        # noqa: SIM115 (closed by `release`)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UserError(self.run_dir, 'another process is training in this folder',
                            'wait until it has ended, or use --new-run=1 for a run of its own') from None
        except OSError:
            pass

    def release(self):
        if self.file is not None:
            self.file.close()
            self.file = None
