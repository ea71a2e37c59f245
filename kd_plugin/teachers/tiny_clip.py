"""A small CLIP for small images: the `demo` teacher, and the teachers that `python -m kd_plugin.pretrain` trains."""

import json
import math
import os
import re

import safetensors
import safetensors.torch
import torch

from dnnlib import UserError, files

from ..teacher import Preprocess, Teacher

F = torch.nn.functional
FORMAT = 'kdgan-tiny-clip-1'
TEACHER_FILE = 'teacher.safetensors'    # in the folder that `pretrain` makes
DEMO_TEACHER = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'demo_teacher.safetensors')
PAD, UNKNOWN = 0, 1                     # token numbers; words follow


class ResidualBlock(torch.nn.Module):
    """x -> x + f(x) with two 3x3 convolutions; `stride` 2 halves the map."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.norm1 = torch.nn.GroupNorm(8, in_channels)
        self.conv1 = torch.nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm2 = torch.nn.GroupNorm(8, out_channels)
        self.conv2 = torch.nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = torch.nn.Conv2d(in_channels, out_channels, 1, stride=stride)

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class TinyClip(torch.nn.Module):
    """Residual network for images, transformer over words for texts.

    Args:
        vocabulary: the words that texts may use; others count as unknown.
        size:       input images are [N, 3, size, size].
        width:      channels of the first stage, a multiple of 8; each of the three stages doubles them and halves the
                    map.
        dim:        output width.
        max_words:  longer texts are cut.
    """

    def __init__(self, vocabulary, size=32, width=32, dim=128, text_width=128, max_words=24):
        super().__init__()
        self.config = dict(vocabulary=list(vocabulary), size=size, width=width, dim=dim, text_width=text_width,
                           max_words=max_words)
        self.token_of = {word: i for i, word in enumerate(vocabulary, start=UNKNOWN + 1)}
        self.max_words = max_words
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1)
        self.stages = torch.nn.Sequential(*[ResidualBlock(a, b, stride=2)
                                            for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.norm = torch.nn.GroupNorm(8, widths[-1])
        self.image_projection = torch.nn.Linear(widths[-1] * (size // 16) ** 2, dim, bias=False)
        self.words = torch.nn.Embedding(len(vocabulary) + UNKNOWN + 1, text_width, padding_idx=PAD)
        self.positions = torch.nn.Parameter(torch.randn(max_words, text_width) * 0.02)
        layer = torch.nn.TransformerEncoderLayer(text_width, nhead=4, dim_feedforward=2 * text_width, dropout=0,
                                                 batch_first=True, norm_first=True)
        self.text_layers = torch.nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.text_projection = torch.nn.Linear(text_width, dim, bias=False)
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(10.0)))

    def image_features(self, x):
        x = self.stages(self.stem(x))
        x = F.avg_pool2d(F.silu(self.norm(x)), 2)
        return self.image_projection(x.flatten(1))

    def tokenize(self, texts):
        """list of str -> [K, max_words] int64, padded with PAD. Raises UserError for a text without words."""
        if (empty := next((text for text in texts if not words(text)), None)) is not None:
            raise UserError(f'the text {empty!r} has no words; give one in letters')
        rows = [[self.token_of.get(word, UNKNOWN) for word in words(text)][:self.max_words] for text in texts]
        return torch.tensor([row + [PAD] * (self.max_words - len(row)) for row in rows], device=self.positions.device)

    def text_features(self, texts):
        tokens = self.tokenize(texts)
        pad = tokens == PAD
        x = self.text_layers(self.words(tokens) + self.positions, src_key_padding_mask=pad)
        x = x.masked_fill(pad[:, :, None], 0).sum(1) / (~pad).sum(1, keepdim=True)
        return self.text_projection(x)


def words(text):
    """Lower-case words of a text, in any script."""
    return re.findall(r'[^\W_]+(?:-[^\W_]+)*', text.lower())


def save_tiny_clip(model, path, notes):
    """Writes weights (in half precision) and configuration; `notes`: {name: text} on how it was trained and what it can
    do."""
    tensors = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    metadata = dict(format=FORMAT, config=json.dumps(model.config), notes=json.dumps(notes))
    with files.atomic_path(path) as temp:
        safetensors.torch.save_file(tensors, temp, metadata=metadata)


def find_file(path):
    """The file in the folder that `pretrain` makes, or the file itself. Raises UserError if it is not there."""
    if os.path.isdir(path):
        path = os.path.join(path, TEACHER_FILE)
    if not os.path.isfile(path):
        raise UserError(f'{path} does not exist; make a teacher with python -m kd_plugin.pretrain --out=DIR; a folder '
                        'of Hugging Face is hf:DIR')
    return path


def load_tiny_teacher(path, device):
    """`Teacher` from a file written by `save_tiny_clip`, or from the folder that `pretrain` makes."""
    path = find_file(path)
    try:
        with safetensors.safe_open(path, framework='pt') as f:
            metadata = f.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as err:
        raise UserError(f'{path} is damaged ({err}); make it again') from err
    if metadata.get('format') != FORMAT:
        raise UserError(f'{path} is not a teacher: its format is {metadata.get("format")!r}, expected {FORMAT!r}')
    model = TinyClip(**json.loads(metadata['config']))
    model.load_state_dict(tensors)
    return as_teacher(model.to(device), f'{os.path.basename(path)}:{files.sha256_of_file(path)[:16]}')


def as_teacher(model, identity):
    """`Teacher` of a `TinyClip`, on the device of the model."""
    preprocess = Preprocess(model.config['size'], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Teacher(model, preprocess, model.config['dim'], identity).to(model.positions.device)


def load_demo_teacher(_name, device):
    """The teacher that comes with the project."""
    return load_tiny_teacher(DEMO_TEACHER, device)
