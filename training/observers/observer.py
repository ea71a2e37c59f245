"""What watches a run from tick to tick: it sees the training, reports statistics, and may end the run."""


class Observer:
    """Base class; all hooks are optional, and all processes call them.

    Observers are named in the configuration, `observers` = {name: dict(class_name=..., further arguments)}; what
    `state_dict` gives is part of the training state.
    """

    columns: tuple = ()         # `training_stats.Column`s that the table of ticks gets for what it reports

    def start(self, training) -> None:
        """Once, when `training` (`training.training.Training`) is set up and its state, if any, is loaded. It must not
        be changed."""

    def report(self, training) -> None:
        """At the end of a tick, before its statistics are collected: the place for `training_stats.report`."""

    def verdict(self, run_dir: str, cur_nimg: int) -> str | None:
        """At the end of a tick, after snapshot and metrics: why the run should end now; None = it goes on. The answer
        of the first process counts."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
