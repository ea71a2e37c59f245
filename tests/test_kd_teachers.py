"""Teachers of every source against independent forward passes, on small models with random weights."""

import json
import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from kd_toys import reported_losses, setup, size, step

from dnnlib import UserError
from kd_plugin import teacher as teacher_module
from kd_plugin.distillers.settings import PRESETS
from kd_plugin.feature_cache import real_features
from kd_plugin.loss import check_distillation
from kd_plugin.teacher import COMMON_NORM, Preprocess, Teacher, load_teacher
from kd_plugin.teachers import clip as teacher_clip
from training.dataset import demo as demo_data

F = torch.nn.functional


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


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


def test_features_that_are_not_finite(cache):
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


# -- OpenAI
@pytest.fixture
def clip(monkeypatch):
    """The real package; torchvision, which has no CPU build here and is only asked for PIL transforms, is a
    stand-in."""
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


# name -> (input size, width of the features, patch of a ViT or None), as published; all else is small here
CLIP_SIZES = {'RN50': (224, 1024, None), 'RN101': (224, 512, None), 'RN50x4': (288, 640, None),
              'RN50x16': (384, 768, None),
              'RN50x64': (448, 1024, None), 'ViT-B/32': (224, 512, 32), 'ViT-B/16': (224, 512, 16),
              'ViT-L/14': (224, 768, 14),
              'ViT-L/14@336px': (336, 768, 14)}


def save_clip(path, size, dim, patch):
    """A model in the layout of the published ones, weights in half precision. -> the model with the very same
    weights."""
    from clip.model import CLIP
    torch.manual_seed(0)
    vision = (dict(vision_layers=(1, 1, 1, 1), vision_width=8) if patch is None
              else dict(vision_layers=1, vision_width=64))
    model = CLIP(embed_dim=dim, image_resolution=size, vision_patch_size=patch, context_length=77, vocab_size=49408,
                 transformer_width=64,
                 transformer_heads=1, transformer_layers=1, **vision).half()
    sizes = dict(input_resolution=torch.tensor(size), context_length=torch.tensor(77), vocab_size=torch.tensor(49408))
    torch.save({**model.state_dict(), **sizes}, path)
    return model.float().eval()


def test_the_names_are_those_of_the_package(clip):
    assert set(CLIP_SIZES) == set(teacher_clip.NAMES) == set(clip.available_models())


@pytest.mark.filterwarnings('ignore')               # of clip, on current torch
@pytest.mark.parametrize('name', CLIP_SIZES)
def test_clip_by_name(clip, name, tmp_path, cache, monkeypatch):
    size, dim, patch = CLIP_SIZES[name]
    path = str(tmp_path / 'small-clip.pt')
    model = save_clip(path, size, dim, patch)
    monkeypatch.setattr(clip.clip, '_download', lambda url, root: path)
    teacher = load_teacher(name)
    preprocess = Preprocess(size, teacher_clip.MEAN, teacher_clip.STD)
    assert (teacher.dim, teacher.preprocess, teacher.norm, teacher.identity) == (dim, preprocess, None, f'clip:{name}')
    img = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        feats = teacher.encode_image(img)
        torch.testing.assert_close(feats, model.encode_image(normalised(img, teacher_clip.MEAN, teacher_clip.STD)))
        teacher.bf16 = True
        rough = teacher.encode_image(img)
        assert rough.dtype == torch.float32 and 1e-6 < (rough - feats).norm() / feats.norm() < 0.02
        texts = ['a photo of a cat.', 'a dog']
        torch.testing.assert_close(teacher.encode_text(texts), model.encode_text(clip.tokenize(texts)))
    assert load_teacher(path).identity.startswith('clip:small-clip.pt:')


def normalised(img, mean, std):
    """[N, 3, H, W] in [-1, 1] -> what an encoder of this mean and std gets."""
    return (img / 2 + 0.5 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.filterwarnings('ignore')
def test_clip_names_offline_and_unknown(clip, cache, monkeypatch):
    import urllib.error
    import urllib.request
    def offline(url):
        raise urllib.error.URLError('no network')
    monkeypatch.setattr(urllib.request, 'urlopen', offline)
    with pytest.raises(UserError, match=r'=ViT-B/32: the weights cannot be downloaded .*fetch https://.*/ViT-B-32\.pt '
                                        r'elsewhere and put it into '):
        load_teacher('ViT-B/32')
    with pytest.raises(UserError, match='=ViT-X: there is no teacher of this name; use demo, .* or one of RN50'):
        load_teacher('ViT-X')


def load_as_openai(path, device):
    """What `clip.load` of OpenAI's own edition does with a file: forks begin again after the first attempt, not
    this."""
    from clip.model import build_model
    with open(path, 'rb') as f:
        try:
            state = torch.jit.load(f, map_location='cpu').state_dict()
        except RuntimeError:
            state = torch.load(f, map_location='cpu')
    return build_model(state).to(device).float(), None


def write_kind(path, kind, model):
    """A file of one of the kinds that people give as FILE.pt."""
    if kind == 'archive':
        model.register_buffer('input_resolution', torch.tensor(64))                 # as the published archives have it
        torch.jit.save(torch.jit.trace(model, (torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.int64))), path)
    elif kind == 'objects':
        torch.save(dict(state_dict=model.state_dict(), optimizer=types.SimpleNamespace()), path)
    elif kind in ('state', 'wrapped'):
        torch.save(model.state_dict() if kind == 'state' else dict(epoch=3, state_dict=model.state_dict()), path)
    else:
        torch.save(model.state_dict(), path)
        whole = path.read_bytes()
        path.write_bytes(dict(garbage=b'no CLIP at all\n' * 100, empty=b'', truncated=whole[:len(whole) // 2])[kind])


@pytest.fixture(params=['fork', 'openai'])
def edition(request, clip, monkeypatch):
    """Both editions of the package."""
    if request.param == 'openai':
        monkeypatch.setattr(clip, 'load', load_as_openai)


@pytest.fixture
def small_clip(clip, tmp_path):
    return save_clip(tmp_path / 'source.pt', 64, 16, 32)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['archive', 'state', 'wrapped'])
def test_files_of_every_kind_of_clip(edition, small_clip, clip, kind, tmp_path):
    path = tmp_path / 'own.pt'
    img = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        want = small_clip.encode_image(normalised(img, teacher_clip.MEAN, teacher_clip.STD))
        texts = small_clip.encode_text(clip.tokenize(['a cat']))
        write_kind(path, kind, small_clip)
        teacher = load_teacher(str(path))
        torch.testing.assert_close(teacher.encode_image(img), want)
        torch.testing.assert_close(teacher.encode_text(['a cat']), texts)
    assert (teacher.dim, teacher.preprocess.size, teacher.dtype) == (16, 64, torch.float32)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['garbage', 'empty', 'objects', 'truncated'])
def test_files_that_are_no_clip(edition, small_clip, kind, tmp_path):
    path = tmp_path / 'bad.pt'
    write_kind(path, kind, small_clip)
    message = r'--kd-teacher=.*bad\.pt: the weights cannot be read \(.*\); it must be a model of OpenAI'
    with pytest.raises(UserError, match=message) as err:
        load_teacher(str(path))
    assert '\n' not in str(err.value)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('content', [{'a': torch.zeros(1)}, {'state_dict': 5}, {}, [1], torch.zeros(3),
                                     {'visual.proj': 1, 'visual.conv1.weight': 2}])
def test_other_tensors_are_no_clip(clip, content, tmp_path):
    path = tmp_path / 'bad.pt'
    torch.save(content, path)
    with pytest.raises(UserError, match=r'bad\.pt: the weights cannot be read'):
        load_teacher(str(path))


@pytest.mark.filterwarnings('ignore')
def test_a_download_that_is_damaged(clip, cache, monkeypatch):
    def damaged(url, root):
        raise RuntimeError('Model has been downloaded but the SHA256 checksum does not not match')
    monkeypatch.setattr(clip.clip, '_download', damaged)
    message = r'=ViT-B/32: the weights cannot be had \(RuntimeError: .*\); delete .*/clip/ViT-B-32\.pt and try again'
    with pytest.raises(UserError, match=message):
        load_teacher('ViT-B/32')


def test_without_the_clip_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'clip', None)
    with pytest.raises(UserError, match='the package clip cannot be imported .*pip install clip-anytorch'):
        load_teacher('ViT-B/32')


# -- Hugging Face

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
TEXT = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300,
            max_position_embeddings=40,
            bos_token_id=0, eos_token_id=1, pad_token_id=1)
VISION = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
              patch_size=16)
TOKENS = [[0, 2, 3, 4, 2, 5, 1], [0, 2, 3, 4, 2, 6, 1]]     # of the two texts below, with the tokenizer below
TEXTS = ['A photo of a cat', 'a photo of a dog']


@pytest.fixture
def transformers():
    return pytest.importorskip('transformers')


def save_model(folder, model, processor='preprocessor_config.json'):
    """A folder as `save_pretrained` makes it, with a small lower-casing tokenizer. -> name of the teacher."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    model.eval().save_pretrained(folder)
    words = ['<start>', '<end>', 'a', 'photo', 'of', 'cat', 'dog', '?']
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='?'))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single='<start> $A <end>',
                                                             special_tokens=[('<start>', 0), ('<end>', 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token='<start>', eos_token='<end>',
                                         pad_token='<end>', unk_token='?',
                                         model_max_length=16).save_pretrained(folder)
    settings = dict(size=dict(shortest_edge=36), do_center_crop=True, crop_size=dict(height=32, width=32),
                    image_mean=MEAN, image_std=STD)
    (folder / processor).write_text(json.dumps(settings if processor.startswith('pre')
                                               else dict(image_processor=settings)))
    return f'hf:{folder}'


def check_images(teacher, want, dim, norm):
    """Features of images against `want(normalised images)`, direction and length, and that a gradient reaches the
    images."""
    assert (teacher.dim, teacher.preprocess, teacher.norm) == (dim, Preprocess(32, MEAN, STD), norm)
    img = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    feats, expected = teacher.encode_image(img), want(normalised(img.detach(), MEAN, STD)).detach()
    torch.testing.assert_close(feats, expected if norm is None else F.normalize(expected, dim=1) * norm)
    feats.square().sum().backward() if norm is None else feats[:, 0].sum().backward()
    assert img.grad.abs().sum() > 0


@pytest.mark.filterwarnings('ignore')
def test_hf_clip(transformers, tmp_path):
    config = transformers.CLIPConfig(projection_dim=24, text_config=dict(TEXT, max_position_embeddings=16),
                                     vision_config=VISION)
    model = transformers.CLIPModel(config)
    teacher = load_teacher(save_model(tmp_path, model))
    check_images(teacher, lambda x: model.visual_projection(model.vision_model(pixel_values=x).pooler_output),
                 dim=24, norm=None)
    tokens = torch.tensor([row + [1] * 9 for row in TOKENS])
    mask = torch.tensor([[1] * 7 + [0] * 9] * 2)
    want = model.text_projection(model.text_model(input_ids=tokens, attention_mask=mask).pooler_output)
    torch.testing.assert_close(teacher.encode_text(TEXTS), want.detach())


@pytest.mark.filterwarnings('ignore')
def test_hf_siglip(transformers, tmp_path):
    """Texts are padded and not masked: the feature is taken at the last place, which is padding."""
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=dict(TEXT, projection_size=32,
                                                                                max_position_embeddings=16),
                                                               vision_config=VISION))
    torch.nn.init.normal_(model.text_model.embeddings.token_embedding.weight)
    teacher = load_teacher(save_model(tmp_path, model, processor='processor_config.json'))
    check_images(teacher, lambda x: model.vision_model(pixel_values=x).pooler_output, dim=32, norm=COMMON_NORM)
    want = model.text_model(input_ids=torch.tensor([row + [1] * 9 for row in TOKENS])).pooler_output.detach()
    torch.testing.assert_close(teacher.encode_text(TEXTS), F.normalize(want, dim=1) * COMMON_NORM)
    assert not torch.allclose(want[0], want[1])


@pytest.fixture
def blip_config(transformers):
    return transformers.BlipConfig(image_text_hidden_size=24,
                                   text_config=dict(TEXT, encoder_hidden_size=32, sep_token_id=1), vision_config=VISION)


@pytest.mark.filterwarnings('ignore')
def test_hf_blip(transformers, blip_config, tmp_path):
    """Against the similarity of the model's own contrastive head."""
    torch.manual_seed(0)
    model = transformers.BlipForImageTextRetrieval(blip_config)
    teacher = load_teacher(save_model(tmp_path, model))
    check_images(teacher, lambda x: model.vision_proj(model.vision_model(pixel_values=x).last_hidden_state[:, 0]),
                 dim=24, norm=COMMON_NORM)
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    want = model(pixel_values=normalised(img, MEAN, STD), input_ids=torch.tensor(TOKENS), use_itm_head=False).itm_score
    texts = teacher.encode_text(['A photo (of) a cat!', TEXTS[1]])              # the marks are left out
    got = F.normalize(teacher.encode_image(img), dim=1) @ F.normalize(texts, dim=1).t()
    torch.testing.assert_close(got, want.detach())


@pytest.mark.filterwarnings('ignore')
def test_a_blip_without_projections_is_refused(transformers, blip_config, tmp_path):
    """Loaded all the same, it would teach with random weights."""
    name = save_model(tmp_path, transformers.BlipForConditionalGeneration(blip_config))
    with pytest.raises(UserError, match='the file has no weights for .*use a model that was trained to compare '
                                        '.*blip-itm-base-coco'):
        load_teacher(name)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['Dinov2', 'Dinov2WithRegisters'])
def test_hf_dinov2(transformers, tmp_path, kind):
    model = getattr(transformers, f'{kind}Model')(getattr(transformers,
                                                          f'{kind}Config')(hidden_size=32, num_hidden_layers=2,
                                                                           num_attention_heads=2,
                                                                                         image_size=64, patch_size=8))
    teacher = load_teacher(save_model(tmp_path, model))
    check_images(teacher, lambda x: model(pixel_values=x).last_hidden_state[:, 0], dim=32, norm=COMMON_NORM)
    with pytest.raises(UserError, match='knows images only'):
        teacher.encode_text(TEXTS)


@pytest.mark.filterwarnings('ignore')
def test_an_image_teacher_distils_by_agkd_and_is_refused_for_cgkd(transformers, tmp_path):
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64,
                                       patch_size=8)
    name = save_model(tmp_path, transformers.Dinov2Model(config))
    settings = PRESETS['paper']
    check_distillation(16, ['agkd'], name, [], settings._asdict())
    G, D, kd, loss = setup(load_teacher(name), ('agkd',))
    assert reported_losses(lambda: step(loss, 'Dmain', G, D, kd)) == {'KD/agkd_fake', 'KD/agkd_real'}
    assert kd.head.weight.shape == (32, 16) and size(kd.head) > 0
    with pytest.raises(UserError, match=r'--kd-teacher: hf:.*knows images only, not texts; leave cgkd out of --kd, or '
                                        r'give a teacher'):
        check_distillation(16, ['agkd', 'cgkd'], name, ['a cat'], settings._asdict())


@pytest.mark.filterwarnings('ignore')
def test_hf_model_that_is_not_there(transformers, tmp_path):
    with pytest.raises(UserError, match=r'--kd-teacher=hf:.*nothing: the model cannot be loaded .*hf:FOLDER'):
        load_teacher(f'hf:{tmp_path / "nothing"}')
