"""Ending a run when a metric does not get better any more: --early-stop=metric=fid5k_full,patience=5."""

import math

from dnnlib import UserError, metric_records

from .observer import Observer

FORM = 'metric=fid5k_full,patience=5 or metric=fid5k_full,patience=5,min-delta=0.1'


class EarlyStop(Observer):
    """Ends the run after `patience` evaluations in a row without a better value than the best before them.

    It reads metric-NAME.jsonl only, so a continued run decides like one that was never stopped. Values of other
    protocols do not count, nor do values from beyond the state that a run continues from; NaN is no improvement.

    Args:
        metric:    name.
        patience:  evaluations.
        min_delta: by how much a value must be better to count.
    """

    def __init__(self, metric, patience, min_delta=0):
        self.metric, self.patience, self.min_delta = metric, patience, min_delta

    def verdict(self, run_dir, cur_nimg):
        records = history(run_dir, self.metric, cur_nimg)
        waited = evaluations_since_best(records, self.min_delta)
        if waited < self.patience:
            return None
        best = metric_records.best(records)
        which = 'it was never a number' if best is None else f'the best is {best["value"]:.4f} of {best["snapshot"]}'
        return f'{self.metric} has not got better in {waited} evaluations; {which}'


def history(run_dir, metric, cur_nimg):
    """The values of a run up to `cur_nimg` images, one per snapshot in their order; [] unless the last one was measured
    at `cur_nimg`."""
    records = metric_records.read_metric(run_dir, metric)
    records = [record for record in records if isinstance(record.get('cur_nimg'), int) and record['cur_nimg']
               <= cur_nimg]
    now = next((record for record in reversed(records) if record['cur_nimg'] == cur_nimg), None)
    if now is None:
        return []
    by_nimg = {record['cur_nimg']: record for record in [*metric_records.comparable(now, records)[0], now]}
    return [by_nimg[nimg] for nimg in sorted(by_nimg)]


def evaluations_since_best(records, min_delta):
    """How many of the last values are not better, by more than `min_delta`, than the best before them."""
    best, waited = math.inf, 0
    for record in records:
        badness = math.inf if record.get('value') is None else metric_records.badness(record)
        if badness < best - min_delta:
            best, waited = badness, 0
        else:
            waited += 1
    return waited


def parse(text, metrics):
    """'metric=fid5k_full,patience=5' -> arguments of `EarlyStop`. Raises UserError for anything else, and for a metric
    that is not measured."""
    given = dict(part.strip().partition('=')[::2] for part in text.split(','))
    number = lambda name, kind: _number(text, name, given[name], kind)
    if not {'metric', 'patience'} <= given.keys() <= {'metric', 'patience', 'min-delta'}:
        raise UserError(f'--early-stop={text}: must be like {FORM}')
    if metric_records.spellings(given['metric'])[0] not in {metric_records.spellings(name)[0] for name in metrics}:
        raise UserError(f'--early-stop={text}: {given["metric"]} is not measured in this run '
                        f'(--metrics={",".join(metrics) or "none"}); add it there')
    patience = number('patience', int)
    if patience < 1:
        raise UserError(f'--early-stop={text}: patience must be at least 1')
    return dict(metric=given['metric'], patience=patience,
                **(dict(min_delta=number('min-delta', float)) if 'min-delta' in given else {}))


def _number(text, name, value, kind):
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise UserError(f'--early-stop={text}: {name}={value} is no {"whole " if kind is int else ""}number from 0 on; '
                        f'say for example {FORM}')
    return number
