"""Texts, and teachers from every source: the demo file, files of train_teacher, OpenAI CLIP, Hugging Face."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import torch

from dnnlib import UserError
from kd_plugin import prompts, teacher_clip, tiny_clip, train_teacher
from kd_plugin.feature_cache import real_features
from kd_plugin.teacher import Preprocess, Teacher, load_teacher
from training import demo_data

F = torch.nn.functional


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


# -- texts

@pytest.mark.parametrize('name, class_names, first, count', [
    ('100-shot-obama', None, 'a photo of Barack Obama.', 32), ('100-shot-grumpy_cat', None, 'a photo of Grumpy Cat.', 26),
    ('AnimalFace-cat', None, 'a photo of a cat.', 34), ('cifar10-32', None, 'a photo of a airplane.', 10),
    ('cifar100', None, 'a photo of a apple.', 100), ('imagenet64', None, 'a photo of a tench.', 1000),
    ('mine', ['red_rose', 'tulip'], 'a photo of a red rose.', 2), ('mine', ['one'], 'a photo of a person.', 67),
    ('mine', None, 'a photo of a person.', 67),
    ('demo32', None, 'a happy face', 31)])
def test_auto_texts_recognise_the_data(name, class_names, first, count):
    texts, origin = prompts.resolve_texts('auto', name, class_names)
    assert (texts[0], len(texts)) == (first, count) and origin
    assert len(set(texts)) == len(texts)


def test_released_texts_are_cifar10_whatever_the_data():
    texts, _ = prompts.resolve_texts('released', 'cifar100', ['apple', 'bear'])
    assert texts[:2] == ['a airplane', 'a automobile'] and len(texts) == 10


@pytest.mark.parametrize('name', prompts.PRESETS)
def test_every_preset_has_texts(name):
    texts, _ = prompts.resolve_texts(name, 'x')
    assert len(texts) >= 10 and all(text.strip() == text for text in texts)


def test_texts_from_a_file(tmp_path):
    path = tmp_path / 'texts.txt'
    path.write_text('# mine\n a red car \n\na blue car\n')
    assert prompts.resolve_texts(str(path), 'x') == (['a red car', 'a blue car'], f'file {path}')
    path.write_text('# nothing\n')
    with pytest.raises(UserError, match='texts.txt: the file has no text'):
        prompts.resolve_texts(str(path), 'x')
    with pytest.raises(UserError, match='--kd-texts=nosuch: there is no such file and no such preset; presets: auto, obama'):
        prompts.resolve_texts('nosuch', 'x')


# -- the demo teacher and its training

def test_demo_teacher_tells_unseen_faces_apart():
    """Zero-shot, on pictures of a stream that training never drew from; chance is 0.1 to 0.33."""
    teacher = load_teacher('demo')
    accuracy = train_teacher.DemoFaces(32).accuracy(teacher.encoder, count=200)
    assert set(accuracy) == set(demo_data.ATTRIBUTES)
    assert min(accuracy.values()) > 0.95, accuracy


def test_training_a_teacher_improves_it(tmp_path, capsys):
    data = train_teacher.DemoFaces(16)
    model = train_teacher.train(data, steps=100, batch=32, lr=2e-3, seed=0, width=8, dim=16)
    assert data.accuracy(model, count=100)['background'] > 0.3          # chance is 0.1
    path = str(tmp_path / 't.safetensors')
    tiny_clip.save_tiny_clip(model, path, notes={})
    teacher = load_teacher(path)
    img = torch.rand(3, 3, 16, 16) * 2 - 1
    assert teacher.dim == 16 and teacher.encode_image(img).shape == (3, 16)
    torch.testing.assert_close(teacher.encode_image(img), model.image_features(img), rtol=2e-2, atol=2e-2)      # stored in half precision
    torch.testing.assert_close(teacher.encode_text(['a happy face']), teacher.encode_text(['A  happy, face!']))


def test_classes_teacher_learns_from_names(tmp_path):
    """Two classes, red and blue pictures: captions come from the folder names, a tenth is kept for the test."""
    import PIL.Image
    rng = np.random.default_rng(0)
    for name, colour in [('red_things', (200, 30, 30)), ('blue_things', (30, 30, 200))]:
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(np.array(colour) + rng.integers(-30, 30, size=(16, 16, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / 'data' / name / f'{i}.png')
    data = train_teacher.NamedClasses(str(tmp_path / 'data'), 16)
    model = train_teacher.train(data, steps=25, batch=16, lr=2e-3, seed=0, width=8, dim=16)
    assert data.accuracy(model)['class'] == 1.0


def test_damaged_and_foreign_teacher_files(tmp_path):
    path = tmp_path / 't.safetensors'
    with pytest.raises(UserError, match=r't\.safetensors: .* does not exist; make it with: python -m kd_plugin\.train_teacher'):
        load_teacher(str(path))
    path.write_bytes(b'nothing')
    with pytest.raises(UserError, match='is damaged'):
        load_teacher(str(path))
    from torch_utils import checkpoint
    checkpoint.save(str(path), 'network', {}, {})
    with pytest.raises(UserError, match="is not a teacher: its format is 'kdgan-network'"):
        load_teacher(str(path))


def test_teacher_resizes_as_pillow_does():
    """Bicubic with antialiasing, 64 -> 24 and 24 -> 64, against PIL on float images; a smooth picture, differences below 8-bit rounding."""
    import PIL.Image

    class Identity(torch.nn.Module):
        def image_features(self, x):
            return x.flatten(1)
    rng = np.random.default_rng(0)
    for size, target in [(64, 24), (24, 64)]:
        image = np.asarray(PIL.Image.fromarray(rng.random((6, 6), dtype=np.float32)).resize((size, size), PIL.Image.Resampling.BICUBIC)).clip(0, 1)
        want = np.asarray(PIL.Image.fromarray(image).resize((target, target), PIL.Image.Resampling.BICUBIC)).clip(0, 1)
        teacher = Teacher(Identity(), Preprocess(target, (0,) * 3, (1,) * 3), 1, 'x')
        got = teacher.encode_image(torch.from_numpy(image.copy())[None, None] * 2 - 1).reshape(3, target, target)[0]
        assert np.abs(got.numpy() - want).max() < 1 / 255


# -- features of the real images

def test_features_are_computed_once(cache):
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


# -- OpenAI CLIP, through the real package with small random weights

@pytest.fixture
def clip(monkeypatch):
    """The real package; torchvision, which has no CPU build here and is only asked for PIL transforms, is a stand-in."""
    transforms = types.ModuleType('torchvision.transforms')
    for name in ('Compose', 'Resize', 'CenterCrop', 'ToTensor', 'Normalize'):
        setattr(transforms, name, lambda *args, **kwargs: None)
    transforms.InterpolationMode = types.SimpleNamespace(BICUBIC=3)
    monkeypatch.setitem(sys.modules, 'torchvision', types.ModuleType('torchvision'))
    monkeypatch.setitem(sys.modules, 'torchvision.transforms', transforms)
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')             # pkg_resources, imported by clip, is deprecated
        import clip
    return clip


@pytest.fixture
def small_clip(clip, tmp_path):
    """A checkpoint in the layout of the published ones."""
    from clip.model import CLIP
    torch.manual_seed(0)
    model = CLIP(embed_dim=64, image_resolution=32, vision_layers=1, vision_width=64, vision_patch_size=16, context_length=77, vocab_size=49408,
                 transformer_width=64, transformer_heads=1, transformer_layers=1)
    state = {name: value.half() for name, value in model.state_dict().items()}
    state.update(input_resolution=torch.tensor(32), context_length=torch.tensor(77), vocab_size=torch.tensor(49408))
    path = tmp_path / 'small-clip.pt'
    torch.save(state, path)
    return str(path), model


@pytest.mark.filterwarnings('ignore')               # of clip, on current torch
def test_clip_checkpoint(small_clip):
    path, model = small_clip
    teacher = load_teacher(path)
    assert (teacher.dim, teacher.preprocess.size, teacher.preprocess.mean) == (64, 32, teacher_clip.MEAN)
    assert teacher.identity.startswith('clip:small-clip.pt:')
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    x = (img / 2 + 0.5 - torch.tensor(teacher_clip.MEAN)[:, None, None]) / torch.tensor(teacher_clip.STD)[:, None, None]
    torch.testing.assert_close(teacher.encode_image(img), model.eval().encode_image(x), rtol=1e-2, atol=1e-2)       # weights stored in fp16
    feats = teacher.encode_text(['a photo of a cat.', 'a dog'])
    assert feats.shape == (2, 64) and feats.dtype == torch.float32 and not torch.allclose(feats[0], feats[1])


@pytest.mark.filterwarnings('ignore')
def test_clip_names_offline_and_unknown(clip, cache, monkeypatch):
    import urllib.error
    import urllib.request
    def offline(url):
        raise urllib.error.URLError('no network')
    monkeypatch.setattr(urllib.request, 'urlopen', offline)
    with pytest.raises(UserError, match=r'=ViT-B/32: the weights cannot be downloaded .*fetch https://.*/ViT-B-32\.pt elsewhere and put it into '):
        load_teacher('ViT-B/32')
    with pytest.raises(UserError, match='--kd-teacher=ViT-X: there is no teacher of this name; use demo, a file, hf:NAME, or one of RN50'):
        load_teacher('ViT-X')


@pytest.mark.filterwarnings('ignore')
def test_a_file_that_is_no_clip(clip, tmp_path):
    path = tmp_path / 'bad.pt'
    torch.save({'a': torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r'bad\.pt: the weights cannot be read'):
        load_teacher(str(path))


def test_without_the_clip_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'clip', None)
    with pytest.raises(UserError, match='the package clip cannot be imported .*pip install git'):
        load_teacher('ViT-B/32')


# -- Hugging Face

@pytest.fixture
def hf_clip(tmp_path):
    """A folder as `save_pretrained` makes it: a tiny random CLIP with a tokenizer of its own."""
    transformers = pytest.importorskip('transformers')
    folder = tmp_path / 'hf-clip'
    config = transformers.CLIPConfig(
        projection_dim=24, text_config=dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300,
                                            max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1),
        vision_config=dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16))
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    words = ['<start>', '<end>', 'a', 'photo', 'of', 'cat', 'dog', '?']
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='?'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single='<start> $A <end>', special_tokens=[('<start>', 0), ('<end>', 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token='<start>', eos_token='<end>', pad_token='<end>', unk_token='?',
                                         model_max_length=16).save_pretrained(folder)
    (folder / 'preprocessor_config.json').write_text(json.dumps(dict(do_center_crop=True, crop_size=dict(height=32, width=32),
        size=dict(shortest_edge=32), image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])))
    return folder, model.eval()


@pytest.mark.filterwarnings('ignore')
def test_hf_model(hf_clip):
    folder, model = hf_clip
    teacher = load_teacher(f'hf:{folder}')
    assert (teacher.dim, teacher.preprocess) == (24, Preprocess(32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    x = (img / 2 + 0.5 - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    want = model.visual_projection(model.vision_model(pixel_values=x).pooler_output)
    torch.testing.assert_close(teacher.encode_image(img), want)
    feats = teacher.encode_text(['a photo of a cat', 'a photo of a dog'])
    assert feats.shape == (2, 24) and not torch.allclose(feats[0], feats[1])


@pytest.mark.filterwarnings('ignore')
def test_hf_model_that_is_not_there(tmp_path):
    pytest.importorskip('transformers')
    with pytest.raises(UserError, match=r'--kd-teacher=hf:.*nothing: the model cannot be loaded .*hf:FOLDER'):
        load_teacher(f'hf:{tmp_path / "nothing"}')


def test_text_files_lie_in_the_package():
    files = {path.stem for path in pathlib.Path(prompts.TEXT_DIR).glob('*.txt')}
    assert files == {preset.file for preset in prompts.PRESETS.values()}
