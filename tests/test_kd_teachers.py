"""What all teachers share, and the features of real images."""

import numpy as np
import pytest
import safetensors.torch
import torch
from teacher_checks import F, cache  # noqa: F401  (a fixture)

from dnnlib import UserError
from kd_plugin import teacher as teacher_module
from kd_plugin.feature_cache import real_features
from kd_plugin.teacher import Preprocess, Teacher, load_teacher
from training.dataset import demo as demo_data

# -- what all teachers share


def test_teacher_resizes_as_pillow_does():
    """Bicubic with antialiasing, 64 -> 24 and 24 -> 64, against PIL on float images; a smooth picture, differences
    below 8-bit rounding."""
    import PIL.Image

    class Identity(torch.nn.Module):
        def image_features(self, x):
            return x.flatten(1)
    rng = np.random.default_rng(0)
    for side, target in [(64, 24), (24, 64)]:
        coarse = PIL.Image.fromarray(rng.random((6, 6), dtype=np.float32))
        image = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC)).clip(0, 1)
        want = np.asarray(PIL.Image.fromarray(image).resize((target, target), PIL.Image.Resampling.BICUBIC)).clip(0, 1)
        teacher = Teacher(Identity(), Preprocess(target, (0,) * 3, (1,) * 3), 1, 'x')
        got = teacher.encode_image(torch.from_numpy(image.copy())[None, None] * 2 - 1).reshape(3, target, target)[0]
        assert np.abs(got.numpy() - want).max() < 1 / 255


def test_norm_of_the_features():
    """Given one, every vector has it and its direction stays; without, features are as the encoder has them."""
    class Mean(torch.nn.Module):
        def image_features(self, x):
            return x.mean([2, 3])
    img = torch.rand(4, 3, 8, 8)
    raw = Teacher(Mean(), Preprocess(8, (0,) * 3, (1,) * 3), 3, 'x')
    scaled = Teacher(Mean(), Preprocess(8, (0,) * 3, (1,) * 3), 3, 'x', norm=10.0)
    torch.testing.assert_close(raw.encode_image(img), img.mean([2, 3]) / 2 + 0.5)
    torch.testing.assert_close(scaled.encode_image(img).norm(dim=1), torch.full([4], 10.0))
    torch.testing.assert_close(F.cosine_similarity(raw.encode_image(img), scaled.encode_image(img)), torch.ones(4))
    # Features of one must not be taken for those of the other
    assert raw.identity != scaled.identity
    assert not raw.has_texts
    with pytest.raises(UserError, match='--kd-teacher: x knows images only, not texts; give a teacher that knows '
                                        'texts too'):
        raw.encode_text(['a cat'])


def test_messages_name_the_option_that_gave_the_teacher(monkeypatch):
    teacher = load_teacher('demo', option='--perceptual')
    monkeypatch.setattr(Teacher, 'has_texts', False)
    with pytest.raises(UserError, match='--perceptual: demo.* knows images only'):
        teacher.check_texts()


# -- features of the real images

def test_features_are_computed_once(cache):  # noqa: F811
    calls = []

    class Counting(torch.nn.Module):
        def image_features(self, x):
            calls.append(len(x))
            return x.mean([2, 3])
    from training.dataset import ImageFolderDataset
    dataset = ImageFolderDataset(demo_data.demo_set(32), xflip=True)
    teacher = Teacher(Counting(), Preprocess(32, (0.5,) * 3, (0.5,) * 3), 3, 'counting:1')
    feats = real_features(teacher, dataset, batch_size=64)
    assert feats.shape == (200, 3) and sum(calls) == 200
    torch.testing.assert_close(feats[:100], feats[100:], rtol=1e-4, atol=1e-5)          # a mean does not see the mirror
    want = torch.from_numpy(dataset[7][0]).float().mean([1, 2]) / 127.5 - 1
    torch.testing.assert_close(feats[7], want, rtol=1e-4, atol=1e-5)
    assert torch.equal(real_features(teacher, dataset), feats) and sum(calls) == 200
    # Another precision, other features
    teacher.bf16 = True
    real_features(teacher, dataset)
    assert sum(calls) == 400
    real_features(teacher, dataset, raw_input=True)                                     # pixels prepared otherwise
    assert sum(calls) == 600
    real_features(Teacher(Counting(), Preprocess(32, (0.5,) * 3, (0.5,) * 3), 3, 'counting:2'), dataset)
    assert sum(calls) == 800
    few = ImageFolderDataset(demo_data.demo_set(32), max_size=4)                        # other images of the same set
    assert len(real_features(teacher, few)) == 4 and sum(calls) == 804


def test_features_that_are_not_finite(cache):  # noqa: F811
    from training.dataset import ImageFolderDataset
    dataset = ImageFolderDataset(demo_data.demo_set(32))

    class Overflowing(torch.nn.Module):
        def image_features(self, x):
            return x.mean([2, 3]) * 1e5
    teacher = Teacher(Overflowing(), Preprocess(32, (0,) * 3, (1,) * 3), 3, 'large', dtype=torch.float16)
    with pytest.raises(UserError, match=r'--kd-teacher: some of its features .* are infinite or NaN in float16; use '
                                        r'--fp32=1'):
        real_features(teacher, dataset)
    teacher.dtype = torch.float32
    assert real_features(teacher, dataset).isfinite().all()
    path, = cache.glob('teacher_features/*large-float32*')
    # Of some other program's
    safetensors.torch.save_file({'features': torch.full([len(dataset), 3], torch.inf)}, path)
    assert real_features(teacher, dataset).isfinite().all()


def test_precision_of_a_training(monkeypatch):
    """--fp32: weights that were never rounded. Else, on a CPU, bfloat16."""
    asked = []
    monkeypatch.setattr(teacher_module, 'load_teacher', lambda name, device, option: asked.append(device)
                        or load_teacher(name))
    exact, fast = [teacher_module.load_for_training('demo', 'cpu', fp32) for fp32 in (True, False)]
    assert (exact.precision, fast.precision) == ('float32', 'bfloat16')
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(fast.encode_image(img), exact.encode_image(img), rtol=0.05, atol=0.1)
    assert torch.equal(exact.encode_image(img), load_teacher('demo').encode_image(img))
    assert not torch.equal(fast.encode_image(img), exact.encode_image(img))
    monkeypatch.setattr(Teacher, 'to', lambda self, device: asked.append(f'to {device}') or self)
    teacher_module.load_for_training('demo', 'cuda', fp32=True)
    # Where the loader would round them
    assert (asked[2], asked[-1]) == ('cpu', 'to cuda')
