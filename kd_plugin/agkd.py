"""Aggregated generative knowledge distillation (KD-DLGAN, CVPR 2023, section 3.2)."""

import hashlib

import torch

from .distiller import Distiller


def l1(a, b):
    """[N, M], [N, M] -> [N]: sum of absolute differences."""
    return (a - b).abs().sum(1)


def euclidean(a, b):
    """[N, M], [N, M] -> [N]: Euclidean distance, with derivative 0 where both are equal."""
    return torch.linalg.vector_norm(a - b, dim=1)


class AGKD(Distiller):
    """Pulls the student's embedding of an image to the teacher's, and with probability p also to that of the other kind.

    The paper's terms are |I(x) - Df(x)| + |I(G(z)) - Df(G(z))| (distillation) and |I(x) - Df(G(z))| + |I(G(z)) - Df(x)|
    (aggregation, kept if q <= p for q ~ U(0, 1)). A pass over fakes or over reals holds one of each pair. The distance is L1 (paper)
    or Euclidean (released code); p = 1, always, is that of the released code.
    """

    name = 'agkd'
    fields = ('p', 'distance')

    def __init__(self, settings, text_feats=None, seed=0):
        super().__init__(settings, text_feats, seed)
        self.distance = euclidean if settings.distance == 'l2' else l1
        self.aggregate = True

    def start_step(self, cur_nimg):
        """Draws q for an optimiser step: a function of (seed, images seen), hence equal on all processes and after a resume."""
        digest = hashlib.sha256(f'agkd/{self.seed}/{cur_nimg}'.encode()).digest()
        q = int.from_bytes(digest[:8], 'little') / 2 ** 64
        self.aggregate = q <= self.settings.p

    def drawn(self):
        return self.aggregate

    def loss(self, rows):
        loss = self.distance(rows.own, rows.student)
        return loss + self.distance(rows.other, rows.student) if self.aggregate else loss
