"""Work in the background, such as writing checkpoints, done by one thread in the order in which it was submitted."""

from concurrent.futures import ThreadPoolExecutor

LONGEST_QUEUE = 3               # functions that wait: each may hold a copy of all networks


class BackgroundWriter:
    """Runs functions one after the other in a thread.

    The next `submit`, `check` or `wait` raises the error of a function; functions submitted after it are then skipped,
    because they may build on it.
    """

    def __init__(self):
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix='writer')
        self.pending = []
        self.failed = False

    def submit(self, function, *args):
        """Queues `function(*args)`; waits if the queue is full. The arguments must not change meanwhile."""
        self.check()
        while len(self.pending) > LONGEST_QUEUE:
            self.pending.pop(0).result()
        self.pending.append(self.executor.submit(self._run, function, args))

    def check(self):
        """Raises the error of a function, if any; does not wait."""
        while self.pending and self.pending[0].done():
            self.pending.pop(0).result()

    def wait(self):
        """Returns when everything is done."""
        while self.pending:
            self.pending.pop(0).result()

    def close(self, cancel=False):
        """Ends the thread when everything is done; with `cancel`, when the function that runs is done. Raises
        nothing."""
        self.executor.shutdown(cancel_futures=cancel)

    def _run(self, function, args):
        if self.failed:
            return
        try:
            function(*args)
        except BaseException:
            self.failed = True
            raise
