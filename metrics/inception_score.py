"""Inception Score (IS) of generated images alone.

Salimans et al., "Improved Techniques for Training GANs", NIPS 2016, section 4: exp(E_x KL(p(y|x) || p(y))), where p(y)
is the mean of p(y|x). Protocol: the images in 10 parts in the order in which they were made, mean and standard
deviation (divided by 10) over the parts; class probabilities of the 2015 Inception network, its output taken without
the bias, as the TensorFlow code did.
"""

import torch

from dnnlib import UserError

from .feature_stats import FeatureStats
from .registry import FEATURES, register_metric

NUM_SPLITS = 10


@register_metric('is<N>', needs='inception-classes', better='higher', generated=FEATURES, figures=('std',))
def inception_score(_real: None, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """Inception Score of N generated images, mean and standard deviation over 10 parts"""
    scores = split_scores(generated.get_all(), weights)
    return dict(value=scores.nanmean(dim=1), std=float(scores[0].std(correction=0)))


def split_scores(probs: torch.Tensor, weights: torch.Tensor, num_splits: int = NUM_SPLITS) -> torch.Tensor:
    """Score of each part -> [R, num_splits] float64; NaN for a part from which a resample has no image.

    Args:
        probs:   [N, classes] probabilities of each image.
        weights: [R, N] how often each image counts.
    """
    num = len(probs)
    if num < num_splits:
        raise UserError(f'--metrics=is{num}: the score is the mean over {num_splits} parts; ask for {num_splits} '
                        'images or more')
    scores = []
    for i in range(num_splits):
        part = slice(i * num // num_splits, (i + 1) * num // num_splits)
        p = probs[part].to(torch.float64)
        share = weights[:, part] / weights[:, part].sum(dim=1, keepdim=True)
        neg_entropy = torch.xlogy(p, p).sum(dim=1)
        marginal = share @ p
        scores.append((share @ neg_entropy - torch.xlogy(marginal, marginal).sum(dim=1)).exp())
    return torch.stack(scores, dim=1)
