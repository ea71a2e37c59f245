"""Early stopping: the verdict on a run."""

import json
import os
import pathlib

import pytest
from health_runs import config_of
from small_runs import finished

from dnnlib import UserError
from training.launch import launch
from training.observers import early_stop
from training.run import keep as snapshot_keep
from training.run.find import find_run
from training.training_loop import Run

# -- early stopping


@pytest.mark.parametrize('values, min_delta, waited', [
    ([], 0, 0), ([5], 0, 0), ([5, 4, 3], 0, 0), ([5, 4, 4], 0, 1), ([5, 6, None, 7], 0, 3), ([None, None], 0, 2),
    ([None, 5], 0, 0), ([5, 4.9, 4.8, 4.7], 0.25, 0), ([5, 4.9, 4.8], 0.25, 2), ([5, 6, 4, 7, 8], 0, 2)])
def test_evaluations_without_improvement(values, min_delta, waited):
    assert early_stop.evaluations_since_best([dict(value=value) for value in values], min_delta) == waited
    mirrored = [dict(value=value and -value, better='higher') for value in values]
    assert early_stop.evaluations_since_best(mirrored, min_delta) == waited


def test_the_history_of_a_run(tmp_path):
    """Later values, other protocols, and earlier values of the same snapshot do not count."""
    record = lambda nimg, value, seed=0: json.dumps(dict(metric='m', value=value, cur_nimg=nimg, snapshot=f's{nimg}',
                                                         generated=dict(seed=seed)))
    lines = [record(1000, 9), record(1000, 5), record(2000, 1, seed=7), record(2000, 6), record(4000, 0),
             record(3000, 7), record(1000, 3, seed=7), 'cut']
    (tmp_path / 'metric-m.jsonl').write_text('\n'.join(lines))
    assert [r['value'] for r in early_stop.history(str(tmp_path), 'm', 3000)] == [5, 6, 7]
    assert early_stop.history(str(tmp_path), 'm', 3500) == [] and early_stop.history(str(tmp_path), 'n', 3000) == []
    why = 'm has not got better in 2 evaluations; the best is 5.0000 of s1000'
    assert early_stop.EarlyStop('m', 2).verdict(str(tmp_path), 3000) == why
    assert early_stop.EarlyStop('m', 3).verdict(str(tmp_path), 3000) is None


@pytest.mark.parametrize('rule, message', [
    ('fid5k_full', 'must be like metric=fid5k_full,patience=5'), ('metric=a,patience=2,x=1', 'must be like'),
    ('patience=3', 'must be like'),
    ('metric=kid5k_full,patience=3', 'kid5k_full is not measured in this run .--metrics=fid5k_full.; add it there'),
    ('metric=fid5k_full,patience=0', 'patience must be at least 1'),
    ('metric=fid5k_full,patience=many', 'patience=many is no whole number'),
    ('metric=fid5k_full,patience=2,min-delta=nan', 'min-delta=nan is no number'),
    ('metric=fid5k_full,patience=2,min-delta=-1', 'min-delta=-1 is no')])
def test_rules_that_are_refused(rule, message):
    with pytest.raises(UserError, match=f'--early-stop=.*{message}'):
        early_stop.parse(rule, ['fid5k_full'])
    assert early_stop.parse('patience=2, metric=a,min-delta=0.5', ['a']) == dict(metric='a', patience=2, min_delta=0.5)
    other_name = early_stop.parse('patience=2,metric=featfid8_full', ['clipfid8_full'])
    assert other_name == dict(metric='featfid8_full', patience=2)


def test_the_best_snapshot_of_early_stopping_is_kept(tmp_path):
    for kimg, values in {1: (3, 9), 2: (1, 8), 3: (4, 5), 4: (2, 7), 5: (5, 6)}.items():
        name = f'network-snapshot-{kimg:06d}.safetensors'
        (tmp_path / name).touch()
        for metric, value in zip('mn', values, strict=True):
            with open(tmp_path / f'metric-{metric}.jsonl', 'a') as f:
                f.write(json.dumps(dict(metric=metric, snapshot=name, value=value)) + '\n')
    keep = snapshot_keep.parse('last=1,best=1', ['m', 'n'], stop_metric='n')
    snapshot_keep.prune(str(tmp_path), keep, ['m', 'n'])
    assert sorted(int(p.name[17:23]) for p in tmp_path.glob('*.safetensors')) == [2, 3, 5]
    snapshot_keep.prune(str(tmp_path), snapshot_keep.parse('last=1', ['m', 'n'], stop_metric='m'), ['m', 'n'])
    assert sorted(int(p.name[17:23]) for p in tmp_path.glob('*.safetensors')) == [2, 5]
    assert snapshot_keep.parse('all', ['m'], stop_metric='m') is None


def measured(metrics, run_dir, snapshot, cur_nimg, **_others):
    """Stands in for the metrics: the value grows, so the first snapshot is the best."""
    for metric in metrics:
        with open(os.path.join(run_dir, f'metric-{metric}.jsonl'), 'a') as f:
            f.write(json.dumps(dict(metric=metric, value=cur_nimg, cur_nimg=cur_nimg,
                                    snapshot=os.path.basename(snapshot))) + '\n')


def stopping_config(data, patience=2, kimg=0.08):
    config = config_of(data, f'--kimg={kimg}', '--tick=0.008', '--snap=1', '--health=0', '--metrics=clipfid8_full',
                       '--snapshot-keep=last=1', f'--early-stop=metric=clipfid8_full,patience={patience}')
    config.metric_kwargs = dict(func_name='test_training_early_stop.measured')
    return config


def kimg_of(run_dir):
    return [json.loads(line)['Progress/kimg']['mean']
            for line in pathlib.Path(run_dir, 'stats.jsonl').read_text().splitlines()]


def test_a_run_ends_by_a_verdict(tiny_data, tmp_path, capsys):
    """After the third of ten ticks; it is complete until the rule or the length changes."""
    find = lambda **kwargs: find_run(str(tmp_path), stopping_config(tiny_data, **kwargs), 'run', new_run=False)
    run_dir, _ = find()
    launch(stopping_config(tiny_data), run_dir)
    assert ('Ended at 0.024 kimg by early_stop: clipfid8_full has not got better in 2 evaluations; the best is '
            '8.0000' in capsys.readouterr().out)
    assert (kimg_of(run_dir) == pytest.approx([0.008, 0.016, 0.024])
            and os.path.isfile(os.path.join(run_dir, 'model_card.md')))
    assert sorted(p.name for p in pathlib.Path(run_dir).glob('network*')) == [f'network-snapshot-000000.{n}.safetensors'
                                                                              for n in ('008', '024')]
    assert find() == (run_dir, 'complete')
    assert find(patience=3) == (run_dir, 'continue') and find(kimg=0.16) == (run_dir, 'continue')
    os.remove(os.path.join(run_dir, 'model_card.md'))
    # A crash before the card: nothing is trained any more
    assert find() == (run_dir, 'continue')
    launch(stopping_config(tiny_data), run_dir)
    assert len(kimg_of(run_dir)) == 3 and find() == (run_dir, 'complete')
    launch(stopping_config(tiny_data, patience=4), run_dir)
    assert len(kimg_of(run_dir)) == 5 and find(patience=4) == (run_dir, 'complete')


def test_a_crash_before_the_verdict_is_made_up_for(tiny_data, tmp_path, monkeypatch):
    crash = lambda job, saved=True: (_ for _ in ()).throw(OSError('crash')) if job.cur_nimg == 24 else None
    monkeypatch.setattr(Run, '_ask_observers', crash)
    with pytest.raises(OSError, match='crash'):
        finished(stopping_config(tiny_data), tmp_path)
    monkeypatch.undo()
    job = finished(stopping_config(tiny_data), tmp_path)
    assert job.cur_nimg == 24 and job.state.ended['by'] == 'early_stop' and len(kimg_of(tmp_path)) == 3


def test_an_observer_may_end_a_run_between_snapshots(tiny_data, tmp_path, monkeypatch):
    config = stopping_config(tiny_data)
    config.network_snapshot_ticks = 5
    monkeypatch.setattr(early_stop.EarlyStop, 'verdict',
                        lambda self, run_dir, cur_nimg: 'enough' if cur_nimg == 16 else None)
    job = finished(config, tmp_path)
    assert job.cur_nimg == 16 and (tmp_path / 'network-snapshot-000000.016.safetensors').is_file()
    assert json.loads((tmp_path / 'metric-clipfid8_full.jsonl').read_text())['cur_nimg'] == 16
