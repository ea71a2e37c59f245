"""Which snapshots are kept: --snapshot-keep."""

import json

import pytest

from dnnlib import UserError
from training.run import files as run_files
from training.run import keep as snapshot_keep

# -- which are kept


@pytest.mark.parametrize('text, keep', [(None, None), ('all', None), ('last=2', dict(last=2)),
                                        ('best=1', dict(last=1, best=1)),
                                        ('last=2, best=1,every=1000', dict(last=2, best=1, every=1000))])
def test_rules(text, keep):
    assert snapshot_keep.parse(text, ['fid5k_full']) == keep


@pytest.mark.parametrize('text, message', [('first=1', "'first=1' is none of last=COUNT, best=COUNT, every=KIMG"),
                                           ('last', "'last' is none"), ('last=0', "'last=0' is none"),
                                           ('last=1,last=2', "'last=2' is none"), ('', "'' is none"),
                                           ('last=²', "'last=²' is none")])
def test_rules_that_make_no_sense(text, message):
    with pytest.raises(UserError, match=f'--snapshot-keep={text}: {message}'):
        snapshot_keep.parse(text, ['fid5k_full'])


def test_the_best_needs_a_metric():
    with pytest.raises(UserError, match='add --metrics or leave best out'):
        snapshot_keep.parse('best=1', [])


def test_every_means_the_first_after_each_multiple():
    """Ticks end where a batch ends, and several fall between two multiples."""
    names = {f's{nimg}': nimg for nimg in (201_024, 403_008, 806_016, 1_008_000, 1_209_024, 2_016_000, 2_217_984)}
    kept = set(names) - set(snapshot_keep.expendable(names, {}, dict(last=1, every=1000)))
    assert kept == {'s1008000', 's2016000', 's2217984'}


def test_what_is_expendable():
    names = {f's{kimg}': kimg * 1000 for kimg in (200, 400, 600, 800, 1000)}
    scores = dict(s200=9, s400=2, s600=5, s1000=3)
    assert snapshot_keep.expendable(names, scores, dict(last=1)) == ['s200', 's400', 's600', 's800']
    assert snapshot_keep.expendable(names, scores, dict(last=2, best=1)) == ['s200', 's600']
    assert snapshot_keep.expendable(names, scores, dict(last=1, every=400)) == ['s200', 's600']
    assert snapshot_keep.expendable(names, {}, dict(last=1, best=1)) == ['s200', 's400', 's600', 's800']


def test_pruning_deletes_snapshots_and_nothing_else(tmp_path):
    for kimg in (1, 2, 3):
        (tmp_path / f'network-snapshot-{kimg:06d}.safetensors').touch()
    (tmp_path / 'network-snapshot-mine.safetensors').touch()
    records = [dict(metric='m', value=value, snapshot=f'network-snapshot-{kimg:06d}.safetensors')
               for kimg, value in [(1, 5), (2, None), (3, 7)]]
    (tmp_path / 'metric-m.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    snapshot_keep.prune(str(tmp_path), dict(last=1, best=1), ['m'])
    assert sorted(run_files.find_snapshots(tmp_path)) == ['network-snapshot-000001.safetensors',
                                                          'network-snapshot-000003.safetensors']
    assert (tmp_path / 'network-snapshot-mine.safetensors').exists() and (tmp_path / 'metric-m.jsonl').exists()
