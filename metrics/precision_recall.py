"""Improved precision and recall: how many generated images look real, and how much of the real ones the generator
covers.

Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019, eq. 1 and 2:
an image lies on the manifold of a set if some image of the set is at least as close to it as to its own k-th nearest
neighbour in the set. Precision is the share of generated images on the manifold of the real ones, recall the other way
round. k = 3; VGG16 features, as in the paper.
"""

import torch

from dnnlib import UserError
from torch_utils.remembered import remembered

from . import distances
from .feature_stats import FeatureStats
from .registry import FEATURES, register_metric

NEIGHBOURS = 3


@register_metric('pr<N>3_full', needs='vgg16', better='higher', real=FEATURES, generated=FEATURES,
                 figures=('precision', 'recall'))
def precision_recall(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """precision and recall of N generated images against all real ones, k = 3; value: their harmonic mean

    The harmonic mean (F1; Sajjadi et al., "Assessing Generative Models via Precision and Recall", NeurIPS 2018, eq. 9
    with beta 1) orders snapshots.
    """
    precision, recall = precision_and_recall(real.get_all(), generated.get_all(), weights)
    return dict(value=2 * precision * recall / (precision + recall).clamp(min=1e-12), precision=precision,
                recall=recall)


@register_metric('featpr<N>3_full', needs='teacher', better='higher', real=FEATURES, generated=FEATURES,
                 figures=('precision', 'recall'))
def feature_precision_recall(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """the same with the features of a teacher"""
    return precision_recall(real, generated, weights)


def precision_and_recall(real: torch.Tensor, gen: torch.Tensor, weights: torch.Tensor,
                         k: int = NEIGHBOURS) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (precision [R], recall [R]), float64, of features [M, F] and [N, F].

    A resample counts some generated images more often and others not at all; the radii of the generated images stay
    those of the whole set.
    """
    if min(len(real), len(gen)) <= k:
        raise UserError(f'--metrics=pr...: {len(real)} real and {len(gen)} generated images; more than {k} of each '
                        'are needed')
    radii_real = _radii(real, gen.device, k).to(gen.device)
    real, gen = distances.centred(real, gen)
    radii_gen = distances.kth_nearest_other(gen, k)
    inside = torch.cat([(d <= radii_real).any(dim=1) for _, d in distances.chunks(gen, real)])
    precision = weights @ inside.to(weights) / weights.sum(dim=1)
    drawn = (weights > 0).to(torch.float32).T
    covered = sum(((d <= radii_gen).to(torch.float32) @ drawn > 0).sum(dim=0) for _, d in distances.chunks(real, gen))
    return precision, covered / weights.new_tensor(len(real))


@remembered
def _radii(real, device, k):
    """[M]: distance of each real image to its k-th nearest neighbour."""
    return distances.kth_nearest_other(*distances.centred(real.to(device)), k)
