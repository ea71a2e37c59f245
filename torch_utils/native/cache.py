"""Files that take a while to make, kept in the cache: made once per machine; no failure leaves a hanging process or
half a file.

A file is made by a process group of its own in a private folder, and moved into place when it is complete. Processes
that start at once wait for the first: the lock belongs to the operating system and ends with the process that holds it,
so it cannot become stale.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import NamedTuple

from dnnlib import files

try:
    import fcntl
except ImportError:                     # Windows
    fcntl = None

TIME_LIMIT_SEC = 300
ANNOUNCEMENT = 'compiling the CUDA kernels (once, about a minute)'
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Problem(NamedTuple):
    """Why there is no kernel: the reason, with a summary on its first line, and the remedy, '' = not known."""
    reason: str
    remedy: str = ''

    def __str__(self):
        between = '\n' if '\n' in self.reason else '. '
        return f'{self.reason}{between}To mend it: {self.remedy}' if self.remedy else self.reason

    def gist(self):
        """The first line of the reason."""
        return self.reason.splitlines()[0]


class BuildError(RuntimeError):
    """Why there is no result. `reason` is one line, `remedy` what to do, `log` the last lines that a compiler wrote.

    Attributes:
        problem: the `Problem` that these three are.
    """

    def __init__(self, reason, remedy, log=''):
        self.parts = reason, remedy, log
        self.problem = Problem(f'{reason}\n{log}' if log else reason, remedy)
        super().__init__(str(self.problem))


def cached(name, make, time_limit_sec, announcement=None):
    """Path of the file `name` in the cache; `make(path)` writes it unless it is there, after the announcement is
    printed.

    Raises the errors of `make`; a BuildError is also raised in processes that waited. Raises UserError if the cache
    cannot be written.
    """
    path = os.path.join(files.cache_dir('native-ops'), name)
    stem = os.path.splitext(path)[0]
    if os.path.isfile(path):
        return path
    started = time.time()
    with _locked(stem + '.lock', time_limit_sec + 20):
        if os.path.isfile(path):
            return path
        _raise_if_failed_since(started, stem + '.failed')
        if announcement is not None:
            print(announcement, flush=True)
        try:
            make(path)
        except BuildError as err:
            files.write_text(stem + '.failed', json.dumps(err.parts))
            raise
    return path


def discard(path, before):
    """Removes a file that cannot be used, if it was made before this time: a younger file comes from a new attempt."""
    # Another process was faster; or the next attempt to load it says what is wrong
    with contextlib.suppress(OSError):
        if os.path.getmtime(path) < before:
            os.remove(path)


@contextlib.contextmanager
def private_folder(path):
    """A temporary folder next to `path`."""
    folder = os.path.abspath(tempfile.mkdtemp(prefix='build-', dir=os.path.dirname(path)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path, patience_sec):
    """One process at a time. Where the system cannot lock, all of them at once, which is slower but as safe."""
    if fcntl is None:
        yield
        return
    deadline = time.monotonic() + patience_sec
    with open(path, 'w') as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f'another process has held {path} for {patience_sec:g} seconds',
                                     'end that process') from None
                time.sleep(0.1)
            except OSError:
                break
        yield


def _raise_if_failed_since(started, path):
    """If another process failed while this one waited, this one does not try again."""
    if os.path.isfile(path) and os.path.getmtime(path) >= started:
        with open(path, encoding='utf-8') as f:
            raise BuildError(*json.load(f))


def run(command, env, folder, time_limit_sec):
    """Runs a command in a folder where no module of the user can shadow others, for at most the time limit. Returns its
    output."""
    log_path = os.path.join(folder, 'log.txt')
    with open(log_path, 'w') as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    try:
        process.wait(time_limit_sec)
    except subprocess.TimeoutExpired:
        raise BuildError(f'compiling took longer than {time_limit_sec:g} seconds',
                         'run python -m torch_utils.doctor --build, which waits longer, while the machine is less '
                         'busy') from None
    finally:                            # at the time limit, and on Ctrl-C too
        if process.poll() is None:
            _kill_group(process)
            process.wait()
    with open(log_path, encoding='utf-8', errors='replace') as f:
        return f.read()


def _kill_group(process):
    if hasattr(os, 'killpg'):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def environment(**more):
    """That of this process, in which the project can be imported."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [ROOT, os.environ.get('PYTHONPATH')])), **more}
