"""Statistics of named numbers during training, accumulated on their own device and read once in a while.

`report()` costs a few small tensor operations and never waits for the device. A `Collector` gives count, mean and
standard deviation of what was reported since its last update, over all processes.
"""

import re
from typing import NamedTuple

import torch

from . import distributed

# Name -> device -> [count, sum, sum of squares] since the start
_moments: dict[str, dict[torch.device, torch.Tensor]] = {}


class Column(NamedTuple):
    """How the table of ticks shows a statistic; it is there as soon as the statistic is."""
    title: str
    statistic: str
    width: int                  # characters, with the space before it
    decimals: int               # at most


def report(name, value):
    """Adds the finite elements of `value` (number, list or tensor) to the statistic `name`; returns `value`.

    An infinite or NaN element would spoil the sums permanently, and every rule that uses the statistic. In a
    distributed run every process must report the same names.
    """
    elems = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
    elems = elems.flatten().to(torch.float32 if elems.device.type == 'mps' else torch.float64)      # MPS has no float64
    finite = elems.isfinite()
    elems = torch.where(finite, elems, 0)
    moments = torch.stack([finite.sum(dtype=elems.dtype), elems.sum(), elems.square().sum()])
    per_device = _moments.setdefault(name, {})
    if elems.device in per_device:
        per_device[elems.device] += moments
    else:
        per_device[elems.device] = moments
    return value


def running_moments(name, device):
    """[count, sum, sum of squares] of `name` on this process since the start, on `device` (zeros if nothing was
    reported there).

    For rules that follow a statistic without waiting for the device. The result is a copy.
    """
    moments = _moments.get(name, {}).get(torch.device(device))
    return torch.zeros([3], dtype=torch.float64, device=device) if moments is None else moments.clone()


def accumulators():
    """The tensors that `report` adds to, of all names and devices."""
    return [moments for per_device in _moments.values() for moments in per_device.values()]


class Collector:
    """Reads the statistics whose name matches `regex` wholly.

    Args:
        keep_previous: where nothing was reported between two updates, keep the numbers from before; False = forget
                       them.
    """

    def __init__(self, regex='.*', keep_previous=True):
        self.regex = re.compile(regex)
        self.keep_previous = keep_previous
        self._seen = {}         # name -> moments at the last update
        self._current = {}      # name -> moments between the last two updates
        self.update()
        self._current.clear()

    def names(self):
        """Names of all matching statistics reported so far."""
        return [name for name in _moments if self.regex.fullmatch(name)]

    def update(self):
        """Takes what was reported since the last update. Waits for the devices; all processes must call it."""
        if not self.keep_previous:
            self._current.clear()
        names = self.names()
        total = _sum_over_processes(names)
        for name, moments in zip(names, total, strict=True):
            delta = moments - self._seen.get(name, torch.zeros_like(moments))
            self._seen[name] = moments
            if delta[0] != 0:
                self._current[name] = delta

    def state_dict(self):
        """{name: [count, sum, sum of squares]} since the last update, over all processes, which must all call it."""
        names = self.names()
        since = {name: now - self._seen.get(name, torch.zeros_like(now))
                 for name, now in zip(names, _sum_over_processes(names), strict=True)}
        return {name: moments.tolist() for name, moments in since.items() if moments[0] != 0}

    def load_state_dict(self, state):
        """Counts these as reported since the last update, too; all processes must call it, with the same state."""
        for name in state:
            _moments.setdefault(name, {torch.device('cpu'): torch.zeros([3], dtype=torch.float64)})
        names = list(state)
        for name, now in zip(names, _sum_over_processes(names), strict=True):
            self._seen[name] = now - torch.tensor(state[name], dtype=torch.float64)

    def num(self, name):
        """Number of elements."""
        return int(self._get(name)[0])

    def mean(self, name):
        """Mean, NaN if there is none."""
        count, total, _ = self._get(name)
        return float(total / count)

    def std(self, name):
        """Standard deviation (of the population), NaN if there are no elements."""
        count, total, squares = self._get(name)
        mean = total / count
        return float((squares / count - mean.square()).clamp(min=0).sqrt())

    def as_dict(self):
        """{name: {'num', 'mean', 'std'}} of all matching statistics."""
        return {name: dict(num=self.num(name), mean=self.mean(name), std=self.std(name)) for name in self.names()}

    def _get(self, name):
        return self._current.get(name, torch.zeros([3], dtype=torch.float64))


def _sum_over_processes(names):
    """[len(names), 3] float64 on the CPU: moments since the start, summed over devices and processes."""
    if not names:
        return torch.zeros([0, 3], dtype=torch.float64)
    total = torch.stack([sum(m.to('cpu', torch.float64) for m in _moments[name].values()) for name in names])
    return distributed.all_reduce_sum(total)
