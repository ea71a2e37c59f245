"""Images between [-1, 1] and 0..255."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnnlib import UserError
from torch_utils.images import check_fit, to_float, to_uint8

BYTES = torch.arange(256, dtype=torch.uint8)


def test_bytes_become_the_numbers_of_the_formula_and_bytes_again():
    want = np.arange(256).astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert to_float(BYTES).dtype == torch.float32 and (to_float(BYTES).numpy() == want).all()
    assert to_float(BYTES, torch.float64).tolist() == [i / 127.5 - 1 for i in range(256)]
    assert torch.equal(to_uint8(to_float(BYTES)), BYTES)


def test_what_is_a_float_already_stays_as_it_is():
    img = torch.tensor([0.0, 51.0, 255.0], requires_grad=True)
    scaled = to_float(img)
    assert img.tolist() == [0, 51, 255] and scaled.tolist() == [-1, np.float32(51) / np.float32(127.5) - 1, 1]
    assert torch.autograd.grad(scaled.sum(), img)[0].tolist() == [np.float32(1 / 127.5)] * 3


PHOTOS = SimpleNamespace(image_shape=[3, 16, 16], label_dim=2)


@pytest.mark.parametrize('c_dim', [0, 2])
def test_images_that_a_network_makes_fit(c_dim):
    assert check_fit(PHOTOS, '--data=x', 3, 16, c_dim) is None


@pytest.mark.parametrize('wanted, message', [
    ((1, 16), '--data=x: images are 16x16 RGB, the network makes 16x16 grey; make them so'),
    ((3, 8, 2), '--data=x: images are 16x16 RGB, the network makes 8x8 RGB; make them so'),
    ((3, 16, 3), '--data=x: labels have 2 dimensions, the network takes 3; give the data set that the network was '
                 'trained on')])
def test_others_do_not(wanted, message):
    with pytest.raises(UserError) as err:
        check_fit(PHOTOS, '--data=x', *wanted, size_remedy='make them so')
    assert str(err.value) == message
