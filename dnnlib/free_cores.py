"""How many processor cores other programs leave free, from /proc/stat of Linux; unknown on other systems. Usage is read
when this module is imported, and again when it is asked for.
"""

import math
import os
import pathlib
import time
from typing import NamedTuple

LEAST_SEC = 0.5                 # between two looks: the counters have a resolution of a hundredth of a second
# Cores that every system uses in the background. From 0.11 on, one thread fewer pays on two cores (docs/benchmarks.md).
BACKGROUND = 0.15


class Look(NamedTuple):
    """The processor time used on the machine so far."""
    stat: str                   # text of /proc/stat
    own_sec: float              # CPU seconds of this process and of its children that have ended
    time: float                 # of a clock, in seconds


def look():
    """-> `Look`, or None where there is no /proc/stat."""
    try:
        stat = pathlib.Path('/proc/stat').read_text(errors='replace')
    except OSError:
        return None
    return Look(stat, sum(os.times()[:4]), time.monotonic())


_start = look()


def measure(start=_start):
    """Cores left to this process since `start`, at least 1; None if unknown. Waits for `LEAST_SEC` to pass."""
    if start is None:
        return None
    time.sleep(max(start.time + LEAST_SEC - time.monotonic(), 0))
    return left_free(start, look(), os.sched_getaffinity(0), os.sysconf('SC_CLK_TCK'))


def left_free(start, end, cores, ticks_per_sec):
    """Cores that other programs left to this process between two looks, a whole number of at least 1.

    Args:
        start, end:     `Look`; `end` may be None.
        cores:          numbers of those that this process may run on.
        ticks_per_sec:  unit of /proc/stat.
    Returns: None if the texts lack it.
    """
    if end is None:
        return None
    before, after = _counters(start.stat), _counters(end.stat)
    known = [core for core in cores if core in before and core in after]
    busy, total = [sum(after[core][i] - before[core][i] for core in known) for i in range(2)]
    if total <= 0:
        return None
    sec = total / len(known) / ticks_per_sec
    others = max(busy / ticks_per_sec - (end.own_sec - start.own_sec), 0) / sec
    return max(math.floor(len(known) - others + BACKGROUND), 1)


def _counters(stat):
    """{number of a core: (busy, all) ticks}. Waiting for a disk does not count as busy; time that a hypervisor gave to
    others does."""
    found = {}
    for name, *fields in filter(None, map(str.split, stat.splitlines())):
        if name.startswith('cpu') and name[3:].isdecimal() and len(fields) >= 4 and all(map(str.isdecimal, fields)):
            user, nice, system, idle, wait, *interrupts = map(int, [*fields, '0'][:max(len(fields), 5)])
            busy = user + nice + system + sum(interrupts[:3])           # the further ones are part of `user` and `nice`
            found[int(name[3:])] = busy, busy + idle + wait
    return found


def quota(root='/'):
    """Cores that the control groups of this process allow it to use, a whole number of at least 1; None = all.

    Args:
        root: folder in which proc and sys lie.
    """
    limits = [limit for folder in _groups(pathlib.Path(root)) if (limit := _limit(folder)) is not None]
    return max(math.floor(min(limits) + BACKGROUND), 1) if limits else None


def _groups(root):
    """Folders of the control groups of this process, outer ones too: version 2, or the controller cpu of version 1."""
    for line in _read(root / 'proc/self/cgroup').splitlines():
        _number, controllers, path = (line.split(':', 2) + ['', ''])[:3]
        if controllers == '' or 'cpu' in controllers.split(','):
            top = root / 'sys/fs/cgroup' / controllers
            inner = top / path.lstrip('/')
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _limit(folder):
    """Cores that a control group allows; None = no limit."""
    fields = _read(folder / 'cpu.max').split() or \
        [_read(folder / 'cpu.cfs_quota_us').strip(), _read(folder / 'cpu.cfs_period_us').strip()]
    if len(fields) != 2 or not all(map(str.isdecimal, fields)) or '0' in fields:          # 'max' and -1 are no limit
        return None
    return int(fields[0]) / int(fields[1])


def _read(path):
    """The text of a file; '' if there is none."""
    try:
        return path.read_text(errors='replace')
    except OSError:
        return ''
