"""What happens to a run when it is killed, a file is damaged, the disk is full or a worker dies."""

import os
import pathlib
import random
import re
import signal
import time

import pytest
import torch
from conftest import wait_until
from resuming import differences, no_rest, run, start, tick_lines, train_in_process
from small_runs import short_run

from dnnlib import UserError, util
from dnnlib.metric_records import read_lines
from torch_utils import checkpoint
from torch_utils.stop_request import SIGNALS, StopRequest
from training.run import files as run_files
from training.run import state_files
from training.run.files import PREVIOUS_STATE_FILE, STATE_FILE, STATS_FILE

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
