"""The metrics by name: what each needs of real and generated images, and the function that computes its values."""

import re
from typing import Callable, NamedTuple

from dnnlib import UserError, metric_records
from dnnlib.errors import refuse_idle

MOMENTS = dict(capture_mean_cov=True)           # what a metric needs: mean and covariance of the features,
FEATURES = dict(capture_all=True)               # or the features themselves
MAX_IMAGES = 10_000_000                         # a larger number is a typing mistake
# {option of the command lines that names a network: the detectors made of it, by their names in `metric_main.LOADERS`}
USED_BY = dict(detector={'inception', 'inception-classes'}, vgg16={'vgg16', 'vgg16-lpips'}, alexnet={'alexnet-lpips'},
               lpips_heads={'alexnet-lpips'}, teacher={'teacher'}, metric_teacher={'teacher'})


class Metric(NamedTuple):
    """A family of metrics, one for each number of generated images.

    pattern: of the name, with <N> for that number: 5000 or 5k.
    needs:   detector by its name in `metric_main.LOADERS`.
    better:  'lower' or 'higher'.
    real, generated: arguments of `FeatureStats`: what is kept of the features; None = nothing is needed. Where
             `generated` is None, the metric works on the generator itself, and `compute` is called as `compute(opts,
             number)` instead.
    compute: `compute(real, generated, weights)` -> {'value': ..., other figures}; see `estimate.evaluate`.
    number:  of images, if the name has none; None = the name must have one.
    figures: names of the other figures that are printed after the value.
    abilities: what a generator must offer beyond a call of it, by the names of `training.networks.interface.ABILITIES`.
    alone: whether it needs images that do not depend on the others of their batch.
    seeks_copies: whether it looks for copies of training images, so that no other real images will do.
    """
    pattern: str
    needs: str
    better: str
    real: dict | None
    generated: dict | None
    compute: Callable
    number: int | None = None
    figures: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    seeks_copies: bool = False
    alone: bool = False

    def num_gen(self, name: str) -> int | None:
        """The number of generated images in the name; None if it is a name of other metrics."""
        optional = '' if self.number is None else '?'
        match = re.fullmatch(re.escape(self.pattern).replace('<N>', f'(?:([1-9][0-9]*)(k?)){optional}'), name)
        if match is None or match[1] is None:
            return match and self.number
        return int(match[1]) * (1000 if match[2] else 1)

    def form(self) -> str:
        """The pattern as people write it: with [<N>] where the number may be left out."""
        return self.pattern if self.number is None else self.pattern.replace('<N>', '[<N>]')


_metrics: dict[str, Metric] = {}


def register_metric(pattern: str, needs: str, better: str = 'lower', real: dict | None = None,
                    generated: dict | None = None, number: int | None = None, figures: tuple[str, ...] = (),
                    abilities: tuple[str, ...] = (), seeks_copies: bool = False, alone: bool = False):
    """Decorator: makes a function the `compute` of a `Metric`; the first line of its docstring is what users are told.

    Raises ValueError if the pattern is taken, or `better` is neither.
    """
    def register(compute):
        if pattern in _metrics:
            raise ValueError(f'metric {pattern!r} is already registered by {_metrics[pattern].compute.__module__}')
        if better not in ('lower', 'higher'):
            raise ValueError(f"better is {better!r}, it must be 'lower' or 'higher'")
        _metrics[pattern] = Metric(pattern, needs, better, real, generated, compute, number, figures, abilities,
                                   seeks_copies, alone)
        return compute
    return register


def list_valid_metrics() -> list[str]:
    """For people: 'fid<N>_full (what it is)', ..."""
    return [f'{metric.form()} ({metric.compute.__doc__.splitlines()[0]})' for metric in _metrics.values()]


def forms() -> list[str]:
    """'fid<N>_full', ..."""
    return [metric.form() for metric in _metrics.values()]


def is_valid_metric(name: str) -> bool:
    """Whether there is a metric of this name."""
    return any(metric.num_gen(metric_records.spellings(name)[0]) for metric in _metrics.values())


def find_metric(name: str) -> tuple[Metric, int]:
    """'fid5k_full' -> (the metric, 5000), by any of its names. Raises UserError if there is none."""
    for metric in _metrics.values():
        if num_gen := metric.num_gen(metric_records.spellings(name)[0]):
            if num_gen > MAX_IMAGES:
                raise UserError(f'--metrics={name}: asks for {num_gen} images; {MAX_IMAGES} are the most')
            return metric, num_gen
    guess = f'did you mean {name}_full? Or ' if is_valid_metric(f'{name}_full') else ''
    raise UserError(f'--metrics={name}: there is no such metric; {guess}use {", ".join(forms())} '
                    'with a number of images such as 500 or 5k for <N>')


def check_used(metrics: list[str], origin: str = '', **options: str | None) -> None:
    """Raises UserError for a file or teacher that none of the metrics looks at.

    Args:
        origin:  where the metrics come from, if not from the user.
        options: {name in `USED_BY`: value}; None = not given.
    """
    needs = {find_metric(metric)[0].needs for metric in metrics}
    for name, value in options.items():
        if not needs & USED_BY[name]:
            refuse_idle(f'with --metrics={",".join(metrics) or "none"}{origin}', **{name: value})
