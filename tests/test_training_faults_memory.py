"""What happens to a run when there is too little memory, or a worker or an image is damaged."""

import os
import pathlib
import re
import signal
import weakref

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli, shrink
from resuming import differences, make_run, read_json
from small_runs import make_config, short_run

import train
from dnnlib import UserError
from torch_utils import distributed
from training import training as training_module
from training.dataset import ImageFolderDataset
from training.dataset.real_images import RealImages
from training.loss import StyleGAN2Loss
from training.methods.lecam import LeCam
from training.run import found_out
from training.run.find import OPTIONS_FILE
from training.speed import batch_probe
from training.training import Training

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
                       '--workers=0', '--cfg=demo', '--batch=16', '--tick=0.016', '--kimg=0.032', *args)


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
                                               (dict(mbstd_group_size=4), None), ({}, None),
                                               (dict(mbstd_group_size=None), None)])
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


def test_the_trial_is_as_long_as_the_documentation_says():
    text = ' '.join((pathlib.Path(__file__).parent.parent / 'docs' / 'resume.md').read_text().split())
    found = re.search(r'until (\w+) trial iterations \((\d+) with `--cuda-graphs=1`\)', text).groups()
    assert found == ({5: 'five'}[batch_probe.ITERATIONS], str(batch_probe.RECORDING_ITERATIONS))


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
