"""OpenAI's CLIP as a teacher: by name, as a file of any kind, and what is none."""

import sys
import types

import pytest
import torch
from teacher_checks import cache, normalised  # noqa: F401  (a fixture)

from dnnlib import UserError
from kd_plugin.teacher import Preprocess, load_teacher
from kd_plugin.teachers import clip as teacher_clip


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
              'RN50x16': (384, 768, None), 'RN50x64': (448, 1024, None), 'ViT-B/32': (224, 512, 32),
              'ViT-B/16': (224, 512, 16), 'ViT-L/14': (224, 768, 14), 'ViT-L/14@336px': (336, 768, 14)}


def save_clip(path, size, dim, patch):
    """A model in the layout of the published ones, weights in half precision. -> the model with the very same
    weights."""
    from clip.model import CLIP
    torch.manual_seed(0)
    vision = (dict(vision_layers=(1, 1, 1, 1), vision_width=8) if patch is None
              else dict(vision_layers=1, vision_width=64))
    model = CLIP(embed_dim=dim, image_resolution=size, vision_patch_size=patch, context_length=77, vocab_size=49408,
                 transformer_width=64, transformer_heads=1, transformer_layers=1, **vision).half()
    sizes = dict(input_resolution=torch.tensor(size), context_length=torch.tensor(77), vocab_size=torch.tensor(49408))
    torch.save({**model.state_dict(), **sizes}, path)
    return model.float().eval()


def test_the_names_are_those_of_the_package(clip):
    assert set(CLIP_SIZES) == set(teacher_clip.NAMES) == set(clip.available_models())


@pytest.mark.filterwarnings('ignore')               # of clip, on current torch
@pytest.mark.parametrize('name', CLIP_SIZES)
def test_clip_by_name(clip, name, tmp_path, cache, monkeypatch):  # noqa: F811
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


@pytest.mark.filterwarnings('ignore')
def test_clip_names_offline_and_unknown(clip, cache, monkeypatch):  # noqa: F811
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
def test_a_download_that_is_damaged(clip, cache, monkeypatch):  # noqa: F811
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
