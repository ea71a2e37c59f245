"""What happens to a run when steps are not finite."""

import pytest
from resuming import differences, make_run
from small_runs import short_run

from dnnlib import UserError
from dnnlib.metric_records import read_lines
from torch_utils import checkpoint, training_stats
from torch_utils.seeds import step_seed
from training.config import presets
from training.run import card as model_card
from training.run import files as run_files
from training.run import state_files
from training.run.files import BAD_STEPS_FILE, STATS_FILE

# -- steps that are not finite


def poison(job, begin, end=10 ** 9, above_lr=0.0):
    """Gradients of D are NaN between two numbers of images, where D learns faster than that."""
    accumulate = job.training.loss.accumulate_gradients
    phase_d = next(phase for phase in job.training.phases if phase.name[0] == 'D')

    def accumulate_nan(phase, **kwargs):
        accumulate(phase=phase, **kwargs)
        if phase[0] == 'D' and begin <= job.cur_nimg < end and phase_d.opt.param_groups[0]['lr'] > above_lr:
            next(p for p in job.training.D.parameters()).grad.fill_(float('nan'))
    job.training.loss.accumulate_gradients = accumulate_nan
    return job


def test_steps_left_out_are_told_with_their_images_and_seeds(tiny_data, tmp_path):
    job = poison(make_run(short_run(tiny_data), tmp_path), 16, 32)
    assert job.run()
    lines = read_lines(str(tmp_path / BAD_STEPS_FILE))
    assert [(line['phase'], line['cur_nimg'], line['batch_idx'], line['in_a_row'])
            for line in lines] == [('Dmain', 16, 2, 1), ('Dmain', 24, 3, 2)]
    assert (lines[0]['images'] == job.training.reals.batch(16).idx.tolist()
            and lines[0]['seeds'] == [step_seed(0, 0, 16)])
    assert all(p.isfinite().all() for p in job.training.D.parameters()) and job.state.history == []


def rolled_back(data, run_dir, **kwargs):
    """NaN from 40 images on, until the learning rate is halved; two steps in a row are too many."""
    config = short_run(data, '--max-bad-steps=2', network_snapshot_ticks=2)
    job = make_run(config, run_dir)
    job = poison(job, 40, above_lr=config.D_opt_kwargs['lr'] * 0.9 * 16 / 17)
    return job


def test_too_many_bad_steps_go_back_to_the_last_good_state(tiny_data, tmp_path, capsys):
    """With half the learning rate; it is part of the history, and a run continued after it is the same."""
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    job = rolled_back(tiny_data, whole)
    assert job.run()
    event = dict(event='rollback', cur_nimg=56, to=32, phase='Dmain', lr_factor=0.5)
    assert job.state.history == [event]
    assert 'Back to 0.032 kimg, with 0.5 times the learning rate.' in capsys.readouterr().out
    assert [(line['cur_nimg'], line['rollbacks'])
            for line in read_lines(str(whole / BAD_STEPS_FILE))] == [(40, 0), (48, 0)]
    assert [round(line['Progress/tick']['mean']) for line in read_lines(str(whole / STATS_FILE))] == list(range(10))
    lrs = {phase.opt.param_groups[0]['lr'] for phase in job.training.phases}
    half = presets.PRESETS['demo'].lr / 2
    assert sorted(lrs) == pytest.approx([half * 4 / 5, half * 16 / 17])
    card = model_card.make_card(str(whole / 'network-snapshot-000000.080.safetensors'))
    assert 'from 0.056 kimg to 0.032 kimg, learning rate times 0.5' in card

    job = rolled_back(tiny_data, parts)
    iterate = job._iteration
    job._iteration = lambda: iterate() if not (job.state.history
                                               and job.cur_nimg == 40) else (_ for _ in ()).throw(UserError('end'))
    with pytest.raises(UserError, match='^end$'):
        job.run()
    assert rolled_back(tiny_data, parts).run()
    assert differences(whole, parts) == []


def test_a_state_saved_among_bad_steps_is_not_gone_back_to(tiny_data, tmp_path):
    config = short_run(tiny_data, '--max-bad-steps=4')
    job = poison(make_run(config, tmp_path), 24, above_lr=config.D_opt_kwargs['lr'] * 0.9 * 16 / 17)
    assert job.run()                    # a state after each iteration, three of them among bad steps
    assert [(event['cur_nimg'], event['to']) for event in job.state.history] == [(56, 24)]


def test_a_state_among_bad_steps_does_not_replace_the_one_before_it(tmp_path):
    write = lambda nimg, in_a_row: state_files.write(str(tmp_path), {}, dict(
        cur_nimg=nimg,
        state=dict(bad_steps=checkpoint.flatten('', dict(in_a_row=dict(Dmain=in_a_row), exceeded=None))[1])))
    kept = lambda: [checkpoint.load_info(path, state_files.KIND)['cur_nimg']
                    for path in run_files.state_paths(tmp_path)]
    found = []
    for nimg, in_a_row in enumerate([0, 0, 1, 2, 3, 0, 0]):
        write(nimg, in_a_row)
        found.append(kept())
    assert found == [[0], [1, 0], [2, 1], [3, 1], [4, 1], [5, 1], [6, 5]]


@pytest.mark.parametrize('args, begin, message', [
    (['--on-bad-steps=stop'], 24, r'the last 2 steps of Dmain up to 0.04 kimg were left out: '
                                  r'.*--on-bad-steps=rollback'),
    ([], 24, r'the last 2 steps of Dmain up to 0.04 kimg were left out.*, after 3 rollbacks; the last state is kept'),
    ([], 0, r'there is no good state to go back to; bad-steps.jsonl lists them')])
def test_bad_steps_that_end_the_run(args, begin, message, tiny_data, tmp_path):
    job = poison(make_run(short_run(tiny_data, '--max-bad-steps=2', *args, network_snapshot_ticks=3), tmp_path), begin)
    with pytest.raises(UserError, match=message):
        job.run()
    assert job.cur_nimg < 80


def test_a_value_that_is_not_finite_spoils_no_statistic():
    collector = training_stats.Collector('test_faults')
    training_stats.report('test_faults', [1.0, float('nan'), 3.0, float('inf')])
    collector.update()
    assert (collector.num('test_faults'), collector.mean('test_faults')) == (2, 2)
