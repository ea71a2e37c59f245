"""Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018): the baseline "PKD" of KD-DLGAN (table 6)."""

import torch

from .distiller import Distiller

F = torch.nn.functional


def neighbour_probabilities(feats):
    """[N, M] -> [N, N] float32: P_ij = S_ij / sum_j S_ij with S = (cos + 1) / 2, the image itself included."""
    rows = F.normalize(feats.to(torch.float32), dim=1)
    similarity = (rows @ rows.t() + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


def divergence(student, teacher, eps=1e-7):
    """Mean over N^2 of P_t log((P_t + eps) / (P_s + eps)), a scalar. Both [N, M]; fp32 throughout."""
    p_s, p_t = neighbour_probabilities(student), neighbour_probabilities(teacher)
    return (p_t * ((p_t + eps) / (p_s + eps)).log()).mean()


class ProbabilisticTransfer(Distiller):
    """Gives each image the same neighbours as the teacher does, among the fakes (or the reals) of the micro-batch."""

    name = 'pkt'
    couples = True

    @classmethod
    def compares_directions(cls, settings):
        return True

    def loss(self, rows):
        return divergence(rows.student, rows.own)
