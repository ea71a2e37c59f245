"""How far a run is: the part of its saved state that is not tensors."""

import dataclasses


@dataclasses.dataclass
class RunState:
    """What changes in a run from tick to tick; images seen and iterations are those of `Training`."""
    tick_end: float                         # images at which the tick ends
    cur_tick: int = 0
    elapsed_sec: float = 0.0                # summed over all sessions of the run
    history: list = dataclasses.field(default_factory=list)         # forks and rollbacks
    ended: dict | None = None               # why an observer has ended the run, and the settings that this depends on
    pending_stats: dict = dataclasses.field(default_factory=dict)   # reported so far in the current tick
    dataset_hash: str | None = None         # content of the images that the run began with

    @classmethod
    def of(cls, progress):
        """From the record in a state file; entries that older files lack get defaults."""
        return cls(**{field.name: progress[field.name] for field in dataclasses.fields(cls) if field.name in progress})

    def saved(self):
        """What goes into the state file; the hash is added by the store, which knows it."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                if field.name != 'dataset_hash'}

    @property
    def num_rollbacks(self):
        """Since the run began, or branched off."""
        events = [event['event'] for event in self.history]
        return events[len(events) - events[::-1].index('fork') if 'fork' in events else 0:].count('rollback')
