"""What watches a run from tick to tick: it sees the trainer, reports statistics, and may end the run."""

from torch_utils import distributed

from ..run import files as run_files
from ..run import state as trainer_state


class Observer:
    """Base class; all hooks are optional, and all processes call them.

    Observers are named in the configuration, `observers` = {name: dict(class_name=..., further arguments)}; what `state_dict` gives is
    part of the training state.
    """

    def start(self, trainer) -> None:
        """Once, when `trainer` (`training_loop.Trainer`) is set up and a state, if there is one, is loaded."""

    def report(self, trainer) -> None:
        """At the end of a tick, before its statistics are collected: the place for `training_stats.report`."""

    def verdict(self, trainer) -> str | None:
        """At the end of a tick, when snapshot and metrics are done. Why the run should end now; None = it goes on.
        That of the first process counts."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def ask(trainer, saved=True):
    """Lets an observer end the run, which then is saved and measured as at its full length. All processes decide as the first one."""
    verdicts = {name: observer.verdict(trainer) for name, observer in trainer.observers.items()}
    by, why = distributed.agree(lambda: next(((name, why) for name, why in verdicts.items() if why is not None), (None, None)))
    if by is None:
        return
    if not saved:
        trainer.save_fakes()
        trainer.save_snapshot()
        trainer.evaluate()
    trainer.ended = run_files.ending(by, why, trainer.config)
    trainer_state.save(trainer)
    trainer.progress.message(f'Ended at {trainer.cur_nimg / 1000:g} kimg by {by}: {why}.')


def resume_verdict(trainer):
    """A verdict in the state holds while its terms do; one that a crash has prevented is made up for."""
    if trainer.ended is None:
        ask(trainer)
    elif not run_files.is_ended(trainer.ended, trainer.config):
        trainer.ended = None
