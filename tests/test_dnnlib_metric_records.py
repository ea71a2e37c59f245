"""dnnlib/metric_records.py: which records compare, which is better."""

import json

from made_records import record

from dnnlib import metric_records


def test_what_differs():
    assert metric_records.differences(record(), record(value=2.0, batch_size=1)) == []
    assert metric_records.key(record()) == metric_records.key(record(batch_size=1))
    assert metric_records.differences(record(), record(images=160, seed=1)) == ['reference.images 100 and 160',
                                                                                'generated.seed 0 and 1']
    assert metric_records.differences(record(), dict(record(), reference=None)) == ['reference.images 100 and None']
    assert metric_records.key(record()) != metric_records.key(record(seed=1))
    assert metric_records.key(record(seed=1.0)) == metric_records.key(record(seed=1))


def test_covariances_of_the_fid():
    """Records from before they were recorded have those over n. Other metrics have none."""
    new = dict(formula=dict(covariance='over n-1'), over_n=0.9)
    for metric in ('fid5k_full', 'clipfid12_full'):
        old, recent = dict(record(), metric=metric), dict(record(**new), metric=metric)
        assert metric_records.differences(old, recent) == ['formula.covariance over n and over n-1']
        assert metric_records.differences(recent, recent) == []
        assert metric_records.differences(old, dict(recent, formula=dict(covariance='over n'))) == []
    assert 'formula.covariance' not in metric_records.protocol_of(dict(record(), metric='kid5k_full'))


def test_only_equals_are_compared_and_the_others_are_told():
    same, other = record(2.0), record(3.0, images=160)
    assert metric_records.comparable(record(), [same]) == ([same], None)
    found, warning = metric_records.comparable(record(), [same, other])
    assert found == [same] and warning == ('Warning: 1 of 2 values of m were measured by another protocol and are not '
                                           'compared with this one: reference.images 100 and 160')


def test_the_best_in_either_direction():
    lower, higher = [record(v) for v in (3.0, None, 1.0)], [record(v, better='higher') for v in (3.0, None, 1.0)]
    assert metric_records.best(lower)['value'] == 1 and metric_records.best(higher)['value'] == 3
    assert metric_records.best([record(None)]) is metric_records.best([]) is None


def test_lines_that_were_cut_off(tmp_path):
    (tmp_path / 'x.jsonl').write_text(json.dumps(record()) + '\n{"metr')
    assert (metric_records.read_lines(str(tmp_path / 'x.jsonl')) == [record()]
            and metric_records.read_lines(str(tmp_path / 'absent')) == [])


def test_two_names_of_one_metric(tmp_path):
    """The networks tell apart what differs, not the spelling."""
    for name in ('clippr5k3_full', 'featpr5k3_full'):
        assert metric_records.spellings(name) == ['featpr5k3_full', 'clippr5k3_full']
    assert (metric_records.spellings('fid5k_full') == ['fid5k_full']
            and metric_records.spellings('clipper') == ['clipper'])
    old, new = [dict(record(), metric=name) for name in ('clipfid5k_full', 'featfid5k_full')]
    assert metric_records.key(old) == metric_records.key(new) != metric_records.key(dict(old, metric='featkid5k_full'))
    assert metric_records.differences(old, dict(new, detector=dict(identity='e'))) == ['detector.identity d and e']
    for entry in (old, new):
        (tmp_path / f'metric-{entry["metric"]}.jsonl').write_text(json.dumps(entry) + '\n')
    for name in ('clipfid5k_full', 'featfid5k_full'):
        assert metric_records.read_metric(str(tmp_path), name) == [new, old]
