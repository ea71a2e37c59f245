"""What the tests of several teachers share."""

import pytest
import torch

F = torch.nn.functional


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def normalised(img, mean, std):
    """[N, 3, H, W] in [-1, 1] -> what an encoder of this mean and std gets."""
    return (img / 2 + 0.5 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
