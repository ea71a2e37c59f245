"""Continuing with other options, other images, or a configuration of an earlier version."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from half_runs import half_a_run  # noqa: F401  (a fixture)
from resuming import read_json

import dnnlib
from dnnlib import UserError
from dnnlib.metric_records import read_lines
from torch_utils import devices
from training.run import changes as run_changes
from training.run import files as run_files
from training.run.files import STATE_FILE
from training.run.find import OPTIONS_FILE
from training.run.lock import LOCK_FILE, RunLock

TAKE = 'import os, sys, time; from training.run.lock import RunLock; lock = RunLock(sys.argv[1]); lock.take()'


def test_other_options_are_refused_with_the_list_of_differences(half_a_run, tmp_path):  # noqa: F811
    run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
    code, output = half_a_run('--nhwc=0', '--batch-gpu=4')
    assert code == 1 and f'Error: {run_dir} is not complete and was started with --batch-gpu=8, now 4; ' in output
    assert '; --nhwc=1, now 0. To continue' in output
    assert f'use --new-run=1 for another run, or --fork-from={run_dir} to start one' in output
    assert half_a_run('--nhwc=0', '--new-run=1')[0] == 0
    assert (tmp_path / 'runs' / '00001-tiny-demo-kimg0.016-batch8').is_dir()
    # Changes nothing that is trained
    code, output = half_a_run('--snap=2', '--max-bad-steps=7', '--snapshot-networks=all')
    assert code == 0 and f'Continuing {run_dir} at 0.0 kimg' in output


def test_a_run_keeps_the_precision_of_the_processor_that_it_began_on(half_a_run, tmp_path, monkeypatch):  # noqa: F811
    """Its command means it on one without bfloat16 too, also when it is complete; what is asked for counts as ever."""
    run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: False)
    code, output = half_a_run()
    assert code == 0 and f'Continuing {run_dir} at' in output
    saved = read_json(run_dir / OPTIONS_FILE)
    assert saved['fp32'] is False and saved['G_kwargs']['synthesis_kwargs']['half_dtype'] == 'bfloat16'
    assert f'{run_dir} is complete' in half_a_run()[1] and f'{run_dir} is complete' in half_a_run('--fp32=0')[1]
    output = half_a_run('--fp32=1', '--dry-run')[1]
    assert f'Output directory:  {tmp_path / "runs" / "00001-tiny-demo-kimg0.016-batch8-fp32"}\n' in output


def test_moved_images_are_those_of_all_parts(half_a_run, tiny_data, tmp_path):  # noqa: F811
    """On a CPU, where the precision of the run's first processor is kept."""
    here, moved = shutil.copytree(tiny_data, tmp_path / 'here' / 'tiny'), tmp_path / 'tiny'
    kd = '--kd=agkd', '--kd-teacher=demo'
    assert half_a_run(*kd, data=here)[0] == 0
    shutil.move(here, moved)
    code, output = half_a_run(*kd, '--kimg=0.024', data=moved)
    run_dir, = (tmp_path / 'runs').glob('00001-*')
    assert code == 0 and f'Continuing {run_dir} at' in output
    saved = read_json(run_dir / OPTIONS_FILE)
    assert saved['terms']['kd']['training_set_kwargs']['path'] == str(moved)


def test_one_command_at_a_time_trains_in_a_folder(half_a_run, tmp_path):  # noqa: F811
    run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
    state = (run_dir / STATE_FILE).read_bytes()
    hold = f'{TAKE}\nprint("held", flush=True); sys.stdin.read()'
    other = subprocess.Popen([sys.executable, '-c', hold, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b'held\n'
    code, output = half_a_run()
    assert code == 1 and (f'Error: {run_dir}: another process is training in this folder; wait until it has ended, or '
                          'use --new-run=1') in output
    assert (run_dir / STATE_FILE).read_bytes() == state
    other.communicate()
    assert half_a_run()[0] == 0


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(UserError, match=r'\.lock: .*Is a directory'):
        RunLock(str(tmp_path)).take()


def test_a_forked_process_has_no_part_in_the_lock(tmp_path):
    """As DataLoader workers are, which live on for a while after their parent was killed."""
    code = f'{TAKE}\nif not (child := os.fork()): os.close(1); time.sleep(60)\nprint(child, flush=True)\nos._exit(0)'
    child = int(subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(tmp_path)], stdout=subprocess.PIPE,
                               check=True).stdout)
    try:
        lock = RunLock(str(tmp_path))
        lock.take()
        os.kill(child, 0)                                                   # it lives, and does not hold the lock
        assert lock.file is not None
        lock.close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_snapshot_of_the_same_thousand_images_is_measured(half_a_run, tmp_path, monkeypatch):  # noqa: F811
    """Its name is that of the one before it."""
    monkeypatch.setattr(run_files, 'kimg_label', lambda _cur_nimg, _kimg_per_tick: '000000')
    args = '--metrics=featfid16_full', '--metric-teacher=demo'
    assert half_a_run(*args)[0] == 0 and half_a_run(*args, '--kimg=0.024')[0] == 0
    path = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8' / 'metric-featfid16_full.jsonl'
    assert [record['cur_nimg'] for record in read_lines(str(path))] == [16, 24]


def test_other_images_are_refused(half_a_run, tiny_data, tmp_path):  # noqa: F811
    """Of the same names and number, in the same place."""
    copy = tmp_path / 'copy'
    shutil.copytree(tiny_data, copy)
    picture = next(pathlib.Path(tiny_data).glob('*/*.png'))
    before = picture.read_bytes()
    try:
        PIL.Image.fromarray(np.zeros([16, 16, 3], dtype=np.uint8)).save(picture)
        run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
        state = (run_dir / STATE_FILE).read_bytes()
        code, output = half_a_run()
        assert code == 1 and f'these are not the images that {run_dir} was trained on so far' in output
        assert (run_dir / STATE_FILE).read_bytes() == state
    finally:
        picture.write_bytes(before)
    assert half_a_run()[0] == 0


def test_a_configuration_of_an_earlier_version():
    """Distillation was part of the loss, and some classes lay elsewhere."""
    before = dict(loss_kwargs=dict(class_name='kd_plugin.loss.KDLoss', r1_gamma=1, kd_kwargs=dict(teacher='x', seed=3)),
                  terms=dict(lecam=dict(class_name='training.lecam.LeCam', weight=0.1)),
                  observers=dict(validation=dict(class_name='training.validation.Validation')), batch_size=4,
                  batch_gpu_probed=2, fork_origin=dict(run='00000-x'))
    now = dict(loss_kwargs=dict(class_name='training.loss.StyleGAN2Loss', r1_gamma=1), batch_size=4,
               terms=dict(lecam=dict(class_name='training.methods.lecam.LeCam', weight=0.1),
                          kd=dict(class_name='kd_plugin.loss.Distillation', teacher='x', seed=3)),
               observers=dict(validation=dict(class_name='training.observers.validation.Validation')),
               found_out=dict(batch_gpu=2, fork_origin=dict(run='00000-x')))
    assert (run_changes.as_now(before) == now and run_changes.as_now(now) == now
            and list(now['terms']) == ['lecam', 'kd'])
    for class_name in run_changes.RENAMED.values():
        assert isinstance(dnnlib.util.get_obj_by_name(class_name), type)


def test_names_of_options_in_differences():
    saved = dict(random_seed=0, num_gpus=1, loss_kwargs=dict(r1_gamma=1),
                 terms=dict(kd=dict(seed=0, settings=dict(p=0.7, teacher_input='clip'))),
                 metrics=['a'], G_kwargs=dict(z_dim=8), batch_gpu=4)
    now = dict(random_seed=1, num_gpus=2, loss_kwargs=dict(r1_gamma=2),
               terms=dict(kd=dict(seed=1, settings=dict(p=1, teacher_input='raw'))),
               metrics=[], G_kwargs=dict(z_dim=9), batch_gpu=2)
    assert run_changes.differences(saved, now) == [
        '--seed=0, now 1', '--gpus=1, now 2', '--gamma=1, now 2', '--kd-p=0.7, now 1', '--kd-input=clip, now raw',
        'G_kwargs.z_dim=8, now 9', '--batch-gpu=4, now 2']
    growing = lambda p, kimg: dict(augment_p=p, augment_ramp_kimg=kimg)
    assert run_changes.differences(growing(0.5, 3), growing(0.2, 4)) == ['--p=0.5, now 0.2', '--p-kimg=3, now 4']
    assert (run_changes.differences({}, dict(compile=False)) == []
            and run_changes.differences(dict(w=0), {}) == ['w=0, now None'])
    precision = lambda blocks, fp32: dict(fp32=fp32, D_kwargs=dict(num_fp16_res=blocks))
    assert run_changes.differences(precision(4, False), precision(0, True)) == ['--fp32=0, now 1']
    assert run_changes.differences(precision(4, False), precision(3, False)) == ['D_kwargs.num_fp16_res=4, now 3']
    # As with --cfg=low-shot
    of_teacher = lambda fp32: dict(fp32=True, terms=dict(kd=dict(teacher_fp32=fp32)))
    assert run_changes.differences(of_teacher(False), of_teacher(True)) == ['--fp32=0, now 1']
    both = lambda fp32: dict(fp32=fp32, terms=dict(kd=dict(teacher_fp32=fp32)))
    assert run_changes.differences(both(False), both(True)) == ['--fp32=0, now 1']
    auto = dict(batch_gpu_auto=True)
    probed = dict(auto, batch_gpu=8, found_out=dict(batch_gpu=4))
    assert run_changes.differences(probed,
                                   dict(auto, batch_gpu=8)) == run_changes.differences(probed, dict(batch_gpu=4)) == []
    with_number = dict(batch_gpu=4, found_out=dict(batch_gpu=4))                # it was continued so
    assert run_changes.differences(with_number, dict(auto, batch_gpu=8)) == []
    assert run_changes.differences(probed, dict(batch_gpu=8)) == ['--batch-gpu=auto, now 8']
    assert run_changes.differences(dict(batch_gpu=8), dict(auto, batch_gpu=8)) == ['--batch-gpu=8, now auto']
    assert (run_changes.same_name('00003-x-auto2-ada', 'x-auto1-ada')
            and not run_changes.same_name('00003-x-auto1-ada', 'x-auto1'))
