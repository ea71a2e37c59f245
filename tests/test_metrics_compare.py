"""metrics/compare.py: the last and the best of runs side by side, and every warning."""

import json

import pytest
from conftest import run_cli
from made_records import record

import calc_metrics
from dnnlib import UserError
from metrics import compare


def write(folder, records, metric='m'):
    folder.mkdir(exist_ok=True)
    path = folder / f'metric-{metric}.jsonl'
    path.write_text(''.join(json.dumps(dict(entry, metric=metric)) + '\n' for entry in records))
    return str(path)


def test_last_and_best(tmp_path):
    """Of the values by one protocol; a snapshot that was measured again counts with its latest value; NaN is never the
    best."""
    a, b = tmp_path / 'a', tmp_path / 'b'
    write(a, [record(9.0, snapshot='s2', cur_nimg=2000), record(None, snapshot='s1', cur_nimg=1000),
              record(3.0, snapshot='s2', cur_nimg=2000),
              record(2.0, snapshot='s0', cur_nimg=0, intervals=dict(value=[1.5, 0.05]))])
    path = write(b, [record(0.001, snapshot='x')])
    assert compare.describe([str(a), path]) == [
        'm, lower is better', f'    {a}: last 3.0000 (s2); best of 3 snapshots, which flatters: 2.0000 [1.5000, '
                              '0.0500000] (s0)',
        f'    {path}: last 0.0010000 (x)']


def test_other_protocols_are_told(tmp_path):
    a = write(tmp_path / 'a', [record(2.0, snapshot='s'), record(1.0, snapshot='s', seed=1)])
    b = write(tmp_path / 'b', [record(3.0, snapshot='s', images=160), record(5.0, snapshot='t')])
    warning = '    Warning: measured by another protocol than the first, with which it does not compare: '
    assert compare.describe([a, b]) == [
        'm, lower is better', f'    {a}: last 2.0000 (s)', f'    {a}: last 1.0000 (s)',
        warning + 'generated.seed 0 and 1',
        f'    {b}: last 3.0000 (s)', warning + 'reference.images 100 and 160', f'    {b}: last 5.0000 (t)']


def test_other_metrics_are_told(tmp_path):
    write(tmp_path / 'a', [record(2.0, better='higher')], 'm1')
    write(tmp_path / 'a', [record(2.0)], 'm2')
    write(tmp_path / 'b', [record(2.0)], 'm2')
    lines = compare.describe([str(tmp_path / 'a'), str(tmp_path / 'b')])
    assert 'm1, higher is better' in lines
    assert lines[-1] == 'Warning: not on record everywhere, and values of different metrics do not compare: m1'
    assert not any('Warning' in line for line in compare.describe([str(tmp_path / 'a')]))


def test_what_is_no_record(tmp_path):
    odd = [dict(record(), value='1'), dict(record(), detector='x'), dict(record(), generated=[1]), {}]
    for path in (write(tmp_path / 'a', odd), str(tmp_path)):
        with pytest.raises(UserError, match=f'{path}: no value of a metric is on record there; name '
                                            'metric-NAME.jsonl files'):
            compare.describe([path])


def test_the_command(tmp_path):
    path = write(tmp_path / 'a', [record(2.0, snapshot='s')])
    assert run_cli(calc_metrics.main, 'compare', path) == (0, f'm, lower is better\n    {path}: last 2.0000 (s)\n')
    code, output = run_cli(calc_metrics.main, 'compare', str(tmp_path / 'none'))
    assert code == 1
    assert output.startswith(f'Error: {tmp_path / "none"}: there is no such file or folder; name metric-NAME.jsonl')
    assert run_cli(calc_metrics.main, 'compare')[0] == run_cli(calc_metrics.main, 'comapre', path)[0] == 2


def test_two_names_of_one_metric_stand_together(tmp_path):
    a = write(tmp_path / 'a', [record(2.0, snapshot='s')], 'clipfid5k_full')
    b = write(tmp_path / 'b', [record(3.0, snapshot='s')], 'featfid5k_full')
    assert compare.describe([a, b]) == [
        'featfid5k_full, lower is better', f'    {a}: last 2.0000 (s)', f'    {b}: last 3.0000 (s)']
