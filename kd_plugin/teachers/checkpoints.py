"""FILE.pth: teachers from the checkpoints that their authors released, told apart by the names of their tensors."""

import os
import pickle
from collections.abc import Callable
from typing import NamedTuple

import torch

from dnnlib import UserError, files
from dnnlib.text import one_line

from ..teacher import COMMON_NORM, Preprocess, Teacher
from . import albef, swin, vit

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)         # mean and standard deviation
PARTS = ('model', 'teacher')            # of a checkpoint, where its tensors may lie; of DINO's, the one that is kept
PREFIXES = ('module.', 'backbone.', 'encoder.')     # of several GPUs; of DINO; of MoBY, whose momentum copy is another
USABLE = "use a checkpoint of TCL, ALBEF, DINO or MoBY's Swin"


def _dino(weights, _folder):
    """DINO (Caron et al., ICCV 2021): the class token after the last LayerNorm. It knows no texts."""
    encoder, size = vit.from_weights({name: value for name, value in weights.items() if not name.startswith('head.')})
    return encoder, Preprocess(size, *IMAGENET)


def _swin(weights, _folder):
    encoder = swin.from_weights(weights)
    return encoder, Preprocess(encoder.size, *IMAGENET)


class Kind(NamedTuple):
    """A row of the table.

    mark:  name of a tensor that no other kind has.
    build: ({name: tensor}, folder of the file) -> encoder, `Preprocess`. Raises UserError, or KeyError, RuntimeError.
    """
    mark: str
    build: Callable


KINDS = {
    'albef': Kind('visual_encoder.pos_embed', albef.build),
    'dino': Kind('blocks.0.attn.qkv.weight', _dino),
    'swin': Kind('layers.0.blocks.0.attn.relative_position_bias_table', _swin),
}


def check_file(path):
    """Raises UserError if it is not there."""
    if not os.path.isfile(path):
        raise UserError('there is no such file; download TCL_4M.pth, ALBEF.pth, dino_vitbase16_pretrain.pth or '
                        'moby_swin_t_300ep_pretrained.pth from its authors')


def load_checkpoint_teacher(path, device):
    """`Teacher` from FILE.pth; half precision on a GPU.

    Raises UserError if the file is of another kind, or anything else than tensors and plain values would have to be
    read from it.
    """
    weights = _read(path)
    kind = next((name for name, kind in KINDS.items() if kind.mark in weights), None)
    if kind is None:
        raise UserError(f'the file has none of {", ".join(row.mark for row in KINDS.values())}; {USABLE}')
    try:
        encoder, preprocess = KINDS[kind].build(weights, os.path.dirname(path))
    except (KeyError, RuntimeError, ValueError) as err:
        raise UserError(f'its weights do not fit ({one_line(err)}); {USABLE}') from err
    dtype = torch.float16 if device.type == 'cuda' else torch.float32
    encoder = encoder.to(device, dtype).eval()
    with torch.no_grad():
        one = torch.zeros([1, 3, preprocess.size, preprocess.size], dtype=dtype, device=device)
        dim = encoder.image_features(one).shape[1]
    identity = f'{kind}:{os.path.basename(path)}:{files.sha256_of_file(path)[:16]}'
    return Teacher(encoder, preprocess, dim, identity, dtype, COMMON_NORM).to(device)


def _read(path):
    """{name: tensor}, those of an encoder without its prefixes."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as err:
        raise UserError(f'the file is damaged, or has more in it than tensors and plain values, which is not read '
                        f'({str(err).splitlines()[0]}); '
                        "fetch it again, or save its part 'model' alone: torch.save({'model': checkpoint['model']}, "
                        "FILE)") from err
    tables = [content, *(content.get(part) for part in PARTS)] if isinstance(content, dict) else []
    tensors = {name: value for table in tables if isinstance(table, dict) for name, value in table.items()
               if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"the file has no 'model' with tensors in it; {USABLE}")
    return {_without_prefixes(name): value.float() for name, value in tensors.items()}


def _without_prefixes(name):
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
