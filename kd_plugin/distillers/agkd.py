"""Aggregated generative knowledge distillation (KD-DLGAN, CVPR 2023, section 3.2)."""

import torch

from torch_utils.seeds import number_of

from ..teacher import COMMON_NORM
from .distiller import Distiller


def l1(a, b):
    """[N, M], [N, M] -> [N]: sum of absolute differences."""
    return (a - b).abs().sum(1)


def euclidean(a, b):
    """[N, M], [N, M] -> [N]: Euclidean distance, with derivative 0 where both are equal."""
    return torch.linalg.vector_norm(a - b, dim=1)


def cosine(a, b):
    """[N, M], [N, M] -> [N]: 100 (1 - cos), half the squared distance of the two, both brought to length 10."""
    return COMMON_NORM ** 2 * (1 - torch.nn.functional.cosine_similarity(a, b))


DISTANCES = dict(l1=l1, l2=euclidean, cosine=cosine)            # --kd-distance


class AGKD(Distiller):
    """Pulls the student's embedding of an image to the teacher's, and with probability p also to that of the other
    kind.

    The paper's terms are |I(x) - Df(x)| + |I(G(z)) - Df(G(z))| (distillation) and |I(x) - Df(G(z))| + |I(G(z)) - Df(x)|
    (aggregation, kept if q <= p for q ~ U(0, 1)). A pass over fakes or over reals holds one of each pair. The distance
    is L1 (paper), Euclidean (released code) or that of the directions; p = 1, always, is that of the released code.
    """

    name = 'agkd'
    fields = ('p', 'distance')

    @classmethod
    def compares_directions(cls, settings):
        return settings.distance == 'cosine'

    def __init__(self, settings, text_feats=None, seed=0):
        super().__init__(settings, text_feats, seed)
        self.distance = DISTANCES[settings.distance]
        self.aggregate = True

    def start_step(self, cur_nimg):
        """Draws q for an optimiser step: a function of (seed, images seen), hence equal on all processes and after a
        resume."""
        q = number_of('agkd', self.seed, cur_nimg) / 2 ** 64
        self.aggregate = q <= self.settings.p

    def drawn(self):
        return self.aggregate

    def loss(self, rows):
        loss = self.distance(rows.own, rows.student)
        return loss + self.distance(rows.other, rows.student) if self.aggregate else loss
