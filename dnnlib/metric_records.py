"""Records of measurements, as metric-NAME.jsonl holds them: reading, the protocol of each, which may be compared, which
is better."""

import contextlib
import json
import os
import re

# Not part of the protocol: how images were generated, and the name of a data set, whose content counts
UNRELATED = ('batch_size', 'dataset')
FRECHET = re.compile(r'(clip|feat)?fid\d')


def read_lines(path: str) -> list:
    """The JSON objects in a file of one per line; a line that was cut off, or is anything else, is left out."""
    records = []
    if os.path.isfile(path):
        with open(path, encoding='utf-8', errors='replace') as f:
            for line in f:
                with contextlib.suppress(ValueError, RecursionError):
                    records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def spellings(metric: str) -> list[str]:
    """All names of a metric, the present one first: 'featfid5k_full' was once 'clipfid5k_full'."""
    now = re.sub('^clip(?=fid|kid|pr|memorization)', 'feat', metric)
    return [now] if now == metric and not metric.startswith('feat') else [now, 'clip' + now.removeprefix('feat')]


def read_metric(folder: str, metric: str) -> list:
    """The records of a metric in a folder, under any of its names."""
    return [record for name in spellings(metric) for record in read_lines(os.path.join(folder, f'metric-{name}.jsonl'))]


def protocol_of(record: dict) -> dict:
    """Everything except the network that the value depends on: {'reference.images': 100, ...}. Two values can be
    compared if these are equal."""
    detector = record.get('detector') or {}
    flat = {'metric': spellings(str(record.get('metric')))[0], 'detector.identity': detector.get('identity')}
    for part in ('reference', 'generated', 'formula'):
        flat.update({f'{part}.{key}': value for key, value in (record.get(part) or {}).items() if key not in UNRELATED})
    if FRECHET.match(str(flat['metric'])):
        flat.setdefault('formula.covariance', 'over n')         # defaults of older records
    whole = lambda value: isinstance(value, float) and value.is_integer()               # 1.0 is 1
    return {key: int(value) if whole(value) else value for key, value in flat.items()}


def key(record: dict) -> str:
    """A key that is equal for records with equal protocols."""
    return json.dumps(protocol_of(record), sort_keys=True)


def differences(record: dict, other: dict) -> list[str]:
    """['reference.images 100 and 160', ...]: where the protocols of two records differ."""
    a, b = protocol_of(record), protocol_of(other)
    return [f'{key} {a.get(key)} and {b.get(key)}' for key in {**a, **b} if a.get(key) != b.get(key)]


def number(value: float | None) -> str:
    """For people: four decimals, seven below 0.1 (a good KID is 0.001)."""
    return 'NaN' if value is None else f'{value:.{4 if abs(value) >= 0.1 else 7}f}'


def interval_of(record: dict, figure: str = 'value') -> str:
    """' [low, high]', or '' where the record has none."""
    intervals = record.get('intervals')
    ends = intervals.get(figure) if isinstance(intervals, dict) else None
    numbers = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, float | int) for end in ends)
    return f' [{number(ends[0])}, {number(ends[1])}]' if numbers else ''


def comparable(record: dict, others: list[dict]) -> tuple[list[dict], str | None]:
    """-> (those of `others` that have the protocol of `record`, a warning of one line if some have not)."""
    same = [other for other in others if not differences(record, other)]
    odd = next((other for other in others if differences(record, other)), None)
    if odd is None:
        return same, None
    return same, (f'Warning: {len(others) - len(same)} of {len(others)} values of {record.get("metric")} were measured '
                  f'by another protocol and are not compared with this one: {"; ".join(differences(record, odd))}')


def best(records: list[dict]) -> dict | None:
    """The record of the best finite value, the first of equals; None if there is none. Its entry 'better' is 'lower' or
    'higher'."""
    finite = [record for record in records if record.get('value') is not None]
    return min(finite, key=badness, default=None)


def badness(record: dict) -> float:
    """The value, negated if higher is better, so that less is better. Older records without 'better' are of metrics
    where lower is better."""
    return record['value'] if record.get('better', 'lower') == 'lower' else -record['value']
