"""What happens to a run when something breaks: kills, damaged files, a full disk, steps that are not finite, too little
memory, dead workers."""

import os
import pathlib
import random
import re
import signal
import time
import weakref

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli, shrink, wait_until
from resuming import differences, make_run, no_rest, read_json, run, start, tick_lines, train_in_process
from small_runs import make_config

import train
from dnnlib import UserError, util
from dnnlib.metric_records import read_lines
from torch_utils import checkpoint, distributed, training_stats
from torch_utils.seeds import step_seed
from torch_utils.stop_request import SIGNALS, StopRequest
from training import training as training_module
from training.config import presets
from training.dataset import ImageFolderDataset
from training.dataset.real_images import RealImages
from training.loss import StyleGAN2Loss
from training.methods.lecam import LeCam
from training.run import card as model_card
from training.run import files as run_files
from training.run import found_out, state_files
from training.run.files import BAD_STEPS_FILE, PREVIOUS_STATE_FILE, STATE_FILE, STATS_FILE
from training.run.find import OPTIONS_FILE
from training.speed import batch_probe
from training.training import Training


def short_run(data, *args, **changes):
    """Ten iterations, a state after each."""
    changes = dict(total_kimg=0.08, kimg_per_tick=0.008, network_snapshot_ticks=1, image_snapshot_ticks=None) | changes
    return make_config(data, '--cfg=demo', '--batch=8', '--aug=ada', *args, **changes)


# -- kills

def kill_at_some_moment(process, run_dir, moments):
    """After up to three more ticks and a part of one: in the start, in a step, in a write."""
    ticks = lambda: len(read_lines(os.path.join(run_dir, STATS_FILE)))
    wanted = ticks() + moments.choice([0, 1, 2, 3])
    wait_until(lambda: ticks() >= wanted or not process.is_alive())
    process.join(moments.uniform(0, 0.2))
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize('kills', [3, pytest.param(50, marks=pytest.mark.soak)])
def test_a_run_killed_at_any_moment_goes_on(kills, tiny_data, tmp_path):
    """SIGKILL, writing or not; what is there in the end is what an undisturbed run leaves."""
    num_ticks = 4 * kills + 4
    config = short_run(tiny_data, total_kimg=0.008 * num_ticks)
    whole, parts, output = (str(tmp_path / name) for name in ('whole', 'parts', 'output'))
    moments = random.Random(kills)
    for _ in range(kills):
        assert kill_at_some_moment(start(train_in_process, config, parts, output, None, False), parts, moments)
    for run_dir in (whole, parts):
        process = start(train_in_process, config, run_dir, output)
        process.join()
        assert process.exitcode == 0, pathlib.Path(output).read_text()
    assert differences(whole, parts) == [] and no_rest(parts)
    assert tick_lines(parts) == tick_lines(whole) == list(range(num_ticks))
    assert run_files.find_snapshots(whole) == run_files.find_snapshots(parts)


class Dead(BaseException):
    pass


@pytest.mark.parametrize('call', range(9))
def test_killed_between_any_two_calls_of_a_write_a_state_is_left(call, tmp_path, monkeypatch):
    """The calls that change names or reach the disk; nothing is tidied up after the one that was the last."""
    folder = str(tmp_path)
    for value in (1, 2):
        state_files.write(folder, dict(x=torch.full([4], value)), dict(cur_nimg=value, state={}))
    count = 0

    def counted(function):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count > call:
                raise Dead
            return function(*args, **kwargs)
        return wrapped
    with monkeypatch.context() as patch:
        for name in ('chmod', 'open', 'fsync', 'close', 'replace', 'remove'):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            state_files.write(folder, dict(x=torch.full([4], 3)), dict(cur_nimg=3, state={}))
        except Dead:
            pass
        else:
            pytest.fail('that many calls there are not: the last ones are not tested')
    told = []
    tensors, info = checkpoint.load(state_files.find(folder, told.append), state_files.KIND)
    assert told == [] and info['cur_nimg'] in (2, 3) and tensors['x'][0] == info['cur_nimg']


@pytest.mark.parametrize('sig', SIGNALS)
def test_a_signal_saves_and_ends_well(sig, tiny_data, tmp_path):
    """SIGINT, SIGTERM and what SLURM sends: the state is saved, the exit code 0."""
    config = short_run(tiny_data, total_kimg=80, network_snapshot_ticks=1000)
    output = tmp_path / 'output'
    process = start(train_in_process, config, str(tmp_path / 'run'), str(output))
    wait_until((tmp_path / 'run' / STATS_FILE).exists)
    os.kill(process.pid, sig)
    process.join()
    text = output.read_text()
    assert process.exitcode == 0 and f'{signal.Signals(sig).name}: stopping after this iteration' in text, text
    assert f'Stopped; the state is in {tmp_path / "run"}. The same command continues.' in text
    assert state_files.newest_info(str(tmp_path / 'run'))['cur_nimg'] >= 8


def test_only_a_second_ctrl_c_interrupts():
    told = []
    with StopRequest(told.append) as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert stop.requested and len(told) == 1


def test_a_signal_in_the_middle_of_a_print_counts():
    def tell(_text):
        raise RuntimeError('reentrant call inside <_io.BufferedWriter>')
    with StopRequest(tell) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed(0)


# -- damaged files

def flip(path, where):
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize('damage', ['truncated', 'empty', 0.0, 0.02, 0.5, 0.999])
def test_a_damaged_state_is_noticed_and_the_one_before_it_is_used(damage, tmp_path):
    """Numbers: where one bit is flipped, from the begin to the end of the file."""
    folder = str(tmp_path)
    info = dict(cur_nimg=1, text='x' * 200, state={})
    for value in (1, 2):
        state_files.write(folder, dict(x=torch.arange(value, value + 4000)), dict(info, cur_nimg=value))
    newest = tmp_path / STATE_FILE
    if isinstance(damage, float):
        flip(newest, damage)
    else:
        newest.write_bytes(newest.read_bytes()[:0 if damage == 'empty' else -5])
    told = []
    with pytest.raises(UserError):
        checkpoint.load(str(newest), state_files.KIND)
    path = state_files.find(folder, told.append)
    assert os.path.basename(path) == PREVIOUS_STATE_FILE and len(told) == 1
    assert re.fullmatch(r'Warning: .*training-state.safetensors: the file is damaged .*\. Going back to the state '
                        r'before it, at 0.001 kimg\.',
                        told[0])
    assert sorted(os.listdir(folder)) == [PREVIOUS_STATE_FILE, STATE_FILE + '.damaged']
    state_files.write(folder, dict(x=torch.zeros(4)), dict(info, cur_nimg=3))
    # Still there, should the new one fail
    assert checkpoint.load(path, state_files.KIND)[1]['cur_nimg'] == 1


def test_two_damaged_states_are_an_error(tmp_path):
    for _ in range(2):
        state_files.write(str(tmp_path), dict(x=torch.zeros(4)), dict(cur_nimg=1, state={}))
    for path in run_files.state_paths(tmp_path):
        flip(pathlib.Path(path), 0.99)
    with pytest.raises(UserError, match=f'{STATE_FILE}: the file is damaged .*--new-run=1'):
        state_files.find(str(tmp_path), print)


def test_every_bit_counts_and_files_without_a_checksum_load(tmp_path):
    import safetensors.torch
    path = tmp_path / 'x.safetensors'
    tensors = dict(a=torch.randn(2, 3), b=torch.tensor(1, dtype=torch.bfloat16), c=torch.zeros(0),
                   d=torch.tensor([True]))
    checkpoint.save(str(path), 'network', tensors, dict(text='abc'))
    whole = path.read_bytes()
    good = {name: value.clone() for name, value in checkpoint.load(str(path), 'network')[0].items()}
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1:])
        try:
            got, info = checkpoint.load(str(path), 'network')
        except UserError:
            continue
        # Where it says nothing
        assert info == dict(text='abc') and all(torch.equal(got[name], value) for name, value in good.items())
    metadata = dict(format='kdgan-network', version='1', info='{}')
    safetensors.torch.save_file(tensors, str(path), metadata=metadata)
    assert torch.equal(checkpoint.load(str(path), 'network')[0]['a'], tensors['a'])


def test_a_damaged_snapshot_is_not_blessed_by_adding_metrics(tmp_path):
    path = tmp_path / 'x.safetensors'
    checkpoint.save(str(path), 'network', dict(a=torch.randn(1000)), {})
    flip(path, 0.9)
    with pytest.raises(UserError, match='checksum'):
        checkpoint.update_info(str(path), 'network', lambda info: info)


def test_a_run_goes_on_from_the_state_before_a_damaged_one(tiny_data, tmp_path, capsys):
    config = short_run(tiny_data)
    run(config, tmp_path / 'whole')
    run(config, tmp_path / 'parts', die_at=5)
    flip(tmp_path / 'parts' / STATE_FILE, 0.9)
    run(config, tmp_path / 'parts')
    assert 'Going back to the state before it, at 0.024 kimg' in capsys.readouterr().out
    assert differences(tmp_path / 'whole', tmp_path / 'parts') == []


# -- a full disk

def test_a_full_disk_ends_the_run_with_one_line_and_the_last_state(tiny_data, tmp_path):
    """A limit on the size of files stands in: the state, which is the largest, hits it first."""
    run_dir, output = tmp_path / 'run', tmp_path / 'output'
    first = short_run(tiny_data, total_kimg=0.016)
    process = start(train_in_process, first, str(run_dir), str(output))
    process.join()
    assert process.exitcode == 0, output.read_text()
    before, size = (run_dir / STATE_FILE).read_bytes(), (run_dir / STATE_FILE).stat().st_size
    output.unlink()
    process = start(train_in_process, short_run(tiny_data), str(run_dir), str(output), size - 1000)
    process.join()
    text = output.read_text()
    assert process.exitcode == 1 and 'Traceback' not in text
    assert (len(re.findall('Error: .*', text)) == 1
            and f'{STATE_FILE}: cannot be written: the file is larger than the system allows' in text)
    assert (run_dir / STATE_FILE).read_bytes() == before and no_rest(run_dir)


def test_a_log_that_cannot_be_written_does_not_stop_the_printing(tmp_path, capsys):
    if not os.path.exists('/dev/full'):
        pytest.skip('there is no /dev/full')
    with util.Logger('/dev/full'):
        print('one')
        print('two')
    assert re.fullmatch(r'one\n*Warning: /dev/full cannot be written \(No space left on device\); what follows is '
                        r'printed only.\n\n*two\n',
                        capsys.readouterr().out)


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


# -- memory

@pytest.fixture
def small_memory(monkeypatch):
    """-> function that sets how many images at a time fit."""
    accumulate = StyleGAN2Loss.accumulate_gradients

    def limit(images, phases='GD'):
        def limited(self, phase, real_img, **kwargs):
            if len(real_img) > images and phase[0] in phases:
                raise torch.OutOfMemoryError('out of memory. Tried to allocate 1 GiB')
            return accumulate(self, phase=phase, real_img=real_img, **kwargs)
        monkeypatch.setattr(StyleGAN2Loss, 'accumulate_gradients', limited)
    return limit


def train_command(outdir, data, *args, monkeypatch):
    build = train.build_config
    with monkeypatch.context() as patch:
        patch.setattr(train, 'build_config', lambda opts: (lambda config, name: (shrink(config), name))(*build(opts)))
        return run_cli(train.main, f'--outdir={outdir}', f'--data={data}', '--device=cpu', '--metrics=none',
                       '--workers=0', '--cfg=demo',
                       '--batch=16', '--tick=0.016', '--kimg=0.032', *args)


def test_out_of_memory_says_which_batch_to_try(tiny_data, tmp_path, monkeypatch, small_memory):
    small_memory(8)
    code, output = train_command(tmp_path, tiny_data, monkeypatch=monkeypatch)
    assert code == 1 and 'out of memory with --batch-gpu=16 (out of memory. Tried to allocate 1 GiB); ' in output
    assert 'use --batch-gpu=8, or --batch-gpu=auto' in output
    assert list(tmp_path.iterdir()) == []
    small_memory(0)
    code, output = train_command(tmp_path, tiny_data, '--batch-gpu=4', monkeypatch=monkeypatch)
    assert code == 1 and 'a smaller --batch-gpu would change the minibatch statistics' in output
    code, output = train_command(tmp_path, tiny_data, '--batch-gpu=auto', monkeypatch=monkeypatch)
    assert code == 1 and 'not even 4 images at a time fit into memory' in output


@pytest.mark.parametrize('epilogue, smaller', [(dict(mbstd_num_channels=0), 6), (dict(mbstd_group_size=6), 6),
                                               (dict(mbstd_group_size=4), None),
                                               ({}, None), (dict(mbstd_group_size=None), None)])
def test_advice_for_any_discriminator(epilogue, smaller):
    """Without minibatch statistics, in groups of 4, as by default, and None = one group of the whole batch."""
    D_kwargs = dict(class_name='training.networks.Discriminator', epilogue_kwargs=epilogue)
    config = dict(batch_size=12, num_gpus=1, batch_gpu=12, batch_gpu_auto=False, D_kwargs=D_kwargs)
    text = str(batch_probe.advice(config, 'runs/x', torch.OutOfMemoryError('no memory')))
    assert text.startswith('runs/x: out of memory with --batch-gpu=12 (no memory); ')
    assert (f'use --batch-gpu={smaller}, or' in text) if smaller else ('would change the minibatch statistics' in text)


def test_the_largest_batch_that_fits_is_found_once(tiny_data, tmp_path, monkeypatch, small_memory):
    """The run is that of the same --batch-gpu, and continues with it where more would fit by then."""
    small_memory(8, phases='D')
    code, output = train_command(tmp_path / 'auto', tiny_data, '--batch-gpu=auto', '--kimg=0.016',
                                 monkeypatch=monkeypatch)
    assert code == 0 and output.count('--batch-gpu=auto: 8 images at a time.') == 1
    run_dir = tmp_path / 'auto' / '00000-tiny-demo-kimg0.016-batch16'
    assert (read_json(run_dir / OPTIONS_FILE)['batch_gpu'] == 16
            and read_json(run_dir / found_out.FILE)['batch_gpu'] == 8)
    small_memory(100)
    code, output = train_command(tmp_path / 'auto', tiny_data, '--batch-gpu=auto', monkeypatch=monkeypatch)
    assert code == 0 and 'Continuing' in output and read_json(run_dir / found_out.FILE)['batch_gpu'] == 8
    code, output = train_command(tmp_path / 'given', tiny_data, '--batch-gpu=8', monkeypatch=monkeypatch)
    assert code == 0 and differences(run_dir, tmp_path / 'given' / '00000-tiny-demo-kimg0.032-batch16') == []


def test_the_trials_leave_no_memory(tiny_data, tmp_path, small_memory):
    """A training refers to itself: what the one before it holds would count as used."""
    small_memory(4)
    trials = []

    def build(config):
        assert not any(trial() is not None for trial in trials)
        training = Training(config, torch.device('cpu'))
        trials.append(weakref.ref(training))
        return training
    assert batch_probe.largest(make_config(tiny_data, '--cfg=demo', '--batch=16'), build) == 4
    assert [trial() for trial in trials] == [None] * 3


@pytest.mark.parametrize('err', [torch.OutOfMemoryError('CUDA out of memory.'),
                                 RuntimeError('CUDNN_STATUS_ALLOC_FAILED')])
def test_what_joins_in_later_takes_part_in_the_trials(err, tiny_data, tmp_path, capsys, monkeypatch):
    """They are the last steps of the run. Nothing that they say is heard: every process takes itself for the first."""
    term, seen = LeCam.d_fake, []

    def limited(self, step):
        seen.append(self.active)
        distributed.print0('a step')
        if self.active and len(step.logits) > 4:
            raise err
        return term(self, step)
    monkeypatch.setattr(LeCam, 'd_fake', limited)
    config = make_config(tiny_data, '--cfg=demo', '--batch=16', '--kimg=1', '--lecam=0.1', '--lecam-start=0.9')
    assert batch_probe.largest(config, lambda c: Training(c, torch.device('cpu'))) == 4
    assert all(seen) and capsys.readouterr().out == ''


def test_the_compiler_takes_part_in_the_trials(tiny_data, tmp_path, monkeypatch):
    def limited(_loss, batch_size, _tell):
        if batch_size > 8:
            raise torch.OutOfMemoryError('CUDA out of memory.')
    monkeypatch.setattr(training_module, 'compile_main_phases', limited)
    config = make_config(tiny_data, '--cfg=demo', '--batch=16', '--compile=1')
    assert batch_probe.largest(config, lambda c: Training(c, torch.device('cpu'))) == 8


def test_a_trial_that_fails_for_another_reason_fails(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, 'step', lambda self: (_ for _ in ()).throw(RuntimeError('a bug')))
    with pytest.raises(RuntimeError, match='a bug'):
        batch_probe.largest(make_config(tiny_data, '--cfg=demo', '--batch=16'),
                            lambda c: Training(c, torch.device('cpu')))


def test_networks_that_do_not_fit_whatever_the_batch(tiny_data, tmp_path, monkeypatch):
    def build(*_args):
        raise torch.OutOfMemoryError('CUDA out of memory.')
    monkeypatch.setattr(training_module, 'build_networks', build)
    code, output = train_command(tmp_path, tiny_data, '--batch-gpu=auto', monkeypatch=monkeypatch)
    assert (code == 1
            and 'out of memory before the first step (CUDA out of memory.), where no --batch-gpu helps; use a smaller '
                '--cfg' in output)


def test_memory_is_not_blamed_on_another_process():
    with pytest.raises(torch.OutOfMemoryError), distributed._together():
        raise torch.OutOfMemoryError('CUDA out of memory.')
    with pytest.raises(distributed.PeerFailure, match='process 0 has lost another one'), distributed._together():
        raise RuntimeError('Connection closed by peer')


def test_batches_to_try():
    assert (list(batch_probe.sizes(32, 4)) == [32, 16, 8, 4] and list(batch_probe.sizes(12, 4)) == [12]
            and list(batch_probe.sizes(3, 1)) == [3])


# -- images

class Deadly(ImageFolderDataset):
    """An image on which the decoder takes the whole process down."""

    def __getitem__(self, idx):
        if idx == 4 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(idx)


@pytest.fixture
def soon(monkeypatch):
    """A dead worker is noticed at once."""
    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data,
                        '__defaults__', (0.2,))


@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded', 'ignore:This DataLoader will create')
@pytest.mark.usefixtures('soon')
def test_a_worker_that_dies_names_the_file(tiny_data):
    reals = RealImages(Deadly(tiny_data), 2, 'cpu', num_workers=2, memory_limit_gb=0)
    name = reals.dataset.files.names[4]
    with pytest.raises(UserError, match=f'{tiny_data}: a worker process died while reading {name} .*check that '
                                        'image') as err:
        for cur_nimg in range(0, 12, 2):
            reals.batch(cur_nimg)
    assert '\n' not in str(err.value)


@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded', 'ignore:This DataLoader will create')
@pytest.mark.usefixtures('soon')
def test_workers_that_a_signal_has_ended_are_started_again(tiny_data):
    """Whoever stops a job often signals all its processes."""
    dataset = ImageFolderDataset(tiny_data)
    want = RealImages(dataset, 2, 'cpu')
    reals = RealImages(dataset, 2, 'cpu', num_workers=1, memory_limit_gb=0)
    for i, cur_nimg in enumerate(range(0, 80, 2)):
        assert torch.equal(reals.batch(cur_nimg).idx, want.batch(cur_nimg).idx)
        if i == 3:
            children = pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
            for pid in children:
                if b'resource_tracker' not in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes():
                    os.kill(int(pid), signal.SIGTERM)


def test_the_damaged_image_of_a_run_is_named(tiny_data, tmp_path):
    folder = tmp_path / 'data'
    for i in range(4):
        (folder).mkdir(exist_ok=True)
        PIL.Image.fromarray(np.zeros([16, 16, 3], dtype=np.uint8)).save(folder / f'{i}.png')
    config = short_run(str(folder))
    (folder / '2.png').write_bytes((folder / '2.png').read_bytes()[:-30])
    with pytest.raises(UserError, match=r'data: 2.png is damaged'):
        make_run(config, tmp_path / 'run').run()
