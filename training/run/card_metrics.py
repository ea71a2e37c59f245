"""The metrics of a snapshot from the metric-NAME.jsonl of its run: values by protocol, for the model card."""

import glob
import os
from typing import NamedTuple

from dnnlib import metric_records
from dnnlib.published import without_folders

from . import files as run_files


def _is_text(value):
    return type(value) is str and value.isprintable()


def _is_count(value):
    return type(value) is int and 0 <= value < 2 ** 63


def _is_number(value):
    return type(value) in (int, float) and abs(value) < 1e300


def _is_interval(value):
    return type(value) is list and len(value) == 2 and all(map(_is_number, value))


def _or_none(wanted):
    return lambda value: value is None or _fits(value, wanted)


RECORD = dict(          # what a card takes from a record
    metric=_is_text, value=_or_none(_is_number), snapshot=_is_text, cur_nimg=_or_none(_is_count),
    torch=_is_text, device=_is_text, date=_is_text, detector=dict(identity=_is_text, resize=_is_text),
    reference=_or_none(dict(dataset=_is_text, content_hash=_is_text, images=_is_count,
                            mirrored=lambda value: type(value) is bool)),
    better=lambda value: value in ('lower', 'higher'),
    intervals=lambda value: type(value) is dict and _or_none(_is_interval)(value.get('value')),
    formula=_or_none(dict(covariance=_or_none(_is_text))),
    generated=dict(images=_is_count, seed=_is_count, truncation_psi=_is_number, noise_mode=_is_text, labels=_is_text))
OPTIONAL = dict(better='lower', intervals={}, formula=None)          # what a record may leave out


def _fits(value, wanted):
    """Whether a value from a file has the form `wanted`; entries that nobody reads may be anything."""
    if callable(wanted):
        return wanted(value)
    return type(value) is dict and all(key in value and _fits(value[key], entry) for key, entry in wanted.items())


class Measured(NamedTuple):
    """All values of a metric that were measured by the same protocol, and so can be compared."""
    metric: str
    own: dict | None            # the record of the snapshot that the card is about; None = it was not measured
    best: dict | None           # the record of the best value of all snapshots; None = none is finite
    count: int                  # snapshots measured
    example: dict | None        # any of the records, for the protocol; None = there is none


def read(folder, snapshot, nimg, wanted):
    """-> list of `Measured`, by metric. Lines that are no records of that metric are left out.

    Args:
        folder:   where the metric-NAME.jsonl lie.
        snapshot: name of the snapshot's file.
        nimg:     images it was trained on; later snapshots are left out.
        wanted:   names of metrics to list even if they were not measured.
    """
    groups = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), 'metric-*.jsonl'))):
        for record in metric_records.read_lines(path):
            ours = (_fits({**OPTIONAL, **record}, RECORD)
                    and os.path.basename(path) == run_files.metric_name(record['metric']))
            here = ours and os.path.basename(record['snapshot']) == record['snapshot']      # not of another folder
            if here and (nimg is None or record['cur_nimg'] is None or record['cur_nimg'] <= nimg):
                record = without_folders(record)
                # If it was measured again, the latest counts
                groups.setdefault(metric_records.key(record), {})[record['snapshot']] = record
    found = [_summarize(list(records.values()), snapshot) for records in groups.values()]
    measured = {name for group in found for name in metric_records.spellings(group.metric)}
    missing = [Measured(metric, None, None, 0, None) for metric in wanted if metric not in measured]
    return found + missing


def _summarize(records, snapshot):
    own = next((record for record in records if record['snapshot'] == snapshot), None)
    return Measured(records[-1]['metric'], own, metric_records.best(records), len(records), records[-1])


def describe(groups, nimg, taught):
    """Lines of Markdown: a table of values, and the protocol of each. taught: whether a teacher took part in the
    training."""
    if not groups:
        return ['Not measured.']
    this = 'this snapshot' if nimg is None else f'this snapshot, {nimg / 1000:g} kimg'
    lines = [f'| metric, lower is better if nothing is said | protocol | {this} | best snapshot of the run |',
             '|---|---|---|---|']
    lines += [f'| {_name(group)} | {number if group.example else ""} | {_value(group.own)} | {_best(group)} |'
              for number, group in enumerate(groups, start=1)]
    lines += ['', 'The best is that of those measured, chosen by the same measure, and so flatters.', '']
    lines += [f'{number}. {group.metric}: {_protocol(group.example)}' for number, group in enumerate(groups, start=1)
              if group.example is not None]
    if any(group.metric.startswith(('feat', 'clip')) for group in groups):
        lines += ['', 'Metrics in feat... (older: clip...) use the features of the network that is named: '
                  'other numbers than the FID.'
                  + (' Where that is the teacher of the training, it is no impartial judge.' if taught else '')]
    return lines


def _name(group):
    return f'{group.metric}, higher is better' if (group.example or {}).get('better') == 'higher' else group.metric


def _value(record):
    if record is None:
        return 'not measured'
    interval = record.get('intervals', {}).get('value')
    return ('NaN' if record['value'] is None
            else f'{record["value"]:.4g}' + (' ({:.4g} to {:.4g})'.format(*interval) if interval else ''))


def _best(group):
    if group.best is None:
        return 'not measured' if group.example is None else 'NaN'
    kimg = group.best['cur_nimg']
    return f'{_value(group.best)}{"" if kimg is None else f" at {kimg / 1000:g} kimg"}, of {group.count} measured'


def _protocol(record):
    detector, reference, generated = record['detector'], record['reference'], record['generated']
    covariance = metric_records.protocol_of(record).get('formula.covariance')
    norm = f', batch norm by {generated["batch_norm"]}' if 'batch_norm' in generated else ''
    against = '' if reference is None else (
        f' against {reference["images"]} real ones of {reference["dataset"]} '
        f'({"mirrored, too" if reference["mirrored"] else "as they are"}, SHA-256 {reference["content_hash"][:16]}...)')
    return (f'{generated["images"]} generated images (seed {generated["seed"]}, truncation psi '
            f'{generated["truncation_psi"]}, '
            f'noise {generated["noise_mode"]}, labels {generated["labels"]}{norm}){against}; '
            f'features of {detector["identity"]}, resize {detector["resize"]}; '
            f'{f"covariances {covariance}; " if covariance else ""}torch {record["torch"]} on {record["device"]}, '
            f'{record["date"][:10]}')
