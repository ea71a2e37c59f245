"""The measurements of a run by protocol: only values of equal protocols are put together."""

from typing import NamedTuple

from dnnlib import metric_records as protocol

from .numbers import interval, kimg, rounded, with_interval


class Measured(NamedTuple):
    """Values of a metric that can be compared, one per snapshot, by images seen."""
    metric: str
    records: list[dict]

    @property
    def best(self) -> dict | None:
        return protocol.best(self.records)

    @property
    def last(self) -> dict:
        return self.records[-1]

    @property
    def better(self) -> str:
        return 'higher' if self.last.get('better') == 'higher' else 'lower'


def by_protocol(records: list[dict]) -> dict[str, Measured]:
    """{key of the protocol: its values}; of a snapshot that was measured again, the latest."""
    groups = {}
    for record in records:
        groups.setdefault(protocol.key(record), {})[record['snapshot']] = record
    found = {}
    for key, group in groups.items():
        values = sorted(group.values(), key=lambda record: record['cur_nimg'])
        found[key] = Measured(protocol.spellings(values[0]['metric'])[0], values)
    return found


def row(group: Measured) -> dict:
    """The entries for tables."""
    found = dict(metric=group.metric, better=group.better, count=len(group.records), protocol=in_words(group.last),
                 last=with_interval(group.last), last_at=kimg(group.last['cur_nimg']))
    if group.best is None:
        return dict(found, best='NaN', best_at='', snapshot='')
    best = group.best
    return dict(found, best=with_interval(best), best_at=kimg(best['cur_nimg']), snapshot=best['snapshot'])


def in_words(record: dict) -> str:
    """The protocol in a line."""
    reference, generated = record.get('reference') or {}, record.get('generated') or {}
    detector = (record.get('detector') or {}).get('identity')
    parts = []
    if generated:
        parts.append(f'{generated.get("images")} generated images, seed {generated.get("seed")}, '
                     f'psi {generated.get("truncation_psi")}')
    if reference:
        parts.append(f'against {reference.get("images")} images of {reference.get("dataset")}')
    return '; '.join([*parts, f'features of {detector}'] if detector else parts)


def panel(group: Measured) -> dict:
    """A panel of curves, as of `curves.panels`, with the interval and the place of the best value."""
    ends = [interval(record) for record in group.records]
    series = dict(label=group.metric, name=group.metric, y=[rounded(record['value']) for record in group.records])
    if any(ends):
        low, high = zip(*[pair or (None, None) for pair in ends], strict=True)
        series.update(low=list(map(rounded, low)), high=list(map(rounded, high)))
    if group.best is not None:
        series['best'] = group.records.index(group.best)
    return dict(title=group.metric, note=f'{group.better.capitalize()} is better. {in_words(group.last)}.', unit='',
                x=[record['cur_nimg'] / 1000 for record in group.records], series=[series])
