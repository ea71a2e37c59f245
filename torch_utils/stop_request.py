"""Ctrl-C, SIGTERM and SIGUSR1 (what SLURM can send some time before its limit): requests to stop, which the loop obeys
between two iterations."""

import contextlib
import signal

from . import distributed

# Windows has no SIGUSR1
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, 'SIGUSR1') else []))
# Iterations between two questions to the other processes, each of which waits for them, not for the device
ASK_EVERY = 4


class StopRequest:
    """Within it, the first signal is noted and announced; a Ctrl-C after it raises KeyboardInterrupt. Further signals
    of the other kinds are ignored: they are often sent to the process group as well.

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
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        # Python raises it if the signal arrives in the middle of a print; then nothing is announced
        with contextlib.suppress(RuntimeError):
            self.tell(f'{signal.Signals(signum).name}: stopping after this iteration; the state will be saved. (Press '
                      'Ctrl-C again to stop at once.)')

    def agreed(self, batch_idx):
        """Whether any process has been asked to stop; the same on all of them."""
        if distributed.get_world_size() > 1 and batch_idx % ASK_EVERY != 0:
            return False
        return distributed.any_process(self.requested)
