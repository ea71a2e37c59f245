"""Hugging Face models as teachers: CLIP, SigLIP, BLIP and others with image and text features of one width; DINOv2 for
images only."""

import hashlib
import json
import os

import safetensors
import torch

from dnnlib import UserError, files
from dnnlib.published import without_folders

from ..teacher import COMMON_NORM, Preprocess, Teacher

# The caption as BLIP was trained on it: these characters left out, and 35 tokens at most (methods of the paper's
# retrieval model).
BLIP_PUNCTUATION = str.maketrans('.!"()*#:;~', ' ' * 10)
BLIP_TOKENS = 35


class DualEncoder(torch.nn.Module):
    """A model with `get_image_features` and `get_text_features` (CLIP, SigLIP) behind the interface that `Teacher`
    wants."""

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.siglip = model.config.model_type.startswith('siglip')
        self.max_length = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)

    def image_features(self, x):
        return _tensor(self.model.get_image_features(pixel_values=x))

    def text_features(self, texts):
        # Trained on lower-case texts, padded and without a mask (Zhai et al., ICCV 2023)
        if self.siglip:
            texts = [text.lower() for text in texts]
        tokens = self.tokenizer(texts, padding='max_length', max_length=self.max_length, truncation=True,
                                return_tensors='pt')
        names = ['input_ids'] if self.siglip else ['input_ids', 'attention_mask']
        return _tensor(self.model.get_text_features(**{name: tokens[name].to(self.model.device) for name in names}))


class BlipEncoder(torch.nn.Module):
    """The two encoders of BLIP's contrastive loss (Li et al., ICML 2022): projected class tokens, the text without
    cross-attention."""

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def image_features(self, x):
        return self.model.vision_proj(self.model.vision_model(pixel_values=x).last_hidden_state[:, 0])

    def text_features(self, texts):
        texts = [text.lower().translate(BLIP_PUNCTUATION) for text in texts]
        tokens = self.tokenizer(texts, padding='longest', max_length=BLIP_TOKENS, truncation=True,
                                return_tensors='pt').to(self.model.device)
        states = self.model.text_encoder(input_ids=tokens['input_ids'],
                                         attention_mask=tokens['attention_mask']).last_hidden_state
        return self.model.text_proj(states[:, 0])


class ImageEncoder(torch.nn.Module):
    """DINOv2 (Oquab et al., TMLR 2024): the class token after the last LayerNorm. It knows no texts."""

    def __init__(self, model, _tokenizer=None):
        super().__init__()
        self.model = model

    def image_features(self, x):
        return self.model(pixel_values=x).pooler_output


# model_type -> (class of transformers, encoder); any other model must have image and text features
KINDS = {'blip': ('BlipForImageTextRetrieval', BlipEncoder), 'dinov2': ('AutoModel', ImageEncoder),
         'dinov2_with_registers': ('AutoModel', ImageEncoder)}
RAW_NORM = 'clip',              # whose features stay as they are; the others get `COMMON_NORM`


def _tensor(output):
    """Features are a tensor up to transformers 4, part of a record from 5 on."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def load_hf_teacher(name, device):
    """`Teacher` for 'hf:MODEL', a model name or a folder; half precision on a GPU. Raises UserError if it cannot be
    had."""
    model_name = name.removeprefix('hf:')
    try:
        import transformers
    except ImportError as err:
        raise UserError(f'the package transformers cannot be imported ({err}); install it with: pip install '
                        'transformers') from err
    dtype = torch.float16 if device.type == 'cuda' else torch.float32
    try:
        kind = transformers.AutoConfig.from_pretrained(model_name).model_type
        loader, encoder_class = KINDS.get(kind, ('AutoModel', DualEncoder))
        model, report = getattr(transformers, loader).from_pretrained(model_name, output_loading_info=True)
        tokenizer = None if encoder_class is ImageEncoder else transformers.AutoTokenizer.from_pretrained(model_name)
        preprocess = _preprocess(_read_preprocessing(model_name))
    except (OSError, ValueError, KeyError, ImportError, safetensors.SafetensorError) as err:
        raise UserError(f'the model cannot be loaded ({str(err).splitlines()[0]}); give the name of a model that can '
                        'be downloaded, or hf:FOLDER with its files') from err
    _check(model, encoder_class, report['missing_keys'])
    encoder = encoder_class(model.to(device, dtype).eval(), tokenizer)
    with torch.no_grad():
        dim = encoder.image_features(torch.zeros(1, 3, preprocess.size, preprocess.size, dtype=dtype,
                                                 device=device)).shape[1]
    norm = None if kind in RAW_NORM else COMMON_NORM
    identity = f'{without_folders(name)}@{_version(model_name, model)}'
    return Teacher(encoder, preprocess, dim, identity, dtype, norm).to(device)


def _check(model, encoder_class, missing):
    """Raises UserError for a model without features, and for one whose weights are in part not in the file, but
    random."""
    if (encoder_class is DualEncoder
        and not (hasattr(model, 'get_image_features') and hasattr(model, 'get_text_features'))):
        raise UserError(f'{type(model).__name__} has no image and text features; use a CLIP, SigLIP, BLIP or '
                        'DINOv2 model')
    if missing:
        what = 'such as Salesforce/blip-itm-base-coco' if encoder_class is BlipEncoder else 'whose file is whole'
        raise UserError(f'the file has no weights for {sorted(missing)[0]} and {len(missing) - 1} others of '
                        f'{type(model).__name__}; use a model that was trained to compare images and texts, {what}')


def _version(model_name, model):
    """The revision of a downloaded model, a digest of the files of a folder: caches must not outlive a change."""
    if not os.path.isdir(model_name):
        return getattr(model.config, '_commit_hash', None)
    paths = [os.path.join(model_name, name) for name in sorted(os.listdir(model_name))]
    return hashlib.sha256(''.join(files.sha256_of_file(path) for path in paths
                                  if os.path.isfile(path)).encode()).hexdigest()[:16]


def _read_preprocessing(model_name):
    """The settings of a model's image processor; newer files have them inside those of the processor of images and
    texts."""
    from transformers.utils import cached_file
    try:
        with open(cached_file(model_name, 'preprocessor_config.json'), encoding='utf-8') as f:
            return json.load(f)
    except OSError:
        with open(cached_file(model_name, 'processor_config.json'), encoding='utf-8') as f:
            return json.load(f)['image_processor']


def _preprocess(config):
    """`Preprocess` from the settings of an image processor."""
    size = config.get('crop_size') if config.get('do_center_crop') else config.get('size')
    size = config['size'] if size is None else size
    if isinstance(size, dict):
        size = size.get('height', size.get('shortest_edge'))
    return Preprocess(int(size), tuple(config['image_mean']), tuple(config['image_std']))
