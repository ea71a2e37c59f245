"""Numbers from files, and as text for people and pages."""

import math
from typing import Any

from dnnlib import metric_records as protocol

LARGEST = 1e300


def is_number(value: Any) -> bool:
    """Whether it is a finite number of usual size: JSON allows NaN, and integers of any length."""
    return type(value) in (int, float) and abs(value) < LARGEST


def rounded(value: float | None) -> float | None:
    """Rounded to five digits, enough for a curve; None stays."""
    return None if value is None else float(f'{value:.5g}')


def short(value: float | None) -> str:
    """For tables: '0.6042', '383.6', '0.0011', 'NaN'."""
    return 'NaN' if value is None else f'{value:.4g}'


def with_interval(record: dict) -> str:
    """'12.34 [11.9, 12.8]' of a record of a measurement; without the interval where it has none that can be read."""
    ends = interval(record)
    return short(record['value']) + (f' [{short(ends[0])}, {short(ends[1])}]' if ends else '')


def interval(record: dict) -> tuple[float, float] | None:
    """The ends of the interval of a value, where the record has one that can be read."""
    if not protocol.interval_of(record):
        return None
    low, high = record['intervals']['value']
    return (low, high) if is_number(low) and is_number(high) else None


def kimg(nimg: float) -> str:
    """Images seen -> '64 kimg'."""
    return f'{nimg / 1000:g} kimg'


def thinned(items: list, most: int) -> list:
    """At most `most` + 1 of a list: each 2nd, 4th, 8th, ... and the last. As the list grows, items that were left out
    stay out."""
    step = 1
    while math.ceil(len(items) / step) > most:
        step *= 2
    kept = items[::step]
    return kept if not items or (len(items) - 1) % step == 0 else [*kept, items[-1]]
