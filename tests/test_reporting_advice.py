"""What a page says of a run in words: advice, events, times, groups of curves."""

import pytest
from made_runs import make_run, tick, write_lines
from page_reader import read_page

from reporting import advice, curves, events, facts, page, run_folder, run_page

# -- what is said


def said(folder, finished=False):
    return {item['title']: item['level'] for item in advice.give(run_folder.read(str(folder)), finished)}


@pytest.mark.parametrize('changes, title', [
    ({'Health/overfitting': [0.1] * 7 + [0.7] * 3}, 'D overfits'),
    ({'Loss/signs/real': [0.6] * 7 + [0.95] * 3}, 'D is sure of every training image'),
    ({'Progress/augment': [0.1] * 7 + [0.85] * 3}, 'Augmentations may leak into the fakes'),
    ({'Health/copies': [0.0] * 7 + [0.3] * 3}, 'G copies training images'),
    ({'Health/repeats': [0.0] * 7 + [0.3] * 3}, 'Fakes repeat each other'),
    ({'KD/gradient_share': [1.0] * 7 + [12.0] * 3}, 'D learns the teacher and little else'),
    ({'KD/calibration': [0.1] * 7 + [1000.0] * 3}, 'The share of distillation is not reached'),
    ({'KD/agreement_real': [0.8] * 7 + [0.6] * 3}, "D gives up the teacher's view"),
    ({'Progress/skipped_steps/Gmain': [0.0] * 7 + [0.1] * 3}, 'Steps are being left out'),
    ({'Timing/sec_per_kimg': [3.0] * 7 + [6.0] * 3}, 'The training has become slower')])
def test_advice(changes, title, tmp_path):
    """Each rule speaks where its statistic is bad now, and not where it was bad before."""
    folder = make_run(tmp_path / 'run', ada_target=0.6, values=[])
    (name, values), = changes.items()
    write_lines(folder / 'stats.jsonl', [tick(i, **{name: value}) for i, value in enumerate(values)])
    assert said(folder)[title] in ('act', 'watch') and 'Nothing stands out' not in said(folder)
    write_lines(folder / 'stats.jsonl', [tick(i, **{name: value}) for i, value in enumerate(sorted(values))])
    calm = values[:7] + [values[0]] * 3
    write_lines(folder / 'stats.jsonl', [tick(i, **{name: value}) for i, value in enumerate(calm)])
    assert said(folder) == {'Nothing stands out': 'good'}


@pytest.mark.parametrize('values, title', [
    ([30.0, 20.0], 'The last snapshot is the best so far'), ([20.0, 30.0], 'The best snapshot is not the last'),
    ([30.0, 20.0, 21.0, 22.0, 23.0], 'It has not got better lately')])
def test_advice_by_the_metric(values, title, tmp_path):
    assert title in said(make_run(tmp_path / 'run', values=values))


def test_advice_names_only_what_is_not_in_use(tmp_path):
    folder = make_run(
        tmp_path / 'run', augment_kwargs=dict(class_name='x.AugmentPipe'), training_set_kwargs=dict(xflip=True)
    )
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Loss/signs/real': 0.95}) for i in range(3)])
    item, = [item for item in advice.give(run_folder.read(str(folder)), False) if item['level'] == 'watch']
    assert item['text'] == 'r_t is 0.95. It helps to have more data, `--kd`, a larger `--gamma`.'


def test_advice_names_the_snapshot_that_is_there(tmp_path):
    """The best one, of 2 kimg, has been deleted; of those that are left, that of 3 kimg is better than that of 5."""
    folder = make_run(tmp_path / 'run', values=[30.0, 20.0, 21.0, 22.0, 23.0])
    text = lambda: next(item['text'] for item in advice.give(run_folder.read(str(folder)), False)
                        if item['title'] == 'It has not got better lately')
    assert 'Use that snapshot.' in text()                           # nothing is known of the files: the run was moved
    for kimg in (3, 5):
        (folder / f'network-snapshot-{kimg:06d}.safetensors').write_bytes(b'')
    assert 'not in the folder any more; the best that is there is network-snapshot-000003.safetensors (21)' in text()
    found = read_page(run_page.write(str(folder)))
    assert 'network-snapshot-000002.safetensors (not in the folder)' in found.text
    (folder / 'network-snapshot-000002.safetensors').write_bytes(b'')
    assert 'Use that snapshot.' in text() and '(not in the folder)' not in read_page(run_page.write(str(folder))).text


def test_one_slow_tick_is_no_trend(tmp_path):
    """Neither in the advice nor in the speed of the table; its curve begins with a scale that shows the others."""
    folder = make_run(tmp_path / 'run', values=[])
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Timing/sec_per_kimg': 300.0 if i == 9 else 3.0})
                                         for i in range(10)])
    run = run_folder.read(str(folder))
    assert said(folder) == {'Nothing stands out': 'good'} and dict(facts.machine(run))['seconds per kimg'] == '3'
    assert {panel['title']: panel['log'] for panel in curves.panels(run)[0]} == {
        'Is D overfitting?': False, 'Copies and repeats': False, 'Losses': False, 'Time': True, 'Memory': False}
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Timing/sec_per_kimg': 6.0 if i > 6 else 3.0}) for i in range(10)])
    assert 'The training has become slower' not in said(folder, finished=True)


def test_commands_in_sentences():
    assert page.with_code('a `<b> --x` & c') == 'a <code>&lt;b&gt; --x</code> &amp; c'


def test_events_stand_where_they_happened(tmp_path):
    folder = make_run(tmp_path / 'run')
    write_lines(
        folder / 'bad-steps.jsonl', [dict(phase='Gmain', cur_nimg=nimg, rollbacks=0) for nimg in (2100, 2200, 3500)]
    )
    log = folder / 'log.txt'
    log.write_text(
        log.read_text() + 'Warning: 2 of 9 Gmain steps were left out: a gradient was infinite or NaN (x).\n'
        'Warning: the last 20 steps of Dmain up to 3.2 kimg were left out: a gradient was infinite or NaN. Back to 2 '
        'kimg, with 0.5 times the learning rate.\n'
        'Ended at 3 kimg by early_stop: fid5k_full has not got better in 5 evaluations.\n'
    )
    found = [(event['kimg'], event['kind'], event['text']) for event in events.collect(run_folder.read(str(folder)))]
    assert found == [
        (1, 'warning', 'Something is odd.'),
        (2, 'warning', 'A warning, which log.txt has in full.'),
        (2.1, 'skipped', '2 steps of Gmain left out: a gradient was infinite or NaN.'),
        (3, 'end', 'Ended: fid5k_full has not got better in 5 evaluations.'),
        (3.2, 'rollback', 'Back from 3.2 kimg to 2 kimg, learning rate times 0.5.'),
        (3.5, 'skipped', '1 step of Gmain left out: a gradient was infinite or NaN.'),
        (4, 'resume', 'Continued on A GPU.'),
    ]
    assert facts.progress(run_folder.read(str(folder)))['finished']


def test_the_time_that_is_left(tmp_path):
    """3 s per kimg of training and 2 s between ticks: 5 s for each of the 6 kimg that are left."""
    folder = make_run(tmp_path / 'run')
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Timing/total_sec': 5.0 * i}) for i in range(4)])
    head = facts.progress(run_folder.read(str(folder)))
    assert (head['left'], head['finished'], head['share']) == ('30s', False, 0.4)


def test_groups_of_curves_name_each_statistic_once():
    names = [
        'Loss/signs/real',
        'Loss/scores/fake',
        'Loss/G/loss',
        'Loss/agkd_real',
        'Loss/KD/agkd_real',
        'Loss/D/reg',
        'Loss/r1_penalty',
        'Progress/apa_p',
        'Health/copies',
        'Health/overfitting',
        'KD/agreement_real',
        'KD/gradient_share',
        'KD/diversity_teacher',
        'CHAIN/p',
        'Timing/sec_per_kimg',
        'Timing/Dboth',
        'Resources/peak_gpu_mem_gb',
    ]
    for name in names:
        assert len([group for group in curves.GROUPS if curves.label_of(group, name)]) == 1, name
