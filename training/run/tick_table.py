"""What a terminal and log.txt show of each tick: a row of a table that fits 100 columns, with its titles now and
then. Long names and values in full are in stats.jsonl."""

import math
from collections.abc import Iterable

from dnnlib.util import format_time
from torch_utils.training_stats import Column

TITLES_EVERY = 20               # rows: as many as a small terminal shows
NOTHING = '-'
START = 9                       # characters of 'tick 1234'


# Those of every run; `columns` of a method or an observer come after them. docs/health.md explains them.
COLUMNS = [
    Column('kimg', 'Progress/kimg', 8, 1),
    Column('time', 'Timing/total_sec', 9, 0), Column('ETA', 'ETA', 9, 0),
    Column('s/kimg', 'Timing/sec_per_kimg', 7, 2), Column('maint', 'Timing/maintenance_sec', 7, 1),
    Column('mem', 'Resources/cpu_mem_gb', 6, 2), Column('gpu', 'Resources/peak_gpu_mem_gb', 6, 2),
    Column('p', 'Progress/augment', 6, 3), Column('r_t', 'Loss/signs/real', 6, 2)]
OF_TIME = ('Timing/total_sec', 'ETA')


class TickTable:
    """The rows of one process, one after the other.

    Args:
        further: columns after those of every run.
    """

    def __init__(self, further: Iterable[Column] = ()):
        self.columns = [*COLUMNS, *further]
        self.shown = []
        self.since_titles = 0

    def lines(self, tick: int, means: dict[str, float]) -> list[str]:
        """-> the row of a tick, below the titles where they are due.

        Args:
            means: {statistic: mean}; 'ETA' is the remaining time in seconds.
        """
        now = [column for column in self.columns if column in self.shown or column.statistic in means]
        due = now != self.shown or self.since_titles == TITLES_EVERY
        self.shown, self.since_titles = now, 1 if due else self.since_titles + 1
        row = f'tick {tick}'.ljust(START) + ''.join(cell(column, means).rjust(column.width) for column in now)
        titles = 'tick'.rjust(START) + ''.join(column.title.rjust(column.width) for column in now)
        return [titles, row] if due else [row]


def cell(column: Column, means: dict[str, float]) -> str:
    """A value with as many decimals as fit; a time with its two largest units."""
    value = means.get(column.statistic)
    if value is None or not math.isfinite(value):
        return NOTHING if value is None else str(value)
    if column.statistic in OF_TIME:
        return ' '.join(format_time(value).split()[:2])
    texts = (f'{value:.{decimals}f}' for decimals in range(column.decimals, -1, -1))
    return next((text for text in texts if len(text) < column.width), f'{value:.0e}')
