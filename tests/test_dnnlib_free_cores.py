"""How many cores other programs leave, from texts of /proc/stat whose answer is counted by hand."""

import pathlib
import time

import pytest

from dnnlib import free_cores
from dnnlib.free_cores import Look, left_free

BEFORE = {0: (100, 20, 30, 5000, 10, 1, 2, 3, 0, 0), 1: (4000, 0, 400, 1000, 0, 0, 0, 0, 0, 0), 2: (0,) * 10,
          3: (0,) * 10}
HZ = 100


def stat(rows):
    lines = [f'cpu{core} {" ".join(map(str, row))}' for core, row in rows.items()]
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    return '\n'.join([f'cpu  {" ".join(map(str, total))}', *lines, 'intr 5 0 0', 'ctxt 12', 'btime 1700000000', ''])


def free_after(used, own_sec, cores=(0, 1), sec=2):
    """used: {core: seconds in which it was busy} of the `sec` seconds between two looks."""
    after = {}
    for core, row in BEFORE.items():
        busy = round(used.get(core, 0) * HZ)
        after[core] = (row[0] + busy, *row[1:3], row[3] + sec * HZ - busy, *row[4:])
    return left_free(Look(stat(BEFORE), 10, 0), Look(stat(after), 10 + own_sec, sec), cores, HZ)


@pytest.mark.parametrize('used, own_sec, free', [
    ({0: 2, 1: 0}, 2, 2),               # all of it is our own
    ({0: 1.4, 1: 0.8}, 2, 2),           # wherever it ran; others a tenth of a core
    ({0: 1.8, 1: 0.6}, 2, 1),           # others a fifth of a core
    ({0: 2, 1: 2}, 2, 1),               # one busy program
    ({0: 2, 1: 2}, 0.5, 1),             # several of them
    ({0: 0, 1: 0}, 0, 2), ({0: 0, 1: 0.1}, 0.5, 2)])            # a quiet machine; counters that lag behind
def test_what_others_use_is_taken_from_the_cores(used, own_sec, free):
    assert free_after(used, own_sec) == free


def test_only_the_cores_of_this_process_count():
    """A program that is busy on core 0 takes nothing from a process that may run on cores 1 to 3."""
    assert free_after({0: 2, 1: 1}, 1, cores=(1, 2, 3)) == 3
    assert free_after({0: 2, 1: 2}, 0, cores=(1, 2, 3)) == 2
    assert free_after({0: 2, 1: 2}, 2, cores=range(4)) == 3


@pytest.mark.parametrize('column, free', list(enumerate([1, 1, 1, 2, 2, 1, 1, 1, 2, 2])))
def test_what_is_busy(column, free):
    """user, nice, system, interrupts and what a hypervisor took; not idle, a disk, or guests, which are counted
    twice."""
    rows = {core: list(row) for core, row in BEFORE.items()}
    rows[0][3] += 200
    rows[1][3 if column > 7 else column] += 200
    rows[1][column] += 200 if column > 7 else 0
    assert left_free(Look(stat(BEFORE), 0, 0), Look(stat(rows), 0, 2), (0, 1), HZ) == free


@pytest.mark.parametrize('text', ['', 'cpu', 'cpu0', 'cpu0 1 2', 'cpu0 a b c d e', 'cpux 1 2 3 4', 'cpu0 -1 -2 -3 -4',
                                  stat(BEFORE)])
def test_a_text_that_says_nothing(text):
    for texts in [(text, text), (text, ''), ('', text)]:
        assert left_free(*(Look(text, 0, 0) for text in texts), (0, 1), HZ) is None
    assert left_free(Look(stat(BEFORE), 0, 0), None, (0, 1), HZ) is None


def test_old_kernels_count_less():
    """Four columns; and a core that was switched off in between is none."""
    before, after = 'cpu0 0 0 0 0\ncpu1 0 0 0 0\ncpu2 1 1 1 1', 'cpu0 5 5 90 0\ncpu1 0 0 0 100'
    assert left_free(Look(before, 0, 0), Look(after, 0, 1), (0, 1, 2), HZ) == 1


def test_it_waits_until_there_is_something_to_see(monkeypatch):
    """This machine: its own counters, half a second apart."""
    slept = []
    monkeypatch.setattr(free_cores, 'left_free', lambda *args: args)
    monkeypatch.setattr(time, 'sleep', slept.append)
    now = free_cores.look()
    assert now is None or free_cores.measure(now)[0] is now
    free_cores.measure(Look('', 0, time.monotonic() - 60))
    assert free_cores.measure(None) is None
    assert now is None or (0 < slept[0] <= free_cores.LEAST_SEC and slept[1] == 0)


def group(root, path, **texts):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace('__', '.')).write_text(text + '\n')


@pytest.mark.parametrize('lines, groups, cores', [
    ('0::/', {}, None), ('0::/', {'': 'max 100000'}, None), ('0::/', {'': '250000 100000'}, 2),
    ('0::/a/b', {'a/b': '400000 100000'}, 4), ('0::/a/b', {'a/b': '400000 100000', 'a': '290000 100000'}, 3),
    ('0::/', {'': '50000 100000'}, 1), ('0::/../outside', {'': '200000 100000'}, 2),
    ('0::/a', {'b': '100000 100000'}, None),
    ('nonsense', {'': '?'}, None), ('0::/', {'': '1 0'}, None)])
def test_the_quota_of_control_groups(tmp_path, lines, groups, cores):
    """cgroup v2: '<quota> <period>' microseconds of the group and of those around it; the least counts."""
    group(tmp_path, 'proc/self', cgroup=lines)
    for path, text in groups.items():
        group(tmp_path, pathlib.Path('sys/fs/cgroup', path), cpu__max=text)
    assert free_cores.quota(tmp_path) == cores


@pytest.mark.parametrize('quota, cores', [('-1', None), ('150000', 1), ('300000', 3)])
def test_the_quota_of_version_1(tmp_path, quota, cores):
    """In a container the path is that of the host, which is not to be seen."""
    group(tmp_path, 'proc/self', cgroup='4:memory:/x\n3:cpu,cpuacct:/docker/123\n0::/')
    group(tmp_path, 'sys/fs/cgroup/cpu,cpuacct', cpu__cfs_quota_us=quota, cpu__cfs_period_us='100000')
    assert free_cores.quota(tmp_path) == cores


def test_no_files_no_quota(tmp_path):
    assert free_cores.quota(tmp_path) is None
