"""OpenAI's CLIP models as teachers, through the `clip` package."""

import os
import pickle
import urllib.error
import warnings
import zipfile

import torch

from dnnlib import UserError, files
from dnnlib.text import gist

from ..teacher import Preprocess, Teacher

# Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021);
# mean and std as in clip's own transform.
NAMES = ('RN50', 'RN101', 'RN50x4', 'RN50x16', 'RN50x64', 'ViT-B/32', 'ViT-B/16', 'ViT-L/14', 'ViT-L/14@336px')
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Raised by torch and the package for a file that is damaged, holds objects, or has other tensors than a CLIP.
UNREADABLE = (RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError, AssertionError,
              ArithmeticError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile)


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


def check_name(name):
    """Raises UserError if it is neither a CLIP nor a file."""
    if name not in NAMES and not os.path.isfile(name):
        raise UserError('there is no teacher of this name; use demo, pocket, lite0, a file, hf:NAME, or one of '
                        f'{", ".join(NAMES)}')


def load_clip_teacher(name, device):
    """`Teacher` for a CLIP name ('ViT-B/32') or a checkpoint file; half precision on a GPU.

    Downloads go to the cache, checked by the SHA-256 that is part of their address. Raises UserError if it cannot be
    had.
    """
    is_file = os.path.isfile(name)
    clip = _import_clip()
    path = name if is_file else _download(clip, name)
    try:
        model = _load(clip, path, device)
    except UNREADABLE as err:
        remedy = 'it must be a model of OpenAI\'s CLIP, as its TorchScript archive or as a state dict' if is_file else \
            f'delete {path} and fetch it again'
        raise UserError(f'the weights cannot be read ({gist(err, line=0)}); {remedy}') from err
    identity = f'clip:{name}' if not is_file else f'clip:{os.path.basename(name)}:{files.sha256_of_file(name)[:16]}'
    preprocess = Preprocess(model.visual.input_resolution, MEAN, STD)
    dim = model.text_projection.shape[1]
    return Teacher(ClipEncoder(model, clip.tokenize), preprocess, dim, identity, dtype=model.dtype).to(device)


def _download(clip, name):
    """-> path in the cache."""
    address, root = clip.clip._MODELS[name], files.cache_dir('clip')
    path = os.path.join(root, os.path.basename(address))
    try:
        return clip.clip._download(address, root)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as err:
        raise UserError(f'the weights cannot be downloaded ({err}); fetch {address} elsewhere and '
                        f'put it into {root}, or name the file itself') from err
    except (RuntimeError, OSError) as err:
        raise UserError(f'the weights cannot be had ({gist(err, line=0)}); delete {path} and try again') from err


def _load(clip, path, device):
    """The model in a file: a TorchScript archive, as OpenAI publishes, goes to the package; else it is a state dict.

    OpenAI's edition of the package fails on state dicts, since it does not rewind the file.
    """
    if _is_torchscript(path):
        return clip.load(path, device=device)[0]
    state = torch.load(path, map_location='cpu', weights_only=True)
    model = clip.model.build_model(dict(state.get('state_dict', state))).to(device)
    return model.float() if torch.device(device).type == 'cpu' else model


def _is_torchscript(path):
    """Whether it is a zip archive with the constants that torch.jit.save writes and torch.save does not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def _import_clip():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # of pkg_resources, which the package still uses
            import clip
    except ImportError as err:
        raise UserError(f'the package clip cannot be imported ({err}); install it with: '
                        "pip install clip-anytorch 'setuptools<81' torchvision, or use the teacher "
                        "hf:openai/clip-vit-base-patch32") from err
    return clip
