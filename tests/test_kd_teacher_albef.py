"""TCL and ALBEF from checkpoints in their released layout, small and random, against forward passes written out
here."""

import math

import pytest
import torch

from dnnlib import UserError
from kd_plugin.teacher import COMMON_NORM, load_teacher
from kd_plugin.teachers.clip import MEAN, STD

F = torch.nn.functional
WIDTH, HIDDEN, SIZE, PATCH, DEPTH, DIM = 128, 192, 48, 16, 2, 24          # two heads of 64
TEXT_LAYERS = 3                                                          # of which the last has cross-attention
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'photo', 'of', 'cat', 'dog', 's', 'black', 'white']


def bert(transformers):
    torch.manual_seed(1)
    config = transformers.BertConfig(vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=TEXT_LAYERS,
                                     num_attention_heads=2, intermediate_size=HIDDEN, max_position_embeddings=40)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def weights(model, prefix='text_encoder.bert.'):
    """A state dict as the pre-trained checkpoints have it; prefix 'text_encoder.' as those fine-tuned for retrieval."""
    gen = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.randn(*shape, generator=gen) * 0.1
    state = {'cls_token': rand(1, 1, WIDTH), 'pos_embed': rand(1, (SIZE // PATCH) ** 2 + 1, WIDTH),
             'patch_embed.proj.weight': rand(WIDTH, 3, PATCH, PATCH), 'patch_embed.proj.bias': rand(WIDTH),
             'norm.weight': rand(WIDTH) + 1, 'norm.bias': rand(WIDTH)}
    for i in range(DEPTH):
        for name, rows, columns in [('attn.qkv', 3 * WIDTH, WIDTH), ('attn.proj', WIDTH, WIDTH),
                                    ('mlp.fc1', HIDDEN, WIDTH), ('mlp.fc2', WIDTH, HIDDEN)]:
            state.update({f'blocks.{i}.{name}.weight': rand(rows, columns), f'blocks.{i}.{name}.bias': rand(rows)})
        for name in ('norm1', 'norm2'):
            state.update({f'blocks.{i}.{name}.weight': rand(WIDTH) + 1, f'blocks.{i}.{name}.bias': rand(WIDTH)})
    result = {f'visual_encoder.{name}': value for name, value in state.items()}
    # The momentum encoder is another
    result.update({f'visual_encoder_m.{name}': value + 1 for name, value in state.items()})
    result.update({f'{prefix}{name}': value for name, value in model.state_dict().items()})
    result[f'{prefix}embeddings.position_ids'] = torch.arange(40)[None]
    result[f'{prefix}encoder.layer.{TEXT_LAYERS - 1}.crossattention.self.query.weight'] = rand(WIDTH, WIDTH)
    for name in ('vision_proj', 'text_proj'):
        result.update({f'{name}.weight': rand(DIM, WIDTH), f'{name}.bias': rand(DIM),
                       f'{name}_m.weight': rand(DIM, WIDTH)})
    result.update({'temp': torch.tensor(0.07), 'image_queue': rand(DIM, 8), 'itm_head.weight': rand(2, WIDTH),
                   'text_encoder.cls.predictions.bias': rand(len(WORDS))})
    return result


def vit(state, x):
    """The class token of a ViT in timm's layout, written out."""
    get = lambda name: (state[f'visual_encoder.{name}.weight'], state[f'visual_encoder.{name}.bias'])
    norm = lambda x, name: F.layer_norm(x, [WIDTH], *get(name), eps=1e-6)
    x = F.conv2d(x, *get('patch_embed.proj'), stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state['visual_encoder.cls_token'].expand(len(x), -1, -1), x], 1) + state['visual_encoder.pos_embed']
    for i in range(DEPTH):
        n, tokens, _ = x.shape
        q, k, v = F.linear(norm(x, f'blocks.{i}.norm1'),
                           *get(f'blocks.{i}.attn.qkv')).reshape(n, tokens, 3, 2, 64).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(2, 3)) / math.sqrt(64)).softmax(3) @ v
        x = x + F.linear(mixed.transpose(1, 2).reshape(n, tokens, WIDTH), *get(f'blocks.{i}.attn.proj'))
        x = x + F.linear(F.gelu(F.linear(norm(x, f'blocks.{i}.norm2'), *get(f'blocks.{i}.mlp.fc1'))),
                         *get(f'blocks.{i}.mlp.fc2'))
    return norm(x, 'norm')[:, 0]


@pytest.fixture
def transformers():
    return pytest.importorskip('transformers')


@pytest.mark.filterwarnings('ignore')               # of transformers
@pytest.mark.parametrize('prefix', ['text_encoder.bert.', 'text_encoder.'])
def test_checkpoint(transformers, tmp_path, prefix):
    model = bert(transformers)
    state = weights(model, prefix)
    path = tmp_path / 'ALBEF.pth'
    torch.save(dict(model=state, optimizer={}, epoch=3, config=dict(image_res=SIZE)), path)
    (tmp_path / 'vocab.txt').write_text('\n'.join(WORDS))
    teacher = load_teacher(str(path))
    assert (teacher.dim, teacher.preprocess, teacher.identity[:16]) == (DIM, (SIZE, MEAN, STD), 'albef:ALBEF.pth:')
    img = (torch.rand(2, 3, SIZE, SIZE) * 2 - 1).requires_grad_()
    x = (img / 2 + 0.5 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    want = F.linear(vit(state, x), state['vision_proj.weight'], state['vision_proj.bias'])
    got = teacher.encode_image(img)
    torch.testing.assert_close(got, F.normalize(want, dim=1) * COMMON_NORM)
    torch.testing.assert_close(torch.autograd.grad(got[:, 0].sum(), img)[0],
                               torch.autograd.grad((F.normalize(want, dim=1) * COMMON_NORM)[:, 0].sum(), img)[0],
                               rtol=1e-3, atol=1e-5)

    # "A black-white photo of a cat's dog!" is lower-cased, its hyphen a space, apostrophe and exclamation mark left out
    tokens = torch.tensor([[2, 5, 11, 12, 6, 7, 5, 8, 3], [2, 5, 9, 3, 0, 0, 0, 0, 0]])
    states = model(input_ids=tokens, attention_mask=tokens != 0,
                   output_hidden_states=True).hidden_states[TEXT_LAYERS - 1]
    want = F.linear(states[:, 0], state['text_proj.weight'], state['text_proj.bias'])
    got = teacher.encode_text(['A black-white photo, of a cat!', "a 'dog'"])
    torch.testing.assert_close(got, (F.normalize(want, dim=1) * COMMON_NORM).detach())


@pytest.mark.filterwarnings('ignore')
def test_files_that_are_none(transformers, tmp_path):
    path = tmp_path / 'x.pth'
    with pytest.raises(UserError, match=r'x\.pth: there is no such file; download'):
        load_teacher(str(path))
    path.write_bytes(b'nothing')
    with pytest.raises(UserError, match='is damaged'):
        load_teacher(str(path))
    torch.save(dict(model=dict(a=torch.zeros(1)), args=PurePickle()), path)
    with pytest.raises(UserError, match='has more in it than tensors and plain values, which is not read'):
        load_teacher(str(path))
    torch.save(dict(state_dict={}), path)
    with pytest.raises(UserError, match="the file has no 'model' with tensors in it"):
        load_teacher(str(path))
    torch.save(dict(model=dict(a=torch.zeros(1))), path)
    with pytest.raises(UserError, match=r'the file has none of visual_encoder\.pos_embed, .*; use a checkpoint of TCL, '
                                        "ALBEF, DINO or MoBY's Swin"):
        load_teacher(str(path))
    state = weights(bert(transformers))
    del state['visual_encoder.blocks.1.norm2.bias']
    torch.save(dict(model=state), path)
    (tmp_path / 'vocab.txt').write_text('\n'.join(WORDS))
    with pytest.raises(UserError, match=r'its weights do not fit \(.*norm2\.bias'):
        load_teacher(str(path))


class PurePickle:
    """Something that only code could bring back."""


@pytest.mark.filterwarnings('ignore')
def test_without_words(transformers, tmp_path, monkeypatch):
    """No vocab.txt beside the file, and no network."""
    def offline(*_args, **_kwargs):
        raise OSError('no network')
    monkeypatch.setattr(transformers.BertTokenizer, 'from_pretrained', offline)
    path = tmp_path / 'TCL_4M.pth'
    torch.save(dict(model=weights(bert(transformers))), path)
    with pytest.raises(UserError, match=r'bert-base-uncased cannot be fetched \(no network\); put its vocab\.txt '
                                        r'next to the file'):
        load_teacher(str(path))
