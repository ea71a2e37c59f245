"""Facts about a run's images, read once in the background, and whether they are still the same images."""

import threading

from dnnlib import UserError


class DatasetFacts:
    """`dataset.facts()`, computed in a thread that the end of the program does not wait for.

    Args:
        expected_hash: the content that the run has been trained on so far; None = not known.
        where:         the run, for the message.
    """

    def __init__(self, dataset, expected_hash=None, where=''):
        self.dataset, self.expected_hash, self.where = dataset, expected_hash, where
        self.error = None
        self.thread = threading.Thread(target=self._read, name='dataset-facts', daemon=True)
        self.thread.start()

    def get(self):
        """The facts; waits for them. Raises UserError as `check`."""
        self.thread.join()
        self.check()
        return self.facts

    def hash(self):
        """Hex SHA-256 of the content, as far as it is known now."""
        return self.expected_hash if self.thread.is_alive() or self.error else self.facts['content_hash']

    def check(self):
        """Does not wait. Raises UserError if the images cannot be read or are not those of the run."""
        if self.error is not None:
            raise self.error

    def _read(self):
        try:
            self.facts = self.dataset.facts()
            found = self.facts['content_hash']
            if self.expected_hash not in (None, found):
                self.error = UserError(f'{self.dataset.path}: these are not the images that {self.where} was trained '
                                       f'on so far (SHA-256 of the content {self.expected_hash[:12]}..., now '
                                       f'{found[:12]}...); put them back, or use --new-run=1 for another run, or '
                                       f'--fork-from={self.where} to start one from its state on purpose')
        except Exception as err:                # raised again by `check`
            self.error = err
