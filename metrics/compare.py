"""Values on record side by side: the last and the best of each run, and a warning where they were measured by different
protocols."""

import glob
import os

from dnnlib import UserError, metric_records


def read(paths: list[str]) -> dict[str, list[tuple[str, dict]]]:
    """{metric, by its present name: [(path, record), ...]} of metric-NAME.jsonl files, and of folders that hold such
    files.

    Raises: UserError for a path that is not there, or has no value of a metric.
    """
    found = {}
    for path in dict.fromkeys(paths):
        if not os.path.exists(path):
            raise UserError(f'{path}: there is no such file or folder; name metric-NAME.jsonl files, or folders '
                            'of runs that were measured')
        names = sorted(glob.glob(os.path.join(glob.escape(path), 'metric-*.jsonl'))) if os.path.isdir(path) else [path]
        records = [record for name in names for record in metric_records.read_lines(name) if _is_value(record)]
        if not records:
            raise UserError(f'{path}: no value of a metric is on record there; name metric-NAME.jsonl files, or '
                            'folders of runs that were measured')
        for record in records:
            found.setdefault(metric_records.spellings(record['metric'])[0], []).append((path, record))
    return found


def _is_value(record: dict) -> bool:
    parts = all(isinstance(record.get(part) or {}, dict) for part in ('detector', 'reference', 'generated', 'formula'))
    return parts and isinstance(record.get('metric'), str) and isinstance(record.get('value', ''), float | int | None)


def describe(paths: list[str]) -> list[str]:
    """Lines: for each metric, the last and the best value of each path, once for each protocol there. Raises UserError
    as `read`."""
    lines, found = [], read(paths)
    for metric, entries in found.items():
        groups = {}
        for path, record in entries:
            # If it was measured again, the latest counts
            groups.setdefault((path, metric_records.key(record)), {})[record.get('snapshot')] = record
        groups = {key: list(records.values()) for key, records in groups.items()}
        lines.append(f'{metric}, {entries[0][1].get("better", "lower")} is better')
        first = next(iter(groups.values()))[0]
        for (path, _), records in groups.items():
            lines.append(f'    {path}: {_last_and_best(records)}')
            if odd := metric_records.differences(first, records[0]):
                lines.append(f'    Warning: measured by another protocol than the first, with which it does not '
                             f'compare: {"; ".join(odd)}')
    alone = [metric for metric, entries in found.items() if len({path for path, _ in entries}) < len(set(paths))]
    if alone:
        lines.append(f'Warning: not on record everywhere, and values of different metrics do not compare: '
                     f'{", ".join(alone)}')
    return lines


def _last_and_best(records: list[dict]) -> str:
    last, best = max(enumerate(records), key=lambda entry: (entry[1].get('cur_nimg') or 0,
                                                            entry[0]))[1], metric_records.best(records)
    text = f'last {_value(last)}'
    if len(records) == 1 or best is None:
        return text
    return f'{text}; best of {len(records)} snapshots, which flatters: {"the same" if best is last else _value(best)}'


def _value(record: dict) -> str:
    return f'{metric_records.number(record["value"])}{metric_records.interval_of(record)} ({record.get("snapshot")})'
