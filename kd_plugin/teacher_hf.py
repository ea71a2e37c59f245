"""Hugging Face models as teachers: CLIP, SigLIP, BLIP and others with image and text features of one width."""

import hashlib
import json
import os

import safetensors
import torch

from dnnlib import UserError, files

from .teacher import Preprocess, Teacher


class HfEncoder(torch.nn.Module):
    """A `transformers` model behind the interface that `Teacher` wants."""

    def __init__(self, model, tokenizer, max_length):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    def image_features(self, x):
        return _tensor(self.model.get_image_features(pixel_values=x))

    def text_features(self, texts):
        tokens = self.tokenizer(texts, padding='max_length', max_length=self.max_length, truncation=True, return_tensors='pt')
        tokens = {name: value.to(self.model.device) for name, value in tokens.items() if name in ('input_ids', 'attention_mask')}
        return _tensor(self.model.get_text_features(**tokens))


def _tensor(output):
    """Features are a tensor up to transformers 4, part of a record from 5 on."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def load_hf_teacher(name, device):
    """`Teacher` for 'hf:MODEL', a model name or a folder; half precision on a GPU. Raises UserError if it cannot be had."""
    model_name = name.removeprefix('hf:')
    try:
        import transformers
        from transformers.utils import cached_file
    except ImportError as err:
        raise UserError(f'the package transformers cannot be imported ({err}); install it with: pip install transformers') from err
    dtype = torch.float16 if device.type == 'cuda' else torch.float32
    try:
        model = transformers.AutoModel.from_pretrained(model_name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model_name)
        with open(cached_file(model_name, 'preprocessor_config.json'), encoding='utf-8') as f:
            preprocess = _preprocess(json.load(f))
    except (OSError, ValueError, KeyError, ImportError, safetensors.SafetensorError) as err:
        raise UserError(f'the model cannot be loaded ({str(err).splitlines()[0]}); give the name of a model that can be downloaded, '
                        'or hf:FOLDER with its files') from err
    if not hasattr(model, 'get_image_features') or not hasattr(model, 'get_text_features'):
        raise UserError(f'{type(model).__name__} has no image and text features; use a CLIP, SigLIP or BLIP model')
    max_length = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    encoder = HfEncoder(model.to(device, dtype), tokenizer, max_length)
    dim = encoder.text_features(['a photo']).shape[1]
    return Teacher(encoder, preprocess, dim, f'{name}@{_version(model_name, model)}', dtype=dtype).to(device)


def _version(model_name, model):
    """The revision of a downloaded model, a digest of the files of a folder: caches must not outlive a change."""
    if not os.path.isdir(model_name):
        return getattr(model.config, '_commit_hash', None)
    paths = [os.path.join(model_name, name) for name in sorted(os.listdir(model_name))]
    return hashlib.sha256(''.join(files.sha256_of_file(path) for path in paths if os.path.isfile(path)).encode()).hexdigest()[:16]


def _preprocess(config):
    """`Preprocess` from a preprocessor_config.json."""
    size = config.get('crop_size') if config.get('do_center_crop') else config.get('size')
    size = config['size'] if size is None else size
    if isinstance(size, dict):
        size = size.get('height', size.get('shortest_edge'))
    return Preprocess(int(size), tuple(config['image_mean']), tuple(config['image_std']))
