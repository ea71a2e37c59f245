"""DiffAugment: every transform against its description, ranges, derivatives, options."""

import pytest
import torch
from conftest import parse_options

import train
from dnnlib import UserError
from training.augment.diffaugment import DiffAugment, color, cutout, translation
from training.config.augmentations import AUGMENTATIONS

H, W = 16, 24


def images(n=200, c=3):
    return torch.rand(n, c, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_translation_is_a_shift_with_zeros():
    """Every result is found among all allowed shifts, made by slicing; all of them come up."""
    x = torch.rand(400, 3, 16, 24) + 0.5                      # no zeros of its own
    torch.manual_seed(1)
    found = set()
    for before, after in zip(x, translation(x), strict=True):
        filled = (after != 0).all(dim=0)
        rows, columns = filled.any(dim=1).nonzero().flatten(), filled.any(dim=0).nonzero().flatten()
        top, left = rows[0].item(), columns[0].item()
        down = top if top > 0 else rows[-1].item() - (H - 1)            # > 0: moved down
        right = left if left > 0 else columns[-1].item() - (W - 1)
        want = torch.zeros_like(before)
        target = [slice(max(0, shift), min(size, size + shift)) for shift, size in ((down, H), (right, W))]
        source = [slice(max(0, -shift), min(size, size - shift)) for shift, size in ((down, H), (right, W))]
        want[:, target[0], target[1]] = before[:, source[0], source[1]]
        assert torch.equal(after, want)
        found.add((down, right))
    assert {down for down, _ in found} == set(range(-2, 3)) and {right for _, right in found} == set(range(-3, 4))


def test_cutout_is_a_square_anywhere_clipped_at_the_border():
    x = torch.ones(3000, 1, H, H)
    torch.manual_seed(1)
    hole = cutout(x)[:, 0] == 0
    height, width = hole.any(dim=2).sum(1), hole.any(dim=1).sum(1)
    assert torch.equal(hole.sum([1, 2]), height * width)                        # a rectangle
    assert height.min() == 4 and height.max() == 8                              # side 8, half of it left at the borders
    first_row = hole.any(dim=2).float().argmax(1)
    assert set(first_row[height == 8].tolist()) == set(range(9))
    coverage = hole.float().mean(0)
    # 8 of the 17 centres per axis cover an inner pixel
    assert coverage[8, 8] == pytest.approx((8 / 17) ** 2, abs=0.03)


def test_cutout_of_an_odd_side():
    torch.manual_seed(1)
    hole = cutout(torch.ones(500, 1, 6, 6))[:, 0] == 0
    height = hole.any(dim=2).sum(1)
    assert height.max() == 3 and height.min() == 2


def test_color_is_brightness_saturation_contrast():
    """What each of the three leaves alone gives the draws back: their ranges, and the image made again from them."""
    x = images(2000)
    torch.manual_seed(1)
    y = color(x)
    mean = lambda t: t.mean([1, 2, 3])
    grey, grey_y = x.mean(1), y.mean(1)
    brightness = mean(y) - mean(x)
    contrast = (grey_y - mean(y)[:, None,
                                 None]).flatten(1).norm(dim=1) / (grey - mean(x)[:, None, None]).flatten(1).norm(dim=1)
    both = (y - grey_y[:, None]).flatten(1).norm(dim=1) / (x - grey[:, None]).flatten(1).norm(dim=1)
    saturation = both / contrast
    for values, low, high in ((brightness, -0.5, 0.5), (saturation, 0, 2), (contrast, 0.5, 1.5)):
        assert low - 1e-3 <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high + 1e-3
        assert values.mean() == pytest.approx((low + high) / 2, abs=4 * (high - low) / (12 * 2000) ** 0.5)
    b, s, c = [v[:, None, None, None] for v in (brightness, saturation, contrast)]
    z = x + b
    z = (z - z.mean(1, keepdim=True)) * s + z.mean(1, keepdim=True)
    z = (z - z.mean([1, 2, 3], keepdim=True)) * c + z.mean([1, 2, 3], keepdim=True)
    torch.testing.assert_close(y, z, rtol=1e-3, atol=1e-4)


def test_grey_images_and_their_own_draws():
    x = images(1).expand(64, -1, -1, -1)
    y = DiffAugment()(x)
    assert len({tuple(row.flatten().tolist()) for row in y}) == 64              # every image on its own
    assert not torch.equal(y, DiffAugment()(x))                                 # and again in every call
    assert DiffAugment()(images(3, c=1)).shape == (3, 1, H, W)


def test_order_as_listed():
    """After the colour zeros are no longer 0, after the cutout they are."""
    x = torch.zeros(50, 3, H, W)
    torch.manual_seed(0)
    assert (DiffAugment('color,cutout')(x) == 0).any()
    assert not (DiffAugment('cutout,color')(x) == 0).any()


def test_second_derivatives_pass_through():
    """R1's gradient through the augmentation: that of an affine map."""
    x = images(4)[:, :, :8, :8].to(torch.float64).requires_grad_(True)

    def penalty(x):
        torch.manual_seed(3)
        grad, = torch.autograd.grad(DiffAugment()(x).pow(3).sum(), x, create_graph=True)
        return grad.square().sum([1, 2, 3])
    assert torch.autograd.gradcheck(penalty, (x,), fast_mode=True)


def config_of(data, *args):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', *args))


def test_options(tiny_data):
    config, name = config_of(tiny_data, '--aug=diffaug', '--diffaug-policy=translation,cutout')
    assert config.augment_kwargs == dict(class_name='training.augment.diffaugment.DiffAugment',
                                         policy='translation,cutout')
    assert config.ada_target is None and name == 'tiny-auto1-diffaug-translation-cutout'
    assert config_of(tiny_data, '--aug=diffaug')[0].augment_kwargs['policy'] == 'color,translation,cutout'


@pytest.mark.parametrize('args, message', [
    (['--aug=diffaug', '--diffaug-policy=colour'], '--diffaug-policy=colour: colour is no transform; use some of '
                                                   'color,translation,cutout'),
    (['--aug=diffaug', '--diffaug-policy='], '--diffaug-policy=: nothing is no transform; use some of'),
    (['--diffaug-policy=color'], '--diffaug-policy=color: has no effect with --aug=ada; it goes with --aug=diffaug'),
    (['--aug=diffaug', '--target=0.5'], '--target=0.5: has no effect with --aug=diffaug; it goes with --aug=ada')])
def test_what_is_refused(args, message, tiny_data):
    with pytest.raises(UserError, match=message):
        config_of(tiny_data, *args)


def test_every_row_of_the_table_is_a_choice():
    option = next(param for param in train.main.params if param.name == 'aug')
    assert list(option.type.choices) == list(AUGMENTATIONS)
