"""The training loop: one iteration and many."""

import json
import os
import signal

import PIL.Image
import pytest
import torch
from small_runs import KD, STYLEGAN2, make_config, make_run, trained

import dnnlib
from dnnlib import UserError
from inference.trained_on import real_images
from training.observers import early_stop
from training.run.files import PREVIOUS_STATE_FILE, STATE_FILE
from training.run.find import OPTIONS_FILE
from training.snapshots import files as snapshots


@pytest.mark.parametrize('fp32', [0, 1])
def test_precision_reaches_every_teacher(fp32, tiny_data, tmp_path):
    config = make_config(tiny_data, '--batch=8', f'--fp32={fp32}', '--vision-aided=demo',
                         '--vision-aided-warmup=0', *KD)
    terms = make_run(config, tmp_path).training.loss.terms
    teachers = [terms['kd'].teacher, *[levels.teacher for levels in terms['vision_aided'].teachers]]
    assert [teacher.precision for teacher in teachers] == [['bfloat16', 'float32'][fp32]] * 2


def test_metrics_against_other_images(tiny_data, tmp_path):
    """--metric-data: --early-stop and --snapshot-keep decide by them, calc_metrics.py takes them up; other ones are
    another protocol."""
    for name, number in (('test', 3), ('other', 4)):
        (tmp_path / name).mkdir()
        for i in range(number):
            PIL.Image.new('RGB', (16, 16), (50 * i, 0, 0)).save(tmp_path / name / f'{i}.png')
    options = ('--batch=8', '--kimg=0.016', '--tick=0.008', '--snap=1', '--metrics=clipfid8_full',
               '--metric-teacher=demo', '--early-stop=metric=clipfid8_full,patience=2', '--snapshot-keep=last=1,best=1')
    trained(make_config(tiny_data, *options, f'--metric-data={tmp_path / "test"}'), tmp_path / 'run')
    config = make_config(tiny_data, *options, '--kimg=0.024', f'--metric-data={tmp_path / "other"}')
    trained(config, tmp_path / 'run')
    (tmp_path / 'run' / OPTIONS_FILE).write_text(json.dumps(config))
    records = [json.loads(line) for line in (tmp_path / 'run' / 'metric-clipfid8_full.jsonl').read_text().splitlines()]
    assert [(r['cur_nimg'], r['reference']['dataset'], r['reference']['images']) for r in records] == \
        [(8, 'test', 3), (16, 'test', 3), (24, 'other', 4)]
    assert [r['cur_nimg'] for r in early_stop.history(str(tmp_path / 'run'), 'clipfid8_full', 16)] == [8, 16]
    assert [r['cur_nimg'] for r in early_stop.history(str(tmp_path / 'run'), 'clipfid8_full', 24)] == [24]
    best_by_test = min(records[:2], key=lambda record: record['value'])['snapshot']
    kept = {path.name for path in (tmp_path / 'run').glob('network-snapshot-*')}
    assert kept == {best_by_test, records[2]['snapshot']}
    info = snapshots.load_info(str(tmp_path / 'run' / records[2]['snapshot']))
    network = str(tmp_path / 'run' / records[2]['snapshot'])
    assert real_images(None, '--ref', network, info, measured=True)['path'] == str(tmp_path / 'other')


@pytest.mark.parametrize('cfg', STYLEGAN2)
def test_one_iteration_of_every_preset(cfg, tiny_data, tmp_path):
    """Batch, schedule, losses and architecture are the preset's; only the number of channels is smaller."""
    config = make_config(tiny_data, f'--cfg={cfg}', '--aug=ada', *KD)
    config.total_kimg = config.batch_size / 1000
    config.kimg_per_tick = config.total_kimg
    job = make_run(config, tmp_path)
    before = {name: p.clone() for name, p in [*job.training.G.named_parameters(), *job.training.D.named_parameters()]}
    assert job.run()
    after = dict([*job.training.G.named_parameters(), *job.training.D.named_parameters()])
    assert all(p.isfinite().all() for p in after.values())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {'mapping.fc0.weight', 'synthesis.b16.conv1.weight', 'b16.conv0.weight', 'b4.out.weight'} <= moved
    assert any(p.abs().max() > 0 for p in job.training.loss.terms.parameters())


@pytest.mark.parametrize('options, p', [
    (['--aug=ada'], 0), (['--aug=fixed', '--p=0.25'], 0.25), (['--aug=linear', '--p=0.25', '--p-kimg=1'], 0)])
def test_where_the_augmentation_probability_begins(options, p, tiny_data, tmp_path):
    assert make_run(make_config(tiny_data, '--batch=8', *options), tmp_path).training.augment_pipe.p.item() == p


def test_a_probability_that_grows_linearly(tiny_data, tmp_path):
    """From 0 to 0.5 over 32 images, in a run that is stopped after 24 and continued."""
    options = ['--batch=8', '--aug=linear', '--p=0.5', '--p-kimg=0.032']
    p = lambda kimg: trained(make_config(tiny_data, *options, total_kimg=kimg, kimg_per_tick=0.024),
                             tmp_path)[0]['augment_pipe.p']
    assert [round(p(kimg).item(), 6) for kimg in (0.024, 0.048)] == [0.375, 0.5]
    with pytest.raises(UserError, match='--aug=linear: needs a probability and when it is reached; add --p=0.6 '
                                        '--p-kimg=300'):
        make_config(tiny_data, '--aug=linear', '--p=0.5')


@pytest.mark.parametrize('method', ['--insgen', '--fakeclr'])
def test_a_probability_that_stays_0_is_no_augmentation(tiny_data, method):
    """--aug=linear with the last probability 0 is what --aug=fixed with 0 is; methods that need one notice."""
    linear, fixed = ['--aug=linear', '--p=0', '--p-kimg=3'], ['--aug=fixed', '--p=0']
    trained = lambda options: {key: value for key, value in make_config(tiny_data, *options).items()
                               if key != 'options_given'}
    assert trained(linear) == trained(fixed)
    assert make_config(tiny_data, *linear).augment_kwargs is None
    with pytest.raises(UserError, match=f'{method}: without augmentation'):
        make_config(tiny_data, method, *linear)


def test_labels_of_the_fakes_are_drawn_as_often_as_in_the_data(tmp_path):
    """Three images of one class, nine of another; every step and every phase has latents and labels of its own."""
    for i in range(12):
        path = tmp_path / 'data' / ('a' if i < 3 else 'b') / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new('RGB', (16, 16), (20 * i, 0, 0)).save(path)
    config = make_config(tmp_path / 'data', '--cond=1', '--batch=8', '--aug=noaug')
    config.observers['near_copies']['num_fakes'] = 200
    job, seen = make_run(config, tmp_path / 'run'), []
    for phase in job.training.phases:
        job.training.accumulate[phase.name] = lambda _img, _c, _idx, gen_z, gen_c: seen.append((gen_z, gen_c))
    for _ in range(40):
        job.training.step()
    job.observers['near_copies'].start(job.training)
    for labels in (torch.cat([gen_c for _z, gen_c in seen]), job.observers['near_copies'].c):
        assert len(labels) >= 200 and (labels.sum(dim=1) == 1).all()
        assert labels[:, 0].mean().item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(labels)) ** 0.5)
    assert len(seen) == 40 * 2 + 10 + 3
    assert len({tuple(z.flatten().tolist()) for z, _c in seen}) == len(seen)


def test_averages_and_probabilities_count_all_images_of_a_step(tiny_data, tmp_path):
    """G_ema is a copy until 16 images are seen, then its half-life is half of what has been seen, at most 10 images;
    micro-batches of 4 of 8 images change nothing in that, nor in ADA's steps."""
    config = make_config(tiny_data, '--cfg=demo', '--batch=8', '--batch-gpu=4', '--aug=ada',
                         ema_kimg=0.010, ema_rampup=0.5, ema_start_kimg=0.016)
    job = make_run(config, tmp_path)
    assert job.training.ada.step_size == pytest.approx(8 * 4 / 500_000)
    weight = lambda network: network.synthesis.b16.conv1.weight.detach().clone()
    for nimg, half_life in [(0, 0), (8, 0), (16, 8), (24, 10)]:
        before = weight(job.training.G_ema)
        job.training.step()
        kept = 0.5 ** (8 / half_life) if half_life else 0
        torch.testing.assert_close(weight(job.training.G_ema), kept * before + (1 - kept) * weight(job.training.G))
        assert job.cur_nimg == nimg + 8 and not torch.equal(before, weight(job.training.G))


def test_the_seed_reaches_everything_that_draws(tiny_data, tmp_path, monkeypatch):
    """Weights, order of the images, draws of distillation, latents of the grid and of the health figures, metrics."""
    calls, drawn = [], []
    for seed in (0, 5):
        config = make_config(tiny_data, f'--seed={seed}', '--batch=8', '--kd=agkd', '--kd-teacher=demo')
        config.metrics = ['clipfid20_full']
        job = make_run(config, tmp_path / str(seed))
        job._start_progress()
        with monkeypatch.context() as patch:
            patch.setattr(dnnlib.util, 'call_func_by_name', lambda **kwargs: calls.append(kwargs))
            job.evaluate()
        health = job.observers['near_copies']
        health.start(job.training)
        job.progress.close()
        assert (calls[-1]['seed'], calls[-1]['G'] is job.training.G_ema) == (seed, True)
        agkd = job.training.loss.terms['kd'].methods['agkd']
        draws = [agkd.start_step(8 * i) or agkd.aggregate for i in range(100)]
        order = job.training.reals.order.permutation(0).tolist()
        drawn.append([job.training.G.mapping.fc0.weight.tolist(), order, draws, health.z.tolist()])
    assert all(a != b for a, b in zip(*drawn, strict=True))


def test_what_a_run_leaves_behind(tiny_data, tmp_path):
    config = make_config(tiny_data, '--cond=1', '--mirror=1', '--batch=8', '--kimg=0.032', '--tick=0.016', '--snap=1',
                         '--aug=ada', '--snapshot-networks=all', *KD, metrics=['clipfid20_full'])
    assert make_run(config, tmp_path).run()
    names = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith('events'))
    assert names == ['fakes000000.016.png', 'fakes000000.032.png', 'fakes_init.png', 'machine.jsonl',
                     'metric-clipfid20_full.jsonl', 'network-snapshot-000000.016.safetensors',
                     'network-snapshot-000000.032.safetensors', 'reals.png',
                     'report.html', 'stats.jsonl', PREVIOUS_STATE_FILE, STATE_FILE]
    stats = [json.loads(line) for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert len(stats) == 2 and stats[-1]['Progress/kimg']['mean'] == pytest.approx(0.032)
    wanted = {'Loss/G/loss', 'Loss/D/loss', 'Loss/KD/agkd_fake', 'Loss/KD/agkd_real', 'Loss/KD/cgkd_fake',
              'Loss/KD/diversity_student', 'KD/diversity_teacher', 'KD/agreement_real', 'KD/agreement_fake',
              'Loss/r1_penalty', 'Loss/pl_penalty', 'Loss/signs/real', 'Progress/augment', 'Timing/Gmain',
              'Timing/Dmain', 'Timing/sec_per_kimg', 'Progress/skipped_steps/Dmain', 'Resources/cpu_mem_gb'}
    assert wanted <= set(stats[0])
    snapshot = snapshots.load_networks(str(tmp_path / 'network-snapshot-000000.032.safetensors'))
    training = snapshot.info['training']
    assert set(snapshot.networks) == {'G', 'D', 'G_ema'} and training['class_names'] == ['blue', 'red']
    assert training['metrics'] == [json.loads(line)
                                   for line in (tmp_path / 'metric-clipfid20_full.jsonl').read_text().splitlines()[1:]]
    assert (training['dataset']['name'] == 'tiny' and training['dataset']['mirrored']
            and len(training['dataset']['content_hash']) == 64)
    assert snapshot.info['project_version'] == dnnlib.__version__
    assert snapshot.G_ema(torch.randn(2, 8), torch.eye(2)).shape == (2, 3, 16, 16)
    with PIL.Image.open(tmp_path / 'reals.png') as reals:
        assert reals.size == (32, 32)
    metric = json.loads((tmp_path / 'metric-clipfid20_full.jsonl').read_text().splitlines()[0])
    assert metric['value'] > 0 and metric['reference']['images'] == 12


def test_a_stopped_run_continues_where_it_was(tiny_data, tmp_path):
    """Ctrl-C ends the iteration, saves, and the next start goes on: the result is that of a run never stopped."""
    options = ['--batch=8', '--aug=ada']
    whole, _ = trained(make_config(tiny_data, *options, total_kimg=0.08, kimg_per_tick=0.08), tmp_path / 'whole')
    job = make_run(make_config(tiny_data, *options, total_kimg=0.08, kimg_per_tick=0.08), tmp_path / 'parts')
    iterate = job._iteration

    def iterate_then_interrupt():
        iterate()
        if job.training.batch_idx == 3:
            os.kill(os.getpid(), signal.SIGINT)
    job._iteration = iterate_then_interrupt
    assert job.run() is False and job.cur_nimg == 24
    parts, info = trained(make_config(tiny_data, *options, total_kimg=0.08, kimg_per_tick=0.08), tmp_path / 'parts')
    assert info['cur_nimg'] == 80
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny_data, tmp_path):
    grads = []
    for batch_gpu in (8, 2):
        config = make_config(tiny_data, '--batch=8', '--aug=noaug', '--fp32=1', batch_gpu=batch_gpu)
        config.D_kwargs['epilogue_kwargs'] = dict(mbstd_num_channels=0)         # couples the samples of a micro-batch
        config.loss_kwargs['style_mixing_prob'] = 0                             # is drawn once per micro-batch
        job = make_run(config, tmp_path)
        phase = next(phase for phase in job.training.phases if phase.name == 'Dmain')
        phase.opt.step = lambda: None
        z, c = torch.randn([8, 8], generator=torch.Generator().manual_seed(0)), torch.zeros([8, 0])
        phase.begin()
        job.training.accumulate[phase.name](*job.training.reals.batch(0), z, c)
        phase.end()
        grads.append([p.grad for p in phase.params])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_init_from_takes_what_fits(tiny_data, tmp_path, capsys):
    config = make_config(tiny_data, '--batch=8', '--snapshot-networks=all', total_kimg=0.008)
    run = make_run(config, tmp_path / 'a')
    run.run()
    first = run.training
    path = str(tmp_path / 'a' / 'network-snapshot-000000.safetensors')
    config = make_config(tiny_data, '--batch=8', f'--init-from={path}')
    assert config.ada_kimg == 100 and config.ema_rampup is None
    second = make_run(config, tmp_path / 'b').training
    assert torch.equal(second.G.state_dict()['synthesis.b8.conv0.weight'],
                       first.G.state_dict()['synthesis.b8.conv0.weight'])
    assert torch.equal(second.G_ema.state_dict()['synthesis.b8.conv0.weight'],
                       first.G_ema.state_dict()['synthesis.b8.conv0.weight'])
    assert torch.equal(second.D.state_dict()['b4.fc.weight'], first.D.state_dict()['b4.fc.weight'])
    output = capsys.readouterr().out
    assert f'of {len(first.G.state_dict())} tensors from {path}\n' in output and 'not used' not in output
    config.G_kwargs['synthesis_kwargs']['channel_max'] = 12
    config.G_kwargs.update(z_dim=6, w_dim=6)
    wider = make_run(config, tmp_path / 'c').training
    assert torch.equal(wider.D.state_dict()['b4.fc.weight'], first.D.state_dict()['b4.fc.weight'])
    capsys.readouterr()
    config = make_config(tiny_data, '--batch=8', f'--init-from={path}')
    config.G_kwargs['mapping_kwargs'] = dict(num_layers=1)
    make_run(config, tmp_path / 'd')
    lines = [line for line in capsys.readouterr().out.splitlines() if 'not used' in line]
    assert [line.partition(':')[0] for line in lines] == ['G', 'G_ema']
    assert all(line.endswith('; not used: mapping.fc1.bias, mapping.fc1.weight; use the --cfg it was trained with')
               for line in lines)


def test_a_small_snapshot_and_the_state_of_the_same_run_as_a_start(tiny_data, tmp_path, capsys):
    config = make_config(tiny_data, '--batch=8', '--tick=0.008', '--snap=1', '--snapshot-keep=last=1,every=1',
                         total_kimg=0.024)
    run = make_run(config, tmp_path / 'a')
    run.run()
    first = run.training
    assert [p.name for p in (tmp_path / 'a').glob('network-snapshot-*')] == ['network-snapshot-000000.024.safetensors']
    weight = lambda net: net.state_dict()['b4.fc.weight']
    source = f'--init-from={tmp_path}/a/network-snapshot-000000.024.safetensors'
    second = make_run(make_config(tiny_data, '--batch=8', source), tmp_path / 'b').training
    assert ('D: starts from random weights; use a training-state.safetensors' in capsys.readouterr().out
            and not torch.equal(weight(second.D), weight(first.D)))
    name = 'synthesis.b8.conv0.weight'
    assert torch.equal(second.G.state_dict()[name], first.G_ema.state_dict()[name])
    third = make_run(make_config(tiny_data, '--batch=8', f'--init-from={tmp_path}/a/{STATE_FILE}'),
                     tmp_path / 'c').training
    assert (torch.equal(weight(third.D), weight(first.D))
            and torch.equal(third.G.state_dict()[name], first.G.state_dict()[name]))
