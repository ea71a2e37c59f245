"""What the tests of vision-aided training share."""

import pytest
import torch

from kd_plugin import vision_aided
from kd_plugin.teacher import Preprocess, Teacher

F = torch.nn.functional
HALF = (0.5, 0.5, 0.5)


class TokenEncoder(torch.nn.Module):
    """Six blocks on a class token and one token per 4x4 pixels, batch first or tokens first; a longer row of blocks is
    none of the images'."""

    def __init__(self, tokens_first, width=5, blocks=6):
        super().__init__()
        self.tokens_first = tokens_first
        self.patches = torch.nn.Conv2d(3, width, 4, stride=4)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(blocks)])
        self.text_blocks = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(blocks + 2)])
        self.project = torch.nn.Linear(width, 7)
        self.seen = []

    def image_features(self, x):
        self.seen = []
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True) + 100, x], dim=1)
        x = x.transpose(0, 1) if self.tokens_first else x
        for block in self.blocks:
            x = block(x).tanh()
            self.seen.append(block)
        x = x.transpose(0, 1) if self.tokens_first else x
        return self.project(x[:, 0])


def token_teacher(tokens_first=False, **kwargs):
    torch.manual_seed(3)
    return Teacher(TokenEncoder(tokens_first, **kwargs), Preprocess(16, HALF, HALF), 7, 'tokens')


@pytest.fixture
def teacher(monkeypatch):
    """Under two names."""
    toy = token_teacher()
    monkeypatch.setattr(vision_aided, 'load_for_training', lambda name, device, fp32, option: toy)
    return toy
