"""Similarity-preserving knowledge distillation (Tung & Mori, ICCV 2019): a baseline of KD-DLGAN (table 6)."""

import torch

from .distiller import Distiller

F = torch.nn.functional


def similarities(feats):
    """[N, M] -> [N, N] float32: dot products of all pairs, rows of length 1."""
    feats = feats.to(torch.float32)
    return F.normalize(feats @ feats.t(), dim=1)


def similarity_gap(student, teacher):
    """|Q_t - Q_s|_F^2 / N^2, a scalar. Both [N, M]; fp32 throughout."""
    return (similarities(teacher) - similarities(student)).square().mean()


class SimilarityPreserving(Distiller):
    """Makes pairs of fakes (or of reals) of the micro-batch as similar for the student as they are for the teacher."""

    name = 'spkd'
    couples = True

    def loss(self, rows):
        return similarity_gap(rows.student, rows.own)
