"""TCL and ALBEF as teachers, from the checkpoints that their authors released."""

import math
import os
import pickle
import re

import torch

from dnnlib import UserError, files
from dnnlib.text import one_line

from ..teacher import COMMON_NORM, Preprocess, Teacher
from .clip import MEAN, STD

F = torch.nn.functional
HEAD_WIDTH = 64                         # of every attention head of ViT-B and bert-base
MAX_TOKENS = 30
TOKENIZER = 'bert-base-uncased'
# Captions as both were trained on: lower case, without these characters, hyphens and slashes as spaces.
PUNCTUATION = str.maketrans('-/', '  ', ',.\'!?"()*#:;~')
# Momentum encoders, other losses
OTHERS = re.compile(r'.*_m\.|.*queue|temp$|itm_head|text_encoder\.cls\.|.*position_ids$')


class AlbefEncoder(torch.nn.Module):
    """The encoders of the contrastive loss of ALBEF (Li et al., NeurIPS 2021) and TCL (Yang et al., CVPR 2022).

    ViT-B/16 for images; for texts the layers of BERT before those with cross-attention; of both, the projected class
    token.

    Args:
        image:     `VisionTransformer`.
        text:      BERT of `transformers`.
        projected: width of the features.
        tokenizer: of BERT.
    """

    def __init__(self, image, text, projected, tokenizer):
        super().__init__()
        self.visual_encoder, self.text_encoder = image, text
        self.vision_proj = torch.nn.Linear(image.width, projected)
        self.text_proj = torch.nn.Linear(text.config.hidden_size, projected)
        self.tokenizer = tokenizer

    def image_features(self, x):
        return self.vision_proj(self.visual_encoder(x))

    def text_features(self, texts):
        texts = [text.lower().translate(PUNCTUATION) for text in texts]
        tokens = self.tokenizer(texts, padding='longest', max_length=MAX_TOKENS, truncation=True, return_tensors='pt')
        tokens = tokens.to(self.text_proj.weight.device)
        states = self.text_encoder(input_ids=tokens['input_ids'],
                                   attention_mask=tokens['attention_mask']).last_hidden_state
        return self.text_proj(states[:, 0])


class VisionTransformer(torch.nn.Module):
    """ViT of [N, 3, size, size] -> class token [N, width], of PyTorch's layers.

    Args:
        size, patch:        pixels of the image and of a patch.
        width, hidden:      of the tokens and of the inner layers.
        depth:              layers.
    """

    def __init__(self, size, patch, width, hidden, depth):
        super().__init__()
        self.width = width
        self.patches = torch.nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        layer = torch.nn.TransformerEncoderLayer(width, width // HEAD_WIDTH, hidden, dropout=0, activation=F.gelu,
                                                 layer_norm_eps=1e-6, batch_first=True, norm_first=True)
        self.blocks = torch.nn.TransformerEncoder(layer, depth, norm=torch.nn.LayerNorm(width, eps=1e-6),
                                                  enable_nested_tensor=False)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.blocks(x)[:, 0]


# Names of the released ViT (those of timm) -> names of `VisionTransformer`; query, key and value are one matrix in
# both, in this order.
VIT_NAMES = [(r'patch_embed\.proj\.', 'patches.'), (r'blocks\.(\d+)\.', r'blocks.layers.\1.'),
             (r'\.attn\.qkv\.', '.self_attn.in_proj_'),
             (r'\.attn\.proj\.', '.self_attn.out_proj.'), (r'\.mlp\.fc([12])\.', r'.linear\1.'),
             (r'^norm\.', 'blocks.norm.')]


def check_file(path):
    """Raises UserError if it is not there."""
    if not os.path.isfile(path):
        raise UserError('there is no such file; download TCL_4M.pth or ALBEF.pth from its authors')


def load_albef_teacher(path, device):
    """`Teacher` from FILE.pth, the checkpoint of TCL or ALBEF, pre-trained or fine-tuned for retrieval; half precision
    on a GPU.

    The tokenizer is that of bert-base-uncased: a vocab.txt next to the file, else fetched from Hugging Face. Raises
    UserError if the file is of another kind, or holds anything besides tensors and plain values.
    """
    weights = _read(path)
    encoder = _build(weights, os.path.dirname(path))
    dtype = torch.float16 if device.type == 'cuda' else torch.float32
    patches, patch = weights['visual_encoder.pos_embed'].shape[1] - 1, encoder.visual_encoder.patches.kernel_size[0]
    identity = f'albef:{os.path.basename(path)}:{files.sha256_of_file(path)[:16]}'
    preprocess = Preprocess(math.isqrt(patches) * patch, MEAN, STD)
    return Teacher(encoder.to(device, dtype), preprocess, encoder.vision_proj.out_features, identity, dtype,
                   COMMON_NORM).to(device)


def _read(path):
    """{name: tensor} of the two encoders, the same for all kinds of checkpoints."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
        weights = {re.sub(r'^text_encoder\.bert\.', 'text_encoder.', name): value.float()
                   for name, value in content['model'].items()
                   if not OTHERS.match(name)}
    except (pickle.UnpicklingError, RuntimeError, EOFError) as err:
        raise UserError(f'the file is damaged, or has more in it than tensors and plain values, which is not read '
                        f'({str(err).splitlines()[0]}); '
                        "fetch it again, or save its part 'model' alone: torch.save({'model': checkpoint['model']}, "
                        "FILE)") from err
    except (TypeError, KeyError, AttributeError) as err:
        raise UserError(f"the file has no 'model' with tensors in it ({type(err).__name__}: {err}); use a checkpoint "
                        "of TCL or ALBEF") from err
    lacking = {'visual_encoder.pos_embed', 'visual_encoder.cls_token', 'vision_proj.weight', 'text_proj.weight',
               'text_encoder.embeddings.word_embeddings.weight'} - set(weights)
    if lacking:
        raise UserError(f'the file has no {sorted(lacking)[0]}; use a checkpoint of TCL or ALBEF')
    return weights


def _build(weights, folder):
    """`AlbefEncoder` with these weights, which determine its sizes."""
    try:
        import transformers
    except ImportError as err:
        raise UserError(f'the package transformers cannot be imported ({err}); install it with: pip install '
                        'transformers') from err
    part = lambda prefix: {name.removeprefix(prefix): value for name, value in weights.items()
                           if name.startswith(prefix)}
    vit, bert = part('visual_encoder.'), part('text_encoder.')
    fusion = {int(m[1]) for m in (re.match(r'encoder\.layer\.(\d+)\.crossattention\.', name) for name in bert) if m}
    num_layers = min(fusion, default=0)
    if num_layers == 0:
        raise UserError('its text encoder has no layers before those with cross-attention; use a checkpoint of '
                        'TCL or ALBEF')
    is_later = lambda name: (m := re.match(r'encoder\.layer\.(\d+)\.', name)) is not None and int(m[1]) >= num_layers
    try:
        vocabulary, bert_width = bert['embeddings.word_embeddings.weight'].shape
        config = transformers.BertConfig(vocab_size=vocabulary, hidden_size=bert_width, num_hidden_layers=num_layers,
                                         num_attention_heads=bert_width // HEAD_WIDTH, layer_norm_eps=1e-12,
                                         intermediate_size=len(bert['encoder.layer.0.intermediate.dense.bias']),
                                         max_position_embeddings=len(bert['embeddings.position_embeddings.weight']))
        text = transformers.BertModel(config, add_pooling_layer=False)
        text.load_state_dict({name: value for name, value in bert.items() if not is_later(name)})
        image = _vision_transformer(vit)
        encoder = AlbefEncoder(image, text, len(weights['vision_proj.weight']), _tokenizer(transformers, folder))
        for name in ('vision_proj', 'text_proj'):
            getattr(encoder, name).load_state_dict(part(f'{name}.'))
    except (KeyError, RuntimeError) as err:
        raise UserError(f'its weights do not fit ({one_line(err)}); use a checkpoint of TCL or ALBEF') from err
    return encoder


def _vision_transformer(weights):
    """`VisionTransformer` with the weights of one in timm's layout."""
    _, count, width = weights['pos_embed'].shape
    patch = weights['patch_embed.proj.weight'].shape[-1]
    depth = 1 + max(int(m[1]) for m in (re.match(r'blocks\.(\d+)\.', name) for name in weights) if m)
    model = VisionTransformer(math.isqrt(count - 1) * patch, patch, width, len(weights['blocks.0.mlp.fc1.bias']), depth)
    renamed = {}
    for name, value in weights.items():
        for ours, theirs in VIT_NAMES:
            name = re.sub(ours, theirs, name)
        renamed[name] = value
    model.load_state_dict(renamed)
    return model


def _tokenizer(transformers, folder):
    try:
        local = os.path.isfile(os.path.join(folder, 'vocab.txt'))
        return (transformers.BertTokenizer(os.path.join(folder, 'vocab.txt')) if local
                else transformers.BertTokenizer.from_pretrained(TOKENIZER))
    except (OSError, ValueError) as err:
        raise UserError(f'the words of {TOKENIZER} cannot be fetched ({str(err).splitlines()[0]}); put its vocab.txt '
                        'next to the file') from err
