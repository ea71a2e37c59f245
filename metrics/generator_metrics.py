"""The names of the metrics that work on the generator itself: perceptual path length and LPIPS diversity."""

import functools

from .lpips_diversity import compute_lpips_diversity
from .perceptual_path_length import VARIANTS, compute_ppl
from .registry import register_metric

NUM_PATHS = 50_000          # where the name does not say: as StyleGAN2-ADA
NUM_IMAGES = 10_000         # 5000 pairs


def _register_ppl(name, space, sampling, crop):
    compute = functools.partial(compute_ppl, space=space, sampling=sampling, crop=crop)
    where = {'full': 'anywhere on', 'end': 'at the start of'}[sampling]
    compute.__doc__ = (f'perceptual path length of N steps {where} paths in {space}, '
                       f'{"middle of images" if crop else "whole images"}')
    compute.__module__ = __name__
    register_metric(f'{name}<N>', needs='vgg16-lpips', number=NUM_PATHS, figures=('standard_error',),
                    abilities=('w',) if space == 'w' else (), alone=True)(compute)


for _name, _variant in VARIANTS.items():
    _register_ppl(_name, **_variant)


@register_metric('lpips_diversity<N>', needs='alexnet-lpips', better='higher', number=NUM_IMAGES,
                 figures=('standard_error',))
def lpips_diversity(opts, num_gen):
    """mean LPIPS over N / 2 pairs of generated images"""
    return compute_lpips_diversity(opts, num_gen)


@register_metric('lpips_diversity_in_class<N>', needs='alexnet-lpips', better='higher', number=NUM_IMAGES,
                 figures=('standard_error',))
def lpips_diversity_in_class(opts, num_gen):
    """the same over pairs of one class"""
    return compute_lpips_diversity(opts, num_gen, same_class=True)
