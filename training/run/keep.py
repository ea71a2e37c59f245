"""Which network snapshots of a run stay on the disk: --snapshot-keep=last=2,best=1,every=1000."""

import contextlib
import os

from dnnlib import UserError, metric_records

from . import files as run_files

RULES = ('last', 'best', 'every')


def parse(text, metrics, stop_metric=None):
    """'last=2,best=1,every=1000' -> {'last': 2, 'best': 1, 'every': 1000}; 'all' -> None.

    Args:
        metrics:     those measured during the training; `best` uses the first.
        stop_metric: the metric of --early-stop: the best snapshot by it is kept as well, as {'best_by': stop_metric}.
    Raises: UserError for anything else.
    """
    if text in (None, 'all'):
        return None
    keep = {}
    for part in text.split(','):
        rule, _, number = part.strip().partition('=')
        if rule not in RULES or rule in keep or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise UserError(f'--snapshot-keep={text}: {part.strip()!r} is none of last=COUNT, best=COUNT, every=KIMG; '
                            'say for example last=2,best=1,every=1000, or all')
        keep[rule] = int(number)
    if 'best' in keep and not metrics:
        raise UserError(f'--snapshot-keep={text}: nothing is measured by which to find the best; add --metrics or '
                        'leave best out')
    # The last snapshot is part of a complete run
    return {'last': 1, **keep, **({'best_by': stop_metric} if stop_metric else {})}


def expendable(snapshots, scores, keep):
    """Names of the snapshots that no rule keeps.

    Args:
        snapshots: {name: images seen}.
        scores:    {name: badness of the metric's value, less is better}; not every snapshot has one.
        keep:      of `parse`.
    """
    by_age = sorted(snapshots, key=snapshots.get)
    by_score = sorted((name for name in by_age if name in scores), key=scores.get)
    kept = {*by_age[-keep['last']:], *by_score[:keep.get('best', 0)]}
    if 'every' in keep:
        # Ticks end a few images after a round number, so the first snapshot after each multiple counts
        passed = {}
        for name in by_age:
            passed.setdefault(snapshots[name] // (keep['every'] * 1000), name)
        kept |= {name for multiple, name in passed.items() if multiple > 0}
    return [name for name in by_age if name not in kept]


def prune(run_dir, keep, metrics):
    """Deletes the snapshots of a run that no rule keeps. Values of different protocols cannot be compared, so the best
    by each protocol is kept."""
    names = run_files.find_snapshots(run_dir)
    kept = set(names) - set(expendable(names, {}, keep))
    counts = {metric: keep.get('best', 0) for metric in metrics[:1]}
    if 'best_by' in keep:
        counts[keep['best_by']] = max(counts.get(keep['best_by'], 0), 1)
    for metric, count in counts.items():
        for scores in _scores(run_dir, metric):
            kept |= set(names) - set(expendable(names, scores, {**keep, 'best': count}))
    for name in names:
        if name not in kept:
            with contextlib.suppress(FileNotFoundError):        # already deleted by somebody else
                os.remove(os.path.join(run_dir, name))


def _scores(run_dir, metric):
    """Of each protocol that the metric was measured by, {name of a snapshot: badness}."""
    groups = {}
    for record in metric_records.read_metric(run_dir, metric):
        if record.get('value') is not None:
            groups.setdefault(metric_records.key(record), {})[record.get('snapshot')] = metric_records.badness(record)
    return groups.values()
