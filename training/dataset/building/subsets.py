"""Subsets of an exact size: drawn uniformly, always the same, without regard to classes; or the first of each class."""

from fractions import Fraction

import numpy as np

from dnnlib import UserError

SEED = 0


def count_of(fraction: float | None, count: int | None, total: int) -> int:
    """How many images `--fraction` (percent, rounded to a whole image) or `--count` means; all of them without either.

    Raises: UserError if that is not 1 to `total`, or both are given.
    """
    if fraction is not None and count is not None:
        raise UserError(f'--count={count}: --fraction={fraction:g} says how many images already; leave one of them out')
    if count is not None and not 1 <= count <= total:
        raise UserError(f'--count={count}: there are {total} images; ask for 1 to {total}')
    if fraction is None:
        return total if count is None else count
    if not 0 < fraction <= 100:                             # NaN is neither
        raise UserError(f'--fraction={fraction:g}: must be a percentage above 0 and up to 100, such as 10')
    wanted = round(Fraction(str(fraction)) * total / 100)   # binary floats would miss 0.1 % of 1000 by a hair
    if wanted == 0:
        raise UserError(f'--fraction={fraction:g}: is less than one of {total} images; ask for more, or for --count=1')
    return wanted


def draw(count: int, total: int) -> np.ndarray:
    """Places of `count` out of `total` items, ascending: the first of one shuffled order, so that a smaller subset lies
    in each larger one.

    The order is that of `numpy.random.RandomState(0)`, whose numbers no version of numpy changes, and the same that
    `train.py --subset` uses.
    """
    return np.sort(np.random.RandomState(SEED).permutation(total)[:count])


def select(source, fraction: float | None, count: int | None) -> None:
    """Leaves a subset of the images in a source (`sources.py`), and notes it in its record. Raises UserError as
    `count_of`."""
    total = len(source.names)
    wanted = count_of(fraction, count, total)
    if wanted < total:
        source.names = [source.names[i] for i in draw(wanted, total)]
        source.record = dict(source.record, subset=dict(images=wanted, of=total, seed=SEED))


def first_of_each(names: list[str], labels: dict[str, int], count: int) -> list[str]:
    """`count` of the names, in order: the first ones of each class, the same number of each as long as they last."""
    seen: dict[int, int] = {}
    places = []                                             # (how many of its class are before it, class, place)
    for i, name in enumerate(names):
        label = labels[name]
        seen[label] = seen.get(label, -1) + 1
        places.append((seen[label], label, i))
    return [names[i] for i in sorted(i for _, _, i in sorted(places)[:count])]
