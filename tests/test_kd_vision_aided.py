"""Vision-aided training: levels of teachers of every kind, the losses written out, who receives gradients, warm-up,
what is refused."""

import contextlib
import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import parse_options, run_cli
from tiny_gan import N, batch, make_loss, nets, run

import train
from dnnlib import UserError
from kd_plugin import gradient_scale, vision_aided
from kd_plugin.teacher import Preprocess, Teacher, load_teacher
from kd_plugin.teachers.feature_levels import FeatureLevels
from kd_plugin.vision_aided import VisionAided
from kd_plugin.vision_heads import EqualisedHead, NormalisedHead, widths
from torch_utils.devices import cpu_has_bfloat16
from training.config.presets import PRESETS
from training.dataset import ImageFolderDataset
from training.dataset import demo as demo_data

F = torch.nn.functional
HALF = (0.5, 0.5, 0.5)
LEVELLED = ['stylegan2', 'package']         # recipes with a head on every level


class TokenEncoder(torch.nn.Module):
    """Six blocks on a class token and one token per 4x4 pixels, batch first or tokens first; a longer row of blocks is
    none of the images'."""

    def __init__(self, tokens_first, width=5, blocks=6):
        super().__init__()
        self.tokens_first = tokens_first
        self.patches = torch.nn.Conv2d(3, width, 4, stride=4)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(blocks)])
        self.text_blocks = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(blocks + 2)])
        self.project = torch.nn.Linear(width, 7)
        self.seen = []

    def image_features(self, x):
        self.seen = []
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True) + 100, x], dim=1)
        x = x.transpose(0, 1) if self.tokens_first else x
        for block in self.blocks:
            x = block(x).tanh()
            self.seen.append(block)
        x = x.transpose(0, 1) if self.tokens_first else x
        return self.project(x[:, 0])


def token_teacher(tokens_first=False, **kwargs):
    torch.manual_seed(3)
    return Teacher(TokenEncoder(tokens_first, **kwargs), Preprocess(16, HALF, HALF), 7, 'tokens')


@pytest.mark.parametrize('tokens_first', [False, True])
@pytest.mark.parametrize('n', [2, 17])                          # as many images as tokens must not confuse it
def test_levels_of_a_transformer(tokens_first, n):
    """Blocks 2 and 4 of 6, without the class token, laid out as the patches lie in the image."""
    teacher = token_teacher(tokens_first)
    levels = FeatureLevels(teacher)
    encoder = teacher.encoder
    assert levels.blocks == [encoder.blocks[1], encoder.blocks[3]]
    assert levels.channels == [5, 5, 7] and levels.sides == [4, 4]
    img = torch.rand(n, 3, 16, 16) * 2 - 1
    got = levels(img)
    x = encoder.patches(img)
    x = torch.cat([(x.mean([2, 3]) + 100)[:, :, None], x.flatten(2)], dim=2).transpose(1, 2)
    want = []
    for i, block in enumerate(encoder.blocks):
        out = block(x)
        if i in (1, 3):
            want.append(out[:, 1:].transpose(1, 2).reshape(n, 5, 4, 4))
        x = out.tanh()
    for a, b in zip(got, [*want, teacher.encode_image(img)], strict=True):
        torch.testing.assert_close(a, b)
    assert all(not block._forward_hooks for block in encoder.blocks)


def test_levels_of_the_demo_teacher_and_of_one_without_blocks():
    levels = FeatureLevels(load_teacher('demo'))
    assert [tuple(x.shape) for x in levels(torch.zeros(2, 3, 16, 16))] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 128)]
    shallow = FeatureLevels(token_teacher(blocks=2))
    assert shallow.blocks == [] and [tuple(x.shape) for x in shallow(torch.zeros(2, 3, 16, 16))] == [(2, 7)]


@pytest.mark.parametrize('kind', ['clip', 'siglip', 'dinov2'])
def test_levels_of_hugging_face_models(kind):
    """Small random ones: a third and two thirds of the vision tower."""
    transformers = pytest.importorskip('transformers')
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=6, num_attention_heads=2, image_size=16,
                  patch_size=4)
    text = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=8, num_attention_heads=2, vocab_size=20)
    if kind == 'dinov2':
        model = transformers.Dinov2Model(transformers.Dinov2Config(**vision))
        features = lambda x: model(pixel_values=x).pooler_output
        rows = model.encoder.layer
    else:
        config, cls = dict(clip=(transformers.CLIPConfig, transformers.CLIPModel),
                           siglip=(transformers.SiglipConfig, transformers.SiglipModel))[kind]
        model = cls(config(vision_config=vision, text_config=text))
        features = lambda x: model.vision_model(pixel_values=x).pooler_output
        rows = model.vision_model.encoder.layers
    model.image_features = features
    levels = FeatureLevels(Teacher(model, Preprocess(16, HALF, HALF), 8, kind))
    assert levels.blocks == [rows[1], rows[3]]
    assert [tuple(x.shape) for x in levels(torch.zeros(3, 3, 16, 16))] == [(3, 8, 4, 4), (3, 8, 4, 4), (3, 8)]


@pytest.mark.parametrize('scale', [1, gradient_scale.GRADIENT_SCALE])
def test_small_gradients_survive_a_teacher_in_float16(scale, monkeypatch):
    """Those of every level. As they come, much of them is lost."""
    monkeypatch.setattr(gradient_scale, 'GRADIENT_SCALE', scale)
    torch.manual_seed(0)
    img, grads = torch.rand(4, 3, 16, 16) * 2 - 1, []
    for dtype in (torch.float32, torch.float16):
        teacher = token_teacher()
        teacher.encoder.to(dtype)
        teacher.dtype = dtype
        x = img.clone().requires_grad_(True)
        total = sum(feats.square().mean() for feats in FeatureLevels(teacher)(x))
        grads.append(torch.autograd.grad(total * 1e-3, x)[0].flatten())
    error = ((grads[1] - grads[0]).norm() / grads[0].norm()).item()
    assert error < 0.01 if scale > 1 else error > 0.03


@pytest.mark.parametrize('size', [12, 24])
def test_images_reach_the_levels_by_area(size):
    """Means of areas, and no limit: DiffAugment leaves the range of images, and gradients come from there, too."""
    teacher = token_teacher()
    img = (torch.randn(2, 3, size, size) * 2).requires_grad_()
    encoder, seen = teacher.encoder, []
    encoder.image_features = lambda x: seen.append(x) or encoder.patches(x).mean([2, 3])
    teacher.encode_image_by_area(img).square().sum().backward()
    spans = [(i * size // 16, -(-(i + 1) * size // 16)) for i in range(16)]
    x = img.detach() / 2 + 0.5
    want = torch.stack([x[:, :, a:b, c:d].mean([2, 3]) for a, b in spans for c, d in spans], dim=2)
    torch.testing.assert_close(seen[0], (want.unflatten(2, [16, 16]) - 0.5) / 0.5)
    assert (img.grad[img.abs() > 1.5] != 0).all()


def blurred(x, before, after):
    """The binomial filter (1, 3, 3, 1) / 8 in both directions, with so many zeros before and after."""
    f = torch.tensor([1.0, 3, 3, 1]) / 8
    kernel = (f[:, None] * f).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [before, after, before, after]), kernel, groups=x.shape[1])


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize('side, stride, result', [(7, 1, 3), (14, 2, 3)])          # CLIP's maps and DINO's
def test_equalised_head_written_out(side, stride, result):
    torch.manual_seed(0)
    head, vector = EqualisedHead(6, True, 0, 8, stride), EqualisedHead(6, False, 3, 8, stride)
    x, v = torch.randn(4, 6, side, side), torch.randn(4, 6)
    gain = lambda fan_in: 1 / math.sqrt(fan_in)
    for layer in (head.first, head.out, vector.first, vector.out):
        torch.nn.init.normal_(layer.bias)
    weight = head.first.weight * gain(54)
    h = F.conv2d(x, weight, padding=1) if stride == 1 else F.conv2d(blurred(x, 2, 2), weight, stride=2)
    h = lrelu(h + head.first.bias[:, None, None]) * math.sqrt(2)
    want = F.conv2d(blurred(h, 1, 1)[:, :, ::2, ::2], head.out.weight * gain(8)) + head.out.bias[:, None, None]
    assert want.shape == (4, 1, result, result)
    torch.testing.assert_close(head(x, None), want)
    h = lrelu(v @ vector.first.weight.t() * gain(6) + vector.first.bias) * math.sqrt(2)
    torch.testing.assert_close(vector(v, torch.eye(4)[:, :3]), h @ vector.out.weight.t() * gain(8) + vector.out.bias)


@pytest.mark.parametrize('side, stride, result', [(7, 1, 4), (14, 2, 4)])
def test_normalised_head_written_out(side, stride, result):
    torch.manual_seed(0)
    head, vector = NormalisedHead(6, True, 3, 8, stride).eval(), NormalisedHead(6, False, 3, 8, stride).eval()
    x, v, c = torch.randn(4, 6, side, side), torch.randn(4, 6), torch.eye(4)[:, :3]
    weight, bias = head.first.weight, head.first.bias
    h = F.conv2d(x, weight, bias, padding=1) if stride == 1 else F.conv2d(blurred(x, 2, 3), weight, bias, stride=2)
    want = F.conv2d(blurred(lrelu(h), 1, 2), head.out.weight, head.out.bias, stride=2)
    assert want.shape == (4, 1, result, result) and head.label is None
    torch.testing.assert_close(head(x, c), want)
    h = lrelu(v @ vector.first.weight.t() + vector.first.bias)
    of_class = torch.stack([vector.label.weight[:, i] if i < 3 else torch.zeros(8) for i in range(4)])
    want = h @ vector.out.weight.t() + vector.out.bias + (of_class * h).sum(1, keepdim=True)
    torch.testing.assert_close(vector(v, c), want)
    for layer in (head.first, head.out, vector.first, vector.out):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-2)


def test_which_heads_for_which_teacher():
    """Those for CLIP where maps are 7x7 or 8x8, those for DINO where they are 14x14 or 16x16; without maps CLIP's."""
    assert [widths(sides) for sides in ([7, 7], [8], [], [14, 14], [16, 8])] == [(256, 1)] * 3 + [(128, 2)] * 2


@pytest.fixture
def teacher(monkeypatch):
    """Under two names."""
    toy = token_teacher()
    monkeypatch.setattr(vision_aided, 'load_for_training', lambda name, device, fp32, option: toy)
    return toy


def setup(**settings):
    n = nets()
    term = VisionAided(['toy', 'toy2'], **{'warmup': 0, **settings})
    loss = make_loss(n, terms=dict(vision_aided=term))
    loss.start_step(0)
    return n, term, loss


def sizes(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize('recipe', LEVELLED)
def test_d_step_trains_every_head_and_nothing_else(teacher, recipe):
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


def test_gradient_reaches_g_through_the_frozen_teacher(teacher):
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
def test_losses_written_out(teacher, monkeypatch, recipe, label):
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


def test_labels_are_seen_by_the_package_alone(teacher):
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


def test_warmup(teacher):
    n, term, loss = setup(warmup=2.0)
    for nimg, active in ((0, False), (1999, False), (2000, True)):
        loss.start_step(nimg)
        run(n, loss, 'Dmain')
        assert bool(sizes(term)) == active


def test_heads_are_saved_and_teachers_are_not(teacher):
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
