"""OpenAI's CLIP models as teachers, through the `clip` package."""

import os
import urllib.error
import warnings

import torch

from dnnlib import UserError, files

from .teacher import Preprocess, Teacher

# Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021); mean and std as in clip's own transform.
NAMES = ('RN50', 'RN101', 'RN50x4', 'RN50x16', 'RN50x64', 'ViT-B/32', 'ViT-B/16', 'ViT-L/14', 'ViT-L/14@336px')
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(torch.nn.Module):
    """A model of the `clip` package behind the interface that `Teacher` wants."""

    def __init__(self, model, tokenize):
        super().__init__()
        self.model = model
        self.tokenize = tokenize

    def image_features(self, x):
        return self.model.encode_image(x)

    def text_features(self, texts):
        device = self.model.positional_embedding.device
        return self.model.encode_text(self.tokenize(texts, truncate=True).to(device))


def load_clip_teacher(name, device):
    """`Teacher` for a CLIP name ('ViT-B/32') or a checkpoint file; half precision on a GPU.

    Downloads go to the cache, checked by the SHA-256 that is part of their address. Raises UserError if it cannot be had.
    """
    is_file = os.path.isfile(name)
    if not is_file and name not in NAMES:
        raise UserError('there is no teacher of this name; use demo, pocket, lite0, a file, hf:NAME, or one of '
                        f'{", ".join(NAMES)}')
    clip = _import_clip()
    root = files.cache_dir('clip')
    try:
        model, _transform = clip.load(name, device=device, download_root=root)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as err:
        raise UserError(f'the weights cannot be downloaded ({err}); fetch {clip.clip._MODELS[name]} elsewhere and '
                        f'put it into {root}, or name the file itself') from err
    except (RuntimeError, ValueError, KeyError, AttributeError, OSError) as err:
        raise UserError(f'the weights cannot be read ({type(err).__name__}: {str(err).splitlines()[0]}); '
                        f'delete the file and fetch it again') from err
    identity = f'clip:{name}' if not is_file else f'clip:{os.path.basename(name)}:{files.sha256_of_file(name)[:16]}'
    preprocess = Preprocess(model.visual.input_resolution, MEAN, STD)
    dim = model.text_projection.shape[1]
    return Teacher(ClipEncoder(model, clip.tokenize), preprocess, dim, identity, dtype=model.dtype).to(device)


def _import_clip():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # of pkg_resources, which the package still uses
            import clip
    except ImportError as err:
        raise UserError(f'the package clip cannot be imported ({err}); install it with: '
                        "pip install clip-anytorch 'setuptools<81' torchvision, or use the teacher hf:openai/clip-vit-base-patch32") from err
    return clip
