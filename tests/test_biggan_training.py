"""BigGAN in the training: the step against the public programs, its schedule, labels, average, speed, all methods."""

import copy
import math

import numpy as np
import PIL.Image
import pytest
import torch
from biggan_golden import LAYOUT, SMALL, TOLERANCE, check_tensors, filled, onehot, part, read, reals
from conftest import parse_options
from cuda_standin import cuda  # noqa: F401  (a fixture)
from float64_runs import BATCH
from float64_runs import train as train_in_float64
from processes import run_processes
from resuming import differences, make_run
from resuming import run as run_training

import train
from dnnlib import UserError
from torch_utils import training_stats
from training.config import presets
from training.loss import StyleGAN2Loss
from training.phases import make_phases
from training.speed.recorded_phase import TRIALS, WARM_UP, RecordedPhase

KD = ['--kd=agkd,cgkd', '--kd-teacher=demo']


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Twelve 32x32 pictures, eight of one class and two of each of two others."""
    folder, rng = tmp_path_factory.mktemp('data') / 'tiny32', np.random.default_rng(0)
    for i in range(12):
        path = folder / 'abc'[max(i - 6, 0) // 2] / f'{i:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, size=(32, 32, 3)).astype(np.uint8)).save(path)
    return str(folder)


def make_config(data, *args):
    """Width 4, batches of six, an average that begins in the third iteration."""
    config, _name = train.build_config(parse_options(
        '--outdir=x', f'--data={data}', '--cfg=biggan-cifar', '--cbase=4', '--device=cpu', '--metrics=none',
        '--workers=0', '--batch=6', '--health=4', '--kimg=0.072', '--tick=0.036', '--snap=1', *args))
    config.update(grid_images=4, ema_start_kimg=(3 - 1) * 4 * 6 / 1000)        # as build.py makes it of ema_start=3
    return config


def golden_batch(net, golden, G):
    img = reals(f'{net}.x', len(golden['y']), G.img_resolution)
    return dict(real_img=img, real_c=onehot(golden['y_real'], G), gen_z=golden['z'], gen_c=onehot(golden['y'], G))


@pytest.mark.parametrize('net', SMALL)
def test_the_phases_are_the_step_of_the_public_program(net):
    """A step of D over fakes and reals in one pass, then one of G: what they report, buffers and parameters."""
    golden, leave_out = read(net), LAYOUT[net]['G']['zero_gradient']
    G, D = [module.requires_grad_(False) for module in filled(net)]
    row = presets.PRESETS['biggan-cifar' if net.startswith('cifar') else 'biggan-imagenet64']
    adam = dict(class_name='torch.optim.Adam', lr=row.lr, betas=[0, 0.99], eps=1e-8)
    loss = StyleGAN2Loss('cpu', G.mapping, G.synthesis, D, r1_gamma=0, pl_weight=0, style_mixing_prob=0,
                         **row.loss_kwargs)
    first, second = make_phases(G, D, {}, {**adam, **row.G_opt}, {**adam, **row.D_opt}, None, None,
                                torch.device('cpu'), row.D_steps, row.D_first)
    assert (first.name, second.name, first.gain, second.gain) == ('Dboth', 'Gboth', 1, 1)
    training_stats._moments.clear()
    collector = training_stats.Collector('Loss/.*')
    batch = golden_batch(net, golden, G)
    for phase, changes in ((first, {}), (second, dict(gen_z=golden['z2'], gen_c=onehot(golden['y2'], G)))):
        phase.begin()
        loss.accumulate_gradients(phase.name, gain=phase.gain, **{**batch, **changes})
        phase.end()
        if phase is first:
            check_tensors(dict(G.named_buffers()), part(net, 'G_buffers_after_train'))
            check_tensors(dict(D.named_parameters()), part(net, 'D_after_adam'))
    check_tensors(dict(G.named_parameters()), part(net, 'G_after_adam'), leave_out)
    collector.update()
    for name, value in (('D/loss', golden['D_step_losses'].sum()), ('G/loss', golden['G_step_loss']),
                        ('scores/real', golden['D_step_real_logits'].mean())):
        assert collector.mean(f'Loss/{name}') == pytest.approx(value.item(), rel=TOLERANCE)


def test_the_configuration(pictures):
    """Numbers of the launch scripts; per iteration of four D steps of 50."""
    config, name = train.build_config(parse_options('--outdir=x', f'--data={pictures}', '--cfg=biggan-cifar',
                                                    '--device=cpu'))
    adam = dict(class_name='torch.optim.Adam', lr=2e-4, betas=[0, 0.999], eps=1e-8)
    assert config.G_opt_kwargs == config.D_opt_kwargs == adam and name == 'tiny32-biggan-cifar'
    assert config.loss_kwargs == dict(class_name='training.loss.StyleGAN2Loss', r1_gamma=0, style_mixing_prob=0,
                                      pl_weight=0, gan_loss='hinge', one_pass=True)
    assert (config.batch_size, config.batch_gpu, config.D_steps, config.D_first) == (50, 50, 4, True)
    assert 0.5 ** (4 * 50 / 1000 / config.ema_kimg) == pytest.approx(0.9999, abs=1e-12)
    assert config.ema_start_kimg == 999 * 0.2 and config.total_kimg == 250_000 * 0.2
    assert config.kimg_per_tick * config.network_snapshot_ticks == 4000 * 0.2
    assert config.training_set_kwargs['use_labels'] and config.training_set_kwargs['xflip'] and config.fp32
    assert config.augment_kwargs['policy'] == 'translation,cutout' and config.metrics == ['fid10k_full']
    assert config.metric_kwargs['batch_norm'] == 'batch' and config.metric_kwargs['uniform_labels']
    assert make_config(pictures, '--aug=ada').ada_interval == 16 and make_config(pictures).ada_target is None


def test_one_pass_with_lazy_regularisation_is_refused(pictures, monkeypatch):
    row = presets.PRESETS['biggan-cifar']._replace(lazy_regularization=True)
    monkeypatch.setitem(presets.PRESETS, 'biggan-cifar', row)
    with pytest.raises(UserError, match='--cfg=biggan-cifar: has lazy regularisation, whose phases of D would be '
                                        'empty.* lazy_regularization=False'):
        make_config(pictures)


def test_uniform_labels_of_a_network_without_batch_norm(pictures, monkeypatch):
    """The metrics draw classes as the training does, whatever norms there are; else they are not told of either."""
    build = lambda: train.build_config(parse_options('--outdir=x', f'--data={pictures}', '--cfg=auto', '--cond=1',
                                                     '--device=cpu'))[0].metric_kwargs
    assert not build().keys() & {'uniform_labels', 'batch_norm'}
    monkeypatch.setitem(presets.PRESETS, 'auto', presets.PRESETS['auto']._replace(uniform_labels=True))
    assert build()['uniform_labels'] is True and 'batch_norm' not in build()


def test_d_takes_four_steps_then_g_one_and_the_average_follows(pictures, tmp_path):
    """Inputs are new for each step, classes uniform; the average is a copy at first, then of parameters and buffers."""
    training = make_run(make_config(pictures), tmp_path).training
    assert training.reals.labels[torch.arange(12)].mean(dim=0).tolist() == pytest.approx([8 / 12, 2 / 12, 2 / 12])
    seen, accumulate = [], dict(training.accumulate)

    def noted(name):
        def run(*tensors):
            seen.append((name, *tensors))
            accumulate[name](*tensors)
        return run
    training.accumulate = {name: noted(name) for name in accumulate}
    average = {name: value.clone() for name, value in training.G_ema.state_dict().items()}
    beta = 0.9999
    for i in range(16):
        training.step()
        if i % 4 == 3:
            for name, value in training.G.state_dict().items():
                average[name].lerp_(value, 1 - beta if i >= 8 else 1)
        torch.testing.assert_close(training.G_ema.state_dict(), average, rtol=0, atol=1e-7)
    assert [name for name, *_ in seen] == ['Dboth', 'Dboth', 'Dboth', 'Dboth', 'Gboth'] * 4
    assert len({tensors[3][0, 0].item() for _name, *tensors in seen}) == len(seen)         # z
    labels = torch.cat([training.prior.sample(100)[1] for _ in range(6)])
    assert (labels.sum(dim=1) == 1).all()
    assert (labels.mean(dim=0) - 1 / 3).abs().max() < 4 * (2 / 9 / 600) ** 0.5


RELEASED = [*KD, '--kd-preset=released', '--kd-texts=demo']
ALL = ['--aug=ada', '--lecam=0.3', '--lecam-start=0.05', '--apa', '--chain', '--ortho=1e-3', '--vision-aided=demo',
       '--vision-aided-warmup=0.03', *RELEASED]


@pytest.mark.parametrize('method', [KD, ALL], ids=['kd', 'all'])
def test_a_run_in_parts_is_the_whole_run(method, pictures, tmp_path):
    config = lambda: make_config(pictures, *method)
    whole = run_training(config(), tmp_path / 'whole')
    run_training(config(), tmp_path / 'parts', save_at=7, die_at=9)
    run_training(config(), tmp_path / 'parts')
    assert differences(tmp_path / 'whole', tmp_path / 'parts') == []
    modules = whole.training.G, whole.training.D, whole.training.loss.terms
    assert all(p.isfinite().all() for module in modules for p in module.parameters())


@pytest.mark.parametrize('method, losses', [
    (['--insgen'], ['InsGen/fake', 'InsGen/real', 'InsGen/generator']), (['--fakeclr', '--aug=ada'], ['FakeCLR/fake']),
    (['--vision-aided=demo', '--vision-aided-warmup=0'], ['VisionAided/real', 'VisionAided/generator']),
    (['--ortho=1e-4'], ['Ortho/G', 'Ortho/D']), (['--lecam=0.3', '--lecam-start=0'], ['LeCam/fake', 'LeCam/real']),
    (['--kd=agkd,cgkd,pkt,spkd', '--kd-teacher=demo', '--kd-preset=released'], ['KD/agkd_real', 'KD/cgkd_fake']),
    (['--aug=noaug'], [])], ids=lambda value: value[0] if value else 'plain')
def test_an_iteration_with_every_method(method, losses, pictures, tmp_path):
    training_stats._moments.clear()
    training, collector = make_run(make_config(pictures, *method), tmp_path).training, training_stats.Collector()
    for _ in range(4):
        training.step()
    collector.update()
    assert all(collector.num(f'Loss/{name}') > 0 and math.isfinite(collector.mean(f'Loss/{name}')) for name in losses)
    modules = training.G, training.D, training.loss.terms
    assert all(p.isfinite().all() for module in modules for p in module.parameters())


def test_two_processes_are_one_where_batch_norm_is_synchronised(pictures, tmp_path):
    """In float64 and with the same draws: networks, their buffers, the average, optimisers and statistics; with what
    has running averages or spectral norms of its own."""
    methods = ['--lecam=0.3', '--lecam-start=0', '--ortho=1e-3', '--vision-aided=demo', '--vision-aided-warmup=0',
               *RELEASED, '--kd-reduction=mean']
    results = []
    for num_ranks in (1, 2):
        config = make_config(pictures, f'--batch={BATCH}', '--bn-sync=1', '--fp32=1', '--aug=ada', *methods)
        config.update(num_gpus=num_ranks, batch_gpu=BATCH // num_ranks, ada_interval=2, D_steps=2, ema_start_kimg=0)
        run_processes(train_in_float64, num_ranks, str(tmp_path), config)
        results.append(torch.load(tmp_path / f'{num_ranks}.pt'))
        results[-1][1].pop('KD/diversity_teacher', None)
        for name in LAYOUT['cifar10_small']['G']['zero_gradient']:      # their gradients are nothing but rounding
            for network in ('G', 'G_ema'):
                results[-1][0][network].pop(name)
    assert results[0][0]['G_ema']['output_layer.0.stored_mean'].abs().max() > 0
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


def test_a_bad_step_leaves_no_trace_in_the_state(pictures, tmp_path):
    """Latents that are no numbers in an iteration, whose steps are left out: all networks stay finite, the average
    follows."""
    config = make_config(pictures)
    config.update(D_steps=1, ema_start_kimg=0)
    training = make_run(config, tmp_path).training
    sample, skipped = training.prior.sample, []
    for bad in (False, True, False):
        training.prior.sample = lambda n, bad=bad: (sample(n)[0] * (float('nan') if bad else 1), sample(n)[1])
        skipped.append([phase.skipped.item() for phase in training.step()])
    assert skipped == [[0, 0], [1, 1], [0, 0]]
    for module in (training.G, training.D, training.G_ema):
        assert all(value.isfinite().all() for value in module.state_dict().values())


def test_apa_shows_fakes_of_the_same_step_with_the_labels_of_the_reals(pictures, tmp_path):
    training = make_run(make_config(pictures, '--apa', '--aug=noaug'), tmp_path).training
    training.loss.terms['apa'].p.fill_(1)
    seen, D = [], training.loss.main_D
    training.loss.main_D = lambda img, c, **kwargs: seen.append((img, c)) or D(img, c, **kwargs)
    labels = training.reals.batch(0).c
    training.step()
    (img, c), = seen
    fakes, shown = img.tensor_split(2)
    assert torch.equal(fakes, shown) and torch.equal(c[6:], labels)


def test_watching_leaves_the_networks_as_they_are(pictures, tmp_path):
    """Held-out images, copies and grids, which are made and judged in eval mode."""
    config = make_config(pictures, '--val-fraction=0.5')
    job = make_run(config, tmp_path)
    job.training.step()
    modules = job.training.G, job.training.D, job.training.G_ema
    before = copy.deepcopy([module.state_dict() for module in modules])
    for observer in job.observers.values():
        observer.start(job.training)
        observer.report(job.training)
    job.grid.save_fakes(job.training.G_ema, 'x.png')
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_recorded_phases_are_the_usual_ones(pictures, tmp_path, capsys, request):
    """Bit for bit, with what batch and spectral norms move."""
    states = []
    for graphs in (False, True):
        training_stats._moments.clear()
        config = make_config(pictures, '--lecam=0.3', '--lecam-start=0')
        if graphs:
            request.getfixturevalue('cuda')
            config.cuda_graphs = True
        training = make_run(config, tmp_path / str(graphs)).training
        training.speed_up(print)
        for _ in range(4 * (WARM_UP + TRIALS + 2)):
            training.step()
        states.append(training.state_dict())
    assert '--cuda-graphs' not in capsys.readouterr().out
    assert all(isinstance(function, RecordedPhase) and list(function.proven.values()) == [TRIALS]
               for function in training.accumulate.values())
    for name in ('G', 'D', 'G_ema'):
        assert all(torch.equal(value, states[0][name][key]) for key, value in states[1][name].items())


def test_compiled_networks_have_the_sizes_of_the_phases(pictures, tmp_path, monkeypatch):
    """They are tried on these before the start, which leaves the buffers of batch and spectral norms as they were."""
    sizes = []

    def compiler(part, **_kwargs):
        return lambda x, *args, **kwargs: sizes.append(len(x)) or part(x, *args, **kwargs)
    monkeypatch.setattr(torch, 'compile', compiler)
    training = make_run(make_config(pictures, '--compile=1'), tmp_path).training
    before = copy.deepcopy([training.G.state_dict(), training.D.state_dict()])
    training.speed_up(pytest.fail)
    for module, state in zip((training.G, training.D), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    tried = len(sizes)
    for _ in range(4):
        training.step()
    assert sizes[:tried] == [6, 6, 12, 6] and sizes[tried:] == [6, 12] * 4 + [6, 6]     # G, D in turn
