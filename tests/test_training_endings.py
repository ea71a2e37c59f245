"""How a run ends: killed, full disk, crash, errors in several processes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import parse_options, run_cli, shrink
from small_runs import KD, make_config, make_run

import train
from dnnlib import UserError
from torch_utils import checkpoint
from training.launch import launch
from training.run.files import STATE_FILE
from training.run.find import find_run

ROOT = pathlib.Path(__file__).parent.parent


def test_a_snapshot_that_somebody_moves_away_does_not_stop_the_training(tiny_data, tmp_path):
    job = make_run(make_config(tiny_data, '--batch=8', '--snapshot-keep=last=1', total_kimg=0.008,
                               metrics=['clipfid8_full']), tmp_path)
    report = job.store.metrics_measured
    job.store.metrics_measured = lambda nimg: (os.remove(job.store.snapshot_path(nimg)), report(nimg))
    teacher = dict(func_name='kd_plugin.teacher.load_teacher', name='demo')
    job.config.metric_kwargs = dict(func_name='metrics.metric_main.calc_and_report', teacher_kwargs=teacher)
    assert job.run() and not list(tmp_path.glob('network-snapshot*'))


def test_what_a_killed_process_left_unfinished_is_removed(tiny_data, tmp_path):
    (tmp_path / 'network-snapshot-000000.safetensors.0a1b2c3d.tmp').write_bytes(b'half')
    assert not make_run(make_config(tiny_data, '--batch=8'), tmp_path).resume()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_snapshot_time_is_one_line_and_leaves_nothing(tiny_data, tmp_path, monkeypatch):
    import safetensors.torch
    job = make_run(make_config(tiny_data, '--batch=8', total_kimg=0.008), tmp_path)

    def fail(tensors, name, metadata):
        with open(name, 'wb') as f:
            f.write(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(safetensors.torch, 'save_file', fail)
    with pytest.raises(UserError, match='network-snapshot-000000.safetensors: cannot be written: the disk is full; '
                                        'free some space and run'):
        job.run()
    assert not [p.name for p in tmp_path.iterdir() if 'tmp' in p.name or 'safetensors' in p.name]


def test_a_run_that_crashed_after_its_last_step_is_not_complete(tiny_data, tmp_path):
    """What is missing, snapshot or metric, is made up for by the same command; ticks are not told twice."""
    args = [f'--outdir={tmp_path}', f'--data={tiny_data}', '--device=cpu', '--batch=8', '--kimg=0.016', '--tick=0.008',
            '--metrics=clipfid20_full', '--metric-teacher=demo', '--workers=0']
    config = shrink(train.build_config(parse_options(*args))[0])
    run_dir, status = find_run(str(tmp_path), config, 'run', new_run=False)
    assert status == 'new'
    os.makedirs(run_dir)
    pathlib.Path(run_dir, 'training_options.json').write_text(json.dumps(config))
    crashing = make_run(config, run_dir)
    crashing.evaluate = lambda: (_ for _ in ()).throw(OSError('crash'))
    with pytest.raises(OSError, match='crash'):
        crashing.run()
    snapshot = pathlib.Path(run_dir, 'network-snapshot-000000.016.safetensors')
    snapshot.unlink()
    assert find_run(str(tmp_path), config, 'run', new_run=False) == (run_dir, 'continue')
    launch(config, run_dir)
    assert (snapshot.is_file()
            and len(pathlib.Path(run_dir, 'metric-clipfid20_full.jsonl').read_text().splitlines()) == 1)
    assert find_run(str(tmp_path), config, 'run', new_run=False) == (run_dir, 'complete')
    kimg = [json.loads(line)['Progress/kimg']['mean']
            for line in pathlib.Path(run_dir, 'stats.jsonl').read_text().splitlines()]
    assert kimg == pytest.approx([0.008, 0.016])


def test_a_run_that_never_began_leaves_nothing(tiny_data, tmp_path):
    """The filters of bgcf are larger than the images, which shows in the first step only."""
    code, output = run_cli(train.main, f'--outdir={tmp_path}', f'--data={tiny_data}', '--cfg=demo', '--batch=8',
                           '--aug=fixed', '--p=1', '--augpipe=bgcf', '--metrics=none', '--device=cpu', '--workers=0')
    assert code == 1 and 'Error: ' in output and list(tmp_path.iterdir()) == []


def two_processes(outdir, data, *args):
    """train.py on small networks."""
    command = [sys.executable, 'tests/failing_train.py', f'--outdir={outdir}', f'--data={data}', '--cfg=demo',
               '--gpus=2', '--batch=8', '--device=cpu', '--tick=0.008', '--metrics=none', '--workers=0', *args]
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, timeout=1000)


def test_two_processes_train_together(tiny_data, tmp_path):
    """--gpus=2 on the CPU, with every method: it runs, both halves of a batch are used, and the networks stay
    finite."""
    result = two_processes(tmp_path, tiny_data, '--kimg=0.016', '--aug=ada', '--lecam=0.1', '--apa', '--insgen',
                           '--vision-aided=demo', '--vision-aided-warmup=0', '--val-fraction=0.25', '--health=5', *KD)
    assert result.returncode == 0, result.stdout + result.stderr
    run_dir, = tmp_path.iterdir()
    stats = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    assert stats[-1]['Progress/kimg']['mean'] == pytest.approx(0.016)
    assert stats[-1]['Loss/scores/real']['num'] == 8                    # per tick of one iteration, over both processes
    assert stats[-1]['Health/scores/validation']['num'] == 3 and 0 <= stats[-1]['Health/copies']['mean'] <= 1
    tensors, _ = checkpoint.load(str(run_dir / STATE_FILE), 'training-state')
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())
    assert tensors['loss.terms.insgen.real.position'] == 16             # keys of both


def test_an_error_in_several_processes_is_one_line(tiny_data, tmp_path):
    result = two_processes(tmp_path, tiny_data, '--kimg=0.016', '--aug=fixed', '--p=1', '--augpipe=bgcf')
    assert result.returncode == 1 and 'Traceback' not in result.stderr and result.stderr.count('Error: ') == 1
    assert list(tmp_path.iterdir()) == []
