"""Vision-aided training: losses, gradients, states and options."""

import contextlib
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import parse_options, run_cli
from tiny_gan import N, batch, make_loss, nets, run
from vision_aided_parts import F, teacher  # noqa: F401  (a fixture)

import train
from dnnlib import UserError
from kd_plugin.teachers.feature_levels import FeatureLevels
from kd_plugin.vision_aided import VisionAided
from torch_utils.devices import cpu_has_bfloat16
from training.config.presets import PRESETS
from training.dataset import ImageFolderDataset
from training.dataset import demo as demo_data

LEVELLED = ['stylegan2', 'package']         # recipes with a head on every level


def setup(**settings):
    n = nets()
    term = VisionAided(['toy', 'toy2'], **{'warmup': 0, **settings})
    loss = make_loss(n, terms=dict(vision_aided=term))
    loss.start_step(0)
    return n, term, loss


def sizes(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize('recipe', LEVELLED)
def test_d_step_trains_every_head_and_nothing_else(teacher, recipe):  # noqa: F811
    n, term, loss = setup(recipe=recipe)
    torch.manual_seed(0)
    got = run(n, loss, 'Dmain')
    assert {'.'.join(name.split('.')[:3]) for name in sizes(term.heads)} == \
        {f'{t}.{level}.{layer}' for t in range(2) for level in range(3) for layer in ('first', 'out')}
    assert sizes(n.G) == sizes(teacher) == set()
    torch.manual_seed(0)
    term.active = False
    want = run(n, loss, 'Dmain')
    # D's own loss is as before
    assert got.keys() == want.keys() and all(torch.allclose(got[name], want[name], atol=1e-6) for name in got)


def test_gradient_reaches_g_through_the_frozen_teacher(teacher):  # noqa: F811
    n, term, loss = setup(weight=3.0)
    for phase in ('Gmain', 'Dreg'):
        torch.manual_seed(0)
        term.active = True
        got = run(n, loss, phase)
        assert sizes(term) == sizes(teacher) == set()
        torch.manual_seed(0)
        term.active = False
        want = run(n, loss, phase)
        moved = {name for name in want if (got[name] - want[name]).abs().max() > 1e-6}
        assert ({'mapping.fc0.weight', 'synthesis.b4.conv1.weight', 'synthesis.b16.torgb.weight'}
                <= moved) if phase == 'Gmain' else not moved


@pytest.mark.parametrize('recipe', LEVELLED)
@pytest.mark.parametrize('label', [0.8, 1.0])
def test_losses_written_out(teacher, monkeypatch, recipe, label):  # noqa: F811
    """Cross-entropies with the label of reals in both steps, the mean over a map, the sum over levels and teachers; on
    the images before D's augmentation, under a DiffAugment of its own."""
    n, term, loss = setup(weight=0.5, recipe=recipe, real_label=label)
    loss.augment_pipe = lambda img: img * 0
    monkeypatch.setattr(term.augment, 'forward', lambda img: img.flip(3))
    seen = {}
    original = term._term

    def record(kind, img, c, frozen):
        seen[kind] = original(kind, img, c, frozen), img
        return seen[kind][0]
    monkeypatch.setattr(term, '_term', record)
    term.heads.eval()                                           # the spectral norms stay as they are
    run(n, loss, 'Dmain')
    run(n, loss, 'Gmain')
    assert set(seen) == {'fake', 'real', 'generator'} and torch.equal(seen['real'][1].detach(), batch()['real_img'])
    levels = FeatureLevels(teacher, teacher.encode_image_by_area)
    for kind, (values, img) in seen.items():
        target = 0.0 if kind == 'fake' else label
        feats, want = [x.detach() for x in levels(img.detach().flip(3))], torch.zeros(N)
        for head, x in [(head, x) for heads in term.heads for head, x in zip(heads, feats, strict=True)]:
            logits = head(x, None)
            assert logits.shape == ((N, 1, 2, 2) if x.ndim == 4 else (N, 1))
            entropy = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction='none')
            want += 0.5 * entropy.flatten(1).mean(1)
        torch.testing.assert_close(values[f'VisionAided/{kind}'], want)


def test_labels_are_seen_by_the_package_alone(teacher):  # noqa: F811
    """On the embedding."""
    for recipe, of_labels in (('stylegan2', False), ('package', True)):
        term = VisionAided(['toy'], recipe=recipe)
        term.bind(SimpleNamespace(pl_mean=torch.zeros([]), D=SimpleNamespace(c_dim=3)))
        feats = term.teachers[0](torch.rand(2, 3, 16, 16))
        a, b = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 1]]
        same = [torch.equal(head.eval()(x, a)[0], head(x, b)[0]) for head, x in zip(term.heads[0], feats, strict=True)]
        assert same == [True, True, not of_labels]


@pytest.mark.parametrize('cfg, recipe', [('low-shot', 'stylegan2'), ('demo', 'stylegan2'), ('low-shot', 'package')])
def test_heads_learn_to_tell_drawings_from_blurred_ones(cfg, recipe):
    """Initial weights, spectral norm and D's learning rate (the smallest and the largest there is) do not keep a head
    from learning, on every level of the demo teacher: of new pairs of a drawing and a blurred one it ranks most as it
    should, where one that knows nothing ranks half of them so."""
    torch.manual_seed(0)
    with contextlib.closing(ImageFolderDataset(demo_data.demo_set(32))) as dataset:
        real = torch.stack([torch.from_numpy(dataset[i][0]) for i in range(100)]) / 127.5 - 1
    term = VisionAided(['demo'], warmup=0, recipe=recipe)
    term.bind(SimpleNamespace(pl_mean=torch.zeros([]), D=SimpleNamespace(c_dim=0)))
    with torch.no_grad():
        sets = zip(term.teachers[0](real), term.teachers[0](F.avg_pool2d(real, 3, stride=1, padding=1)), strict=True)
    for head, (drawn, soft) in zip(term.heads[0], sets, strict=True):
        opt = torch.optim.Adam(head.parameters(), lr=PRESETS[cfg].lr, betas=(0.0, 0.99))
        for _ in range(60):
            a, b = torch.randint(64, [2, 8])
            (term.loss.real(head(drawn[a], None)) + term.loss.fake(head(soft[b], None))).mean().backward()
            opt.step()
            opt.zero_grad()
        with torch.no_grad():                                   # images that it has not seen
            a, b = [head.eval()(x[64:], None).flatten(1).mean(1) for x in (drawn, soft)]
        assert (a[:, None] > b).float().mean() > 0.7 and a.mean() > b.mean() + 0.1


def test_warmup(teacher):  # noqa: F811
    n, term, loss = setup(warmup=2.0)
    for nimg, active in ((0, False), (1999, False), (2000, True)):
        loss.start_step(nimg)
        run(n, loss, 'Dmain')
        assert bool(sizes(term)) == active


def test_heads_are_saved_and_teachers_are_not(teacher):  # noqa: F811
    _n, term, _loss = setup()
    assert {name.split('.')[0] for name in term.state_dict()} == {'heads'}
    assert not any(p is q for p in term.parameters() for q in teacher.parameters())


def build(data, *args):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', *args))


def test_options(tiny_data):
    config, name = build(tiny_data, '--vision-aided=clip,hf:org/model', '--vision-aided-weight=0.5')
    assert config.terms == dict(vision_aided=dict(class_name='kd_plugin.vision_aided.VisionAided', recipe='stylegan2',
                                                  teachers=['ViT-B/32', 'hf:org/model'], warmup=100.0, weight=0.5,
                                                  fp32=not cpu_has_bfloat16()))
    assert re.fullmatch('tiny-auto1-vision-aided-clip-model-[0-9a-f]{6}-weight0.5', name)
    args = '--vision-aided=clip', '--vision-aided-recipe=package', '--vision-aided-real-label=1'
    config, name = build(tiny_data, *args)
    assert (config.terms['vision_aided']['recipe'], config.terms['vision_aided']['real_label']) == ('package', 1)
    assert name == 'tiny-auto1-vision-aided-clip-recipe-package-real-label1'


@pytest.mark.parametrize('args, message', [
    (['--vision-aided=clip,clip'], '--vision-aided=clip,clip: name different teachers'),
    (['--vision-aided=clip,ViT-B/32'], '--vision-aided=clip,ViT-B/32: name different teachers'),
    (['--vision-aided=,'], '--vision-aided=,: name different teachers'),
    (['--vision-aided=demo', '--kimg=60'], '--vision-aided-warmup=100: the run ends after 60 kimg, before it takes '
                                           'part; .* such as 20'),
    (['--vision-aided=demo', '--vision-aided-policy=x'], '--vision-aided-policy=x: x is no transform'),
    (['--vision-aided-warmup=3'], '--vision-aided-warmup=3.0: has no effect without --vision-aided')])
def test_what_is_refused(args, message, tiny_data):
    with pytest.raises(UserError, match=message):
        build(tiny_data, *args)


def test_a_teacher_that_cannot_be_had_is_found_out_before_the_start(tiny_data, tmp_path):
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', '--metrics=none',
                           '--vision-aided=nothing.safetensors')
    assert code == 1 and 'Error: --vision-aided=nothing.safetensors: ' in output and '--kd-teacher' not in output
    assert not (tmp_path / 'runs').exists()
