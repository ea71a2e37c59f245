"""The rows that a terminal shows of ticks: what is in them, and that they fit."""

import itertools
import re

import pytest

from kd_plugin.loss import Distillation
from reporting import events
from training.observers.near_copies import NearCopies
from training.observers.validation import Validation
from training.run import records
from training.run.tick_table import COLUMNS, TITLES_EVERY, TickTable

WIDTH = 100
FURTHER = [*Validation.columns, *NearCopies.columns, *Distillation.columns]


def means(**changes):
    return {'Progress/kimg': 102.4, 'Timing/total_sec': 2454, 'ETA': 62, 'Timing/sec_per_kimg': 9.868,
            'Timing/maintenance_sec': 1.25, 'Resources/cpu_mem_gb': 2.292, **changes}


def test_a_row_has_each_value_below_the_end_of_its_title():
    titles, row = TickTable(FURTHER).lines(39, means(**{'Loss/signs/real': -0.311, 'Health/copies': 0.25}))
    ends = [(match[0], match.end()) for match in re.finditer(r'\S+', titles)]
    found = {title: row[start:end].strip() for (_, start), (title, end) in itertools.pairwise(ends)}
    assert found == {'kimg': '102.4', 'time': '40m 54s', 'ETA': '1m 02s', 's/kimg': '9.87', 'maint': '1.2',
                     'mem': '2.29', 'r_t': '-0.31', 'copies': '0.25'}
    assert row.startswith('tick 39 ') and len(row) == len(titles)


@pytest.mark.parametrize('size', [0, -1, 0.5, 12.3456, 128.329, -99.994, 99999.96, 3e5, float('nan'), float('-inf')])
def test_rows_fit_with_all_columns_and_any_size_of_values(size):
    row_means = {column.statistic: size for column in [*COLUMNS, *FURTHER]}
    row_means.update({'Progress/kimg': 25000.0, 'Timing/total_sec': 99 * 86400 - 1, 'ETA': 86399})
    titles, row = TickTable(FURTHER).lines(1234, row_means)
    assert len(titles) <= WIDTH and len(row) <= WIDTH
    assert '25000.0' in row and ' 98d 23h ' in row and ' 23h 59m ' in row
    assert len(row.split()) == 2 + len(COLUMNS) + len(FURTHER) + 2             # nothing runs into its neighbour


def test_a_value_has_as_many_decimals_as_fit():
    show = lambda value: TickTable().lines(0, {'Timing/sec_per_kimg': value})[1].split()[2]
    assert [show(value) for value in (9.868, 323.004, 1234.56, 123456.7, 12345678.0)] == [
        '9.87', '323.00', '1234.6', '123457', '1e+07']


def test_titles_come_again_after_a_while_and_with_a_new_column():
    table = TickTable(FURTHER)
    counts = [len(table.lines(tick, means())) for tick in range(TITLES_EVERY + 2)]
    assert counts == [2] + [1] * (TITLES_EVERY - 1) + [2, 1]
    assert len(table.lines(30, means(**{'Health/copies': 0.5}))) == 2
    line, = table.lines(31, means())                            # not measured at this tick
    assert line.split()[-1] == '-'


def test_a_log_of_rows_is_read_back():
    """By the code that forgets ticks and by that which places warnings in time; titles are no ticks to them."""
    titles, row = TickTable().lines(39, means())
    assert records.TICK_LINE.match(row)[1] == '39' and events.TICK.match(row)[1] == '102.4'
    assert not records.TICK_LINE.match(titles) and not events.TICK.match(titles)
    assert events.TICK.match('tick 39     kimg 102.4    time 40m 54s')[1] == '102.4'
