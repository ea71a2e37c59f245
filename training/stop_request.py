"""Ctrl-C and SIGTERM: a wish to stop, which the loop fulfils between two iterations."""

import signal

from torch_utils import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASK_EVERY = 4                   # iterations between two questions to the other processes, each of which waits for them, not for the device


class StopRequest:
    """While it is entered, the first signal is noted and told; a second one raises KeyboardInterrupt.

    Args:
        tell: function of a line of text.
    """

    def __init__(self, tell):
        self.tell = tell
        self.requested = False
        self._previous = {}

    def __enter__(self):
        self._previous = {sig: signal.signal(sig, self._on_signal) for sig in SIGNALS}
        return self

    def __exit__(self, *exc):
        for sig, handler in self._previous.items():
            signal.signal(sig, handler)

    def _on_signal(self, signum, _frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.tell('Stopping after this iteration; the state will be saved. (Press Ctrl-C again to stop at once.)')

    def agreed(self, batch_idx):
        """Whether any process has been asked to stop; the same on all of them."""
        if distributed.get_world_size() > 1 and batch_idx % ASK_EVERY != 0:
            return False
        return distributed.any_process(self.requested)
