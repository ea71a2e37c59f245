"""DINO and MoBY's Swin from checkpoints in their released layouts, small and random, against passes written out."""

import itertools
import math

import pytest
import torch

from dnnlib import UserError
from kd_plugin.teacher import COMMON_NORM, load_teacher
from kd_plugin.teachers.feature_levels import FeatureLevels, LastLevel

F = torch.nn.functional
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_weights(shapes):
    """{name: tensor}, those of norms around 1."""
    gen = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=gen) * 0.3 + ('norm' in name and name.endswith('weight'))
            for name, shape in shapes.items()}


def layer(name, rows, *columns, bias=True):
    return {f'{name}.weight': [rows, *columns], **({f'{name}.bias': [rows]} if bias else {})}


def normalised(img):
    return (img / 2 + 0.5 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def check_embedding(teacher, img, want):
    """Of length 10, and the gradient to the pixels."""
    want = F.normalize(want, dim=1) * COMMON_NORM
    got = teacher.encode_image(img)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(x[:, 0].sum(), img, retain_graph=True)[0] for x in (got, want)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)


# -- DINO: a ViT in timm's layout, nothing else in the file; or in the part 'teacher' of a whole checkpoint

WIDTH, PATCH, SIDE = 128, 8, 3                  # two heads of 64, 3x3 patches


def dino_weights():
    shapes = {'cls_token': [1, 1, WIDTH], 'pos_embed': [1, SIDE ** 2 + 1, WIDTH],
              **layer('patch_embed.proj', WIDTH, 3, PATCH, PATCH), **layer('norm', WIDTH)}
    for i in range(3):
        for name, rows, columns in [('attn.qkv', 3 * WIDTH, WIDTH), ('attn.proj', WIDTH, WIDTH),
                                    ('mlp.fc1', 96, WIDTH), ('mlp.fc2', WIDTH, 96)]:
            shapes |= layer(f'blocks.{i}.{name}', rows, columns)
        shapes |= {**layer(f'blocks.{i}.norm1', WIDTH), **layer(f'blocks.{i}.norm2', WIDTH)}
    return random_weights(shapes)


def dino(weights, x):
    get = lambda name: (weights[f'{name}.weight'], weights[f'{name}.bias'])
    norm = lambda x, name: F.layer_norm(x, [WIDTH], *get(name), eps=1e-6)
    x = F.conv2d(x, *get('patch_embed.proj'), stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([weights['cls_token'].expand(len(x), -1, -1), x], 1) + weights['pos_embed']
    for i in range(3):
        mixed = []
        for head in range(2):
            q, k, v = [F.linear(norm(x, f'blocks.{i}.norm1'), *get(f'blocks.{i}.attn.qkv'))[
                :, :, part * WIDTH + head * 64:part * WIDTH + (head + 1) * 64] for part in range(3)]
            mixed.append((q @ k.transpose(1, 2) / math.sqrt(64)).softmax(2) @ v)
        x = x + F.linear(torch.cat(mixed, dim=2), *get(f'blocks.{i}.attn.proj'))
        x = x + F.linear(F.gelu(F.linear(norm(x, f'blocks.{i}.norm2'), *get(f'blocks.{i}.mlp.fc1'))),
                         *get(f'blocks.{i}.mlp.fc2'))
    return norm(x, 'norm')[:, 0]


@pytest.mark.parametrize('whole', [False, True])
def test_dino(whole, tmp_path):
    weights, path = dino_weights(), tmp_path / 'dino_vitbase16_pretrain.pth'
    part = {**{f'backbone.{name}': value for name, value in weights.items()}, 'head.mlp.0.weight': torch.ones(2, 2)}
    student = {f'module.{name}': value + 1 for name, value in part.items()}
    torch.save(dict(student=student, teacher=part, epoch=3) if whole else weights, path)
    teacher = load_teacher(str(path))
    assert teacher.preprocess == (SIDE * PATCH, MEAN, STD) and teacher.dim == WIDTH and not teacher.has_texts
    assert teacher.identity.startswith('dino:dino_vitbase16_pretrain.pth:') and teacher.identity.endswith(':norm10')
    img = (torch.rand(2, 3, 24, 24) * 2 - 1).requires_grad_()
    check_embedding(teacher, img, dino(weights, normalised(img)))
    torch.testing.assert_close(teacher.encode_end_by_area(img), dino(weights, normalised(img)), rtol=1e-4, atol=1e-4)
    assert FeatureLevels(teacher).sides == [SIDE, SIDE] and LastLevel(teacher).side == 0


# -- Swin: two stages of 8x8 and 4x4 patches, windows of 4x4; in MoBY's file beside a momentum copy, heads and queues

WINDOW, DEPTHS, HEADS = 4, [3, 2], [2, 4]


def swin_weights():
    shapes = {**layer('patch_embed.proj', 8, 3, 2, 2), **layer('patch_embed.norm', 8), **layer('norm', 16)}
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        width = 8 << i
        for name in (f'layers.{i}.blocks.{j}' for j in range(depth)):
            shapes |= {f'{name}.attn.relative_position_bias_table': [(2 * WINDOW - 1) ** 2, heads],
                       **layer(f'{name}.attn.qkv', 3 * width, width), **layer(f'{name}.attn.proj', width, width),
                       **layer(f'{name}.mlp.fc1', 3 * width, width), **layer(f'{name}.mlp.fc2', width, 3 * width),
                       **layer(f'{name}.norm1', width), **layer(f'{name}.norm2', width)}
    shapes |= {**layer('layers.0.downsample.norm', 32), **layer('layers.0.downsample.reduction', 16, 32, bias=False)}
    return random_weights(shapes)


def swin_attention(weights, name, x, heads, shift):
    """Token by token: x [side, side, C]. Two see each other if they are in one window of the map that is rolled by
    `shift`, and not on two sides of its edge."""
    side, width = len(x), x.shape[2]
    project = lambda part, v: F.linear(v, weights[f'{name}.{part}.weight'], weights[f'{name}.{part}.bias'])
    qkv, table = project('qkv', x), weights[f'{name}.relative_position_bias_table']
    size, rows = width // heads, []
    for y0, x0 in itertools.product(range(side), repeat=2):
        place = lambda at: ((at - shift) // WINDOW % (side // WINDOW), at < shift)      # window, and side of the edge
        mates = [(y1, x1) for y1, x1 in itertools.product(range(side), repeat=2)
                 if (place(y1), place(x1)) == (place(y0), place(x0))]
        mixed = []
        for head in range(heads):
            q, k, v = [slice(part * width + head * size, part * width + (head + 1) * size) for part in range(3)]
            logits = [qkv[y0, x0, q] @ qkv[y1, x1, k] / math.sqrt(size)
                      + table[(y0 - y1 + WINDOW - 1) * (2 * WINDOW - 1) + x0 - x1 + WINDOW - 1, head]
                      for y1, x1 in mates]
            share = torch.stack(logits).softmax(0)
            mixed.append(sum(s * qkv[y1, x1, v] for s, (y1, x1) in zip(share, mates, strict=True)))
        rows.append(torch.cat(mixed))
    return project('proj', torch.stack(rows).unflatten(0, [side, side]))


def swin(weights, img):
    """One image [3, 16, 16] -> [16, 4, 4]."""
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], weights[f'{name}.weight'], weights[f'{name}.bias'])
    linear = lambda x, name: F.linear(x, weights[f'{name}.weight'], weights.get(f'{name}.bias'))
    x = F.conv2d(img, weights['patch_embed.proj.weight'], weights['patch_embed.proj.bias'], stride=2).permute(1, 2, 0)
    x = norm(x, 'patch_embed.norm')
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        for j in range(depth):
            name, shift = f'layers.{i}.blocks.{j}', 2 if j % 2 == 1 and len(x) > WINDOW else 0
            x = x + swin_attention(weights, f'{name}.attn', norm(x, f'{name}.norm1'), heads, shift)
            x = x + linear(F.gelu(linear(norm(x, f'{name}.norm2'), f'{name}.mlp.fc1')), f'{name}.mlp.fc2')
        if i == 0:
            fields = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
            x = linear(norm(torch.cat(fields, dim=2), 'layers.0.downsample.norm'), 'layers.0.downsample.reduction')
    return norm(x, 'norm').permute(2, 0, 1)


def test_swin(tmp_path):
    weights, path = swin_weights(), tmp_path / 'moby_swin_t_300ep_pretrained.pth'
    model = {f'encoder.{name}': value for name, value in weights.items()}
    model |= {f'encoder_k.{name}': value + 1 for name, value in weights.items()}
    model |= {'encoder.layers.0.blocks.1.attn_mask': torch.zeros(4, 16, 16), 'queue1': torch.ones(4, 4),
              'encoder.layers.0.blocks.0.attn.relative_position_index': torch.zeros(16, 16, dtype=torch.int64),
              'projector.linear_hidden.0.weight': torch.ones(2, 2)}
    torch.save(dict(model=model, epoch=299), path)
    teacher = load_teacher(str(path))
    assert teacher.preprocess == (16, MEAN, STD) and teacher.dim == 16 and not teacher.has_texts
    assert teacher.identity.startswith('swin:moby_swin_t_300ep_pretrained.pth:')
    img = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_()
    want = torch.stack([swin(weights, x) for x in normalised(img)])
    torch.testing.assert_close(teacher.encode_end_by_area(img), want, rtol=1e-4, atol=1e-4)
    check_embedding(teacher, img, want.mean([2, 3]))
    assert FeatureLevels(teacher).sides == [8, 8] and (LastLevel(teacher).channels, LastLevel(teacher).side) == (16, 4)


def test_weights_that_are_missing(tmp_path):
    path = tmp_path / 'x.pth'
    for weights, name in [(dino_weights(), 'blocks.1.norm2.bias'), (swin_weights(), 'layers.0.downsample.norm.weight')]:
        del weights[name]
        torch.save(weights, path)
        with pytest.raises(UserError, match=rf'its weights do not fit \(.*{name.split(".", 2)[2]}'):
            load_teacher(str(path))
