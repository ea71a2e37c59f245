"""Work that training need not wait for, such as writing checkpoints, done in one thread in the order in which it was
handed over."""

from concurrent.futures import ThreadPoolExecutor

LONGEST_QUEUE = 3               # functions that wait: each may hold a copy of all networks


class BackgroundWriter:
    """Runs functions one after the other in a thread.

    What a function raises is raised again by the next `submit`, `check` or `wait`; those handed over after it are then
    left out, because they may build on it.
    """

    def __init__(self):
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix='writer')
        self.pending = []
        self.failed = False

    def submit(self, function, *args):
        """Has `function(*args)` called soon; waits where too much is waiting already. Its arguments must not change
        meanwhile."""
        self.check()
        while len(self.pending) > LONGEST_QUEUE:
            self.pending.pop(0).result()
        self.pending.append(self.executor.submit(self._run, function, args))

    def check(self):
        """Raises what a function has raised; does not wait."""
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
