"""A run in parts equals the run in one piece."""

import json

import pytest
from resuming import differences, free_port, make_run, run, run_pair, start, tick_lines
from small_runs import STYLEGAN2, make_config

from dnnlib import UserError
from training.launch import launch
from training.run.files import BAD_STEPS_FILE, LOG_FILE, STATS_FILE
from training.run.records import forget_after

# Texts whose words the teacher knows: with others all correlations are one, and a loss of 0 is the rounding of sums.
METHODS = [[], *([f'--kd={methods}', '--kd-teacher=demo', f'--kd-preset={preset}',
                  *(['--kd-texts=demo'] if 'cgkd' in methods else [])]
                 for preset in ('paper', 'released') for methods in ('agkd', 'cgkd', 'agkd,cgkd'))]
# Each preset and each method at least once
PAIRS = [(cfg, METHODS[i % len(METHODS)]) for i, cfg in enumerate(STYLEGAN2)]
OTHER_PAIRS = [(cfg, kd) for cfg in STYLEGAN2 for kd in METHODS if (cfg, kd) not in PAIRS]


def name_of(value):
    return value if isinstance(value, str) else '-'.join(option.partition('=')[2] for option in value[:3:2]) or 'no kd'


def case(data, cfg, kd, gpus=1):
    """Six iterations in ticks of two; regularisation in some of them, as it is lazy."""
    classes = ['--cond=1'] if '--kd-preset=released' in kd else []
    config = make_config(data, f'--cfg={cfg}', f'--gpus={gpus}', '--batch=8', '--aug=ada', *classes, *kd,
                         total_kimg=0.048, kimg_per_tick=0.016)
    if config.G_reg_interval is not None:
        config.update(G_reg_interval=2, D_reg_interval=4)
    return config


def check_parts(data, cfg, kd, folder):
    """Saved after three iterations, in the middle of a tick, cut off after four, and continued."""
    run(case(data, cfg, kd), folder / 'whole')
    run(case(data, cfg, kd), folder / 'parts', save_at=3, die_at=4)
    run(case(data, cfg, kd), folder / 'parts')
    assert differences(folder / 'whole', folder / 'parts') == []


@pytest.mark.parametrize('cfg, kd', PAIRS, ids=name_of)
def test_a_run_in_parts_is_the_whole_run(cfg, kd, tiny_data, tmp_path):
    check_parts(tiny_data, cfg, kd, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize('cfg, kd', OTHER_PAIRS, ids=name_of)
def test_a_run_in_parts_is_the_whole_run_with_everything(cfg, kd, tiny_data, tmp_path):
    check_parts(tiny_data, cfg, kd, tmp_path)


@pytest.mark.parametrize('pairs', [PAIRS[3:4], pytest.param(PAIRS, marks=pytest.mark.soak)], ids=['one', 'all'])
def test_two_processes_in_parts_are_the_whole_run(pairs, tiny_data, tmp_path):
    cases = [(case(tiny_data, cfg, kd, gpus=2), str(tmp_path / f'{cfg}-whole'), str(tmp_path / f'{cfg}-parts'))
             for cfg, kd in pairs]
    port = free_port()
    processes = [start(run_pair, cases, port, rank) for rank in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert {cfg: differences(whole, parts)
            for (cfg, _), (_, whole, parts) in zip(pairs, cases, strict=True)} == {cfg: [] for cfg, _ in pairs}


def test_no_line_is_doubled_or_lost(tiny_data, tmp_path):
    """Ticks that the state does not know are told once more, in its place."""
    config = make_config(tiny_data, '--batch=8', '--cfg=demo', total_kimg=0.048, kimg_per_tick=0.008,
                         network_snapshot_ticks=2)
    run_dir = tmp_path / 'run'
    job = make_run(config, run_dir)
    iterate = job._iteration
    job._iteration = lambda: iterate() if job.training.batch_idx < 5 else (_ for _ in ()).throw(UserError('end'))
    with pytest.raises(UserError, match='end'):
        job.run()
    (run_dir / LOG_FILE).write_text('a line\n' + ''.join(f'tick {i}     kimg ...\n' for i in range(5)) + 'another\n')
    assert len((run_dir / STATS_FILE).read_text().splitlines()) == 5
    launch(config, str(run_dir))
    kimg = [json.loads(line)['Progress/kimg']['mean'] for line in (run_dir / STATS_FILE).read_text().splitlines()]
    assert kimg == pytest.approx([0.008 * (i + 1) for i in range(6)])
    assert tick_lines(run_dir) == list(range(6))
    assert 'a line\n' in (run_dir / LOG_FILE).read_text() and 'another\n' in (run_dir / LOG_FILE).read_text()


def test_what_a_state_does_not_know_is_forgotten(tmp_path):
    lines = lambda *records: ''.join(json.dumps(record) + '\n' for record in records)
    (tmp_path / STATS_FILE).write_text(lines(*({'Progress/kimg': {'mean': kimg}} for kimg in (1, 2, 3))) + '{"cut o')
    (tmp_path / 'metric-fid5k_full.jsonl').write_text(lines(dict(cur_nimg=2000), dict(cur_nimg=None),
                                                            dict(cur_nimg=2001)))
    steps = [dict(rollbacks=0, cur_nimg=2900), dict(rollbacks=1, cur_nimg=1900), dict(rollbacks=1, cur_nimg=2000),
             dict(rollbacks=2, cur_nimg=10)]
    (tmp_path / BAD_STEPS_FILE).write_text(lines(*steps))
    forget_after(str(tmp_path), 2000, 2, rollbacks=1)
    read = lambda name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [record['Progress/kimg']['mean'] for record in read(STATS_FILE)] == [1, 2]
    assert read('metric-fid5k_full.jsonl') == [dict(cur_nimg=2000), dict(cur_nimg=None)]
    assert read(BAD_STEPS_FILE) == steps[:2]


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path):
    """A full disk, or a kill: what is appended to it would be lost."""
    line = json.dumps({'Progress/kimg': {'mean': 1}}) + '\n'
    (tmp_path / STATS_FILE).write_text(line + '{"cut o')
    forget_after(str(tmp_path), 2000, 2)
    assert (tmp_path / STATS_FILE).read_text() == line
