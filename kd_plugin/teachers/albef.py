"""TCL and ALBEF as teachers, from the checkpoints that their authors released."""

import os
import re

import torch

from dnnlib import UserError

from ..teacher import Preprocess
from .clip import MEAN, STD
from .vit import HEAD_WIDTH
from .vit import from_weights as vit_from_weights

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


def build(weights, folder):
    """{name: tensor} of a checkpoint, and the folder of its file -> `AlbefEncoder` with their sizes, `Preprocess`.

    The tokenizer is that of bert-base-uncased: a vocab.txt in the folder, else fetched from Hugging Face. Raises
    UserError, and KeyError or RuntimeError where weights are missing or do not fit.
    """
    try:
        import transformers
    except ImportError as err:
        raise UserError(f'the package transformers cannot be imported ({err}); install it with: pip install '
                        'transformers') from err
    weights = {re.sub(r'^text_encoder\.bert\.', 'text_encoder.', name): value for name, value in weights.items()
               if not OTHERS.match(name)}
    part = lambda prefix: {name.removeprefix(prefix): value for name, value in weights.items()
                           if name.startswith(prefix)}
    vit, bert = part('visual_encoder.'), part('text_encoder.')
    fusion = {int(m[1]) for m in (re.match(r'encoder\.layer\.(\d+)\.crossattention\.', name) for name in bert) if m}
    num_layers = min(fusion, default=0)
    if num_layers == 0:
        raise UserError('its text encoder has no layers before those with cross-attention; use a checkpoint of '
                        'TCL or ALBEF')
    is_later = lambda name: (m := re.match(r'encoder\.layer\.(\d+)\.', name)) is not None and int(m[1]) >= num_layers
    vocabulary, bert_width = bert['embeddings.word_embeddings.weight'].shape
    config = transformers.BertConfig(vocab_size=vocabulary, hidden_size=bert_width, num_hidden_layers=num_layers,
                                     num_attention_heads=bert_width // HEAD_WIDTH, layer_norm_eps=1e-12,
                                     intermediate_size=len(bert['encoder.layer.0.intermediate.dense.bias']),
                                     max_position_embeddings=len(bert['embeddings.position_embeddings.weight']))
    text = transformers.BertModel(config, add_pooling_layer=False)
    text.load_state_dict({name: value for name, value in bert.items() if not is_later(name)})
    image, size = vit_from_weights(vit)
    encoder = AlbefEncoder(image, text, len(weights['vision_proj.weight']), _tokenizer(transformers, folder))
    for name in ('vision_proj', 'text_proj'):
        getattr(encoder, name).load_state_dict(part(f'{name}.'))
    return encoder, Preprocess(size, MEAN, STD)


def _tokenizer(transformers, folder):
    try:
        local = os.path.isfile(os.path.join(folder, 'vocab.txt'))
        return (transformers.BertTokenizer(os.path.join(folder, 'vocab.txt')) if local
                else transformers.BertTokenizer.from_pretrained(TOKENIZER))
    except (OSError, ValueError) as err:
        raise UserError(f'the words of {TOKENIZER} cannot be fetched ({str(err).splitlines()[0]}); put its vocab.txt '
                        'next to the file') from err
