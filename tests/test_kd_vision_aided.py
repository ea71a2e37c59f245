"""The levels and heads of vision-aided training."""

import math

import pytest
import torch
from vision_aided_parts import HALF, F, token_teacher

from kd_plugin import gradient_scale
from kd_plugin.teacher import Preprocess, Teacher, load_teacher
from kd_plugin.teachers.feature_levels import FeatureLevels
from kd_plugin.vision_heads import EqualisedHead, NormalisedHead, widths


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
