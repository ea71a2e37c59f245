"""Correlated generative knowledge distillation (KD-DLGAN, CVPR 2023, section 3.3)."""

import torch

from torch_utils import training_stats

from .agkd import l1
from .distiller import Distiller
from .diversity import READINGS, mean_pairwise_cosine

F = torch.nn.functional


def image_text_correlation(feats, text_feats, center=False):
    """Similarity of each image to each text, one unit-length row per image.

    Args:
        feats:      [N, M] image features of the student or the teacher.
        text_feats: [K, M] text features, fixed during training.
        center:     subtract the mean over the K texts from each row, before its length is made 1. Not in the paper:
                    rows of CLIP's are nearly parallel, as every image is a little similar to every text.
    Returns:        [N, K] float32; rows have L2 norm 1 (the paper writes norm(.) without an axis; rows as in the
                    released code).
    """
    corr = feats.to(torch.float32) @ text_feats.to(torch.float32).t()
    return F.normalize(corr - corr.mean(1, keepdim=True) if center else corr, dim=1)


def squared(a, b):
    """[N, K], [N, K] -> [N]: sum of squared differences (released code)."""
    return (a - b).square().sum(1)


def cosine(a, b):
    """[N, K], [N, K] -> [N]: 1 - cos of rows of length 1, half of `squared`."""
    return 1 - (a * b).sum(1)


DISTANCES = dict(l1=l1, l2=squared, cosine=cosine)              # --kd-distance


class CGKD(Distiller):
    """Pulls the student's image-text correlations to the teacher's: L = |C_T - C_S|, and reads the pairwise diversity
    L_PD (`diversity.py`).

    L is averaged over the batch, or summed, which grows with the batch as in the released code.
    """

    name = 'cgkd'
    fields = ('texts', 'distance', 'reduction', 'samples', 'center', 'pd', 'weight_pd', 'weight_anchor')
    min_texts = 2

    def __init__(self, settings, text_feats, seed=0):
        super().__init__(settings, text_feats, seed)
        self.distance = DISTANCES[settings.distance]
        self.diversity = READINGS[settings.pd](settings, self.correlation, text_feats.shape[1])
        self.in_g_step = self.diversity.in_g_step

    def correlation(self, feats):
        return image_text_correlation(feats, self.text_feats, self.settings.center)

    def loss(self, rows):
        loss = self.distance(self.correlation(rows.own), self.correlation(rows.student))
        return loss if self.settings.reduction == 'mean' else loss * len(loss)

    def d_losses(self, rows):
        if rows.kind == 'real' and self.settings.samples == 'fake':
            return {}
        adapted = self.diversity.adapt(rows.own)
        losses = super().d_losses(rows._replace(own=adapted.detach()))
        if rows.kind == 'fake' and len(rows.own) >= 2:
            # As printed, on the teacher's rows, L_PD is constant in the D step: reported, never added.
            training_stats.report('KD/diversity_teacher', mean_pairwise_cosine(self.correlation(rows.own)))
            losses.update(self.diversity.d_losses(rows, adapted))
        return losses

    def g_losses(self, gen, real):
        return self.diversity.g_losses(gen, real) if len(gen) >= 2 else {}
