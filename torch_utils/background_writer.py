"""Work that training need not wait for, such as writing checkpoints, done in one thread in the order in which it was handed over."""

from concurrent.futures import ThreadPoolExecutor


class BackgroundWriter:
    """Runs functions one after the other in a thread.

    What a function raises is raised again by the next `submit` or `wait`; those handed over after it are then left out, because
    they may build on it.
    """

    def __init__(self):
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix='writer')
        self.pending = []
        self.failed = False

    def submit(self, function, *args):
        """Has `function(*args)` called soon. Its arguments must not change meanwhile."""
        while self.pending and self.pending[0].done():
            self.pending.pop(0).result()
        self.pending.append(self.executor.submit(self._run, function, args))

    def wait(self):
        """Returns when everything is done."""
        while self.pending:
            self.pending.pop(0).result()

    def close(self):
        """Ends the thread when everything is done; raises nothing."""
        self.executor.shutdown()

    def _run(self, function, args):
        if self.failed:
            return
        try:
            function(*args)
        except BaseException:
            self.failed = True
            raise
