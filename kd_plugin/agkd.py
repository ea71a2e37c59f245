"""Aggregated generative knowledge distillation (KD-DLGAN, CVPR 2023, section 3.2)."""

import hashlib

import torch


def l1(a, b):
    """[N, M], [N, M] -> [N]: sum of absolute differences."""
    return (a - b).abs().sum(1)


def euclidean(a, b):
    """[N, M], [N, M] -> [N]: Euclidean distance, with derivative 0 where both are equal."""
    return torch.linalg.vector_norm(a - b, dim=1)


class AGKD:
    """Pulls the student's embedding of an image to the teacher's, and with probability p also to that of the other kind.

    The paper's terms are |I(x) - Df(x)| + |I(G(z)) - Df(G(z))| (distillation) and |I(x) - Df(G(z))| + |I(G(z)) - Df(x)|
    (aggregation, kept if q <= p for q ~ U(0, 1)). A pass over fakes or over reals holds one of each pair.

    Args:
        distance: `l1` (paper) or `euclidean` (released code).
        p:        probability of aggregation; 1 = always, as in the released code.
        seed:     of the draws of q.
    """

    def __init__(self, distance=l1, p=0.7, seed=0):
        self.distance = distance
        self.p = p
        self.seed = seed
        self.aggregate = True

    def start_step(self, cur_nimg):
        """Draws q for an optimiser step: a function of (seed, images seen), hence equal on all processes and after a resume."""
        digest = hashlib.sha256(f'agkd/{self.seed}/{cur_nimg}'.encode()).digest()
        q = int.from_bytes(digest[:8], 'little') / 2 ** 64
        self.aggregate = q <= self.p

    def __call__(self, student, own, other):
        """Loss per sample.

        Args:
            student: [N, M] embedding by the student of one kind of images, real or generated.
            own:     [N, M] the teacher's embedding of the same images.
            other:   [N, M] the teacher's embedding of the other kind, paired by row.
        Returns:     [N].
        """
        loss = self.distance(own, student)
        return loss + self.distance(other, student) if self.aggregate else loss
