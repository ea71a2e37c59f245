"""Pairwise diversity, L_PD of KD-DLGAN (CVPR 2023, section 3.3), which has no gradient as printed, and the readings
that have one.

Pairs are those of a process's own micro-batch: nothing is gathered.
"""

import torch

from training.networks.stylegan2_layers import FullyConnectedLayer

F = torch.nn.functional


def mean_pairwise_cosine(corr, eps=1e-8):
    """Mean cosine between different rows: (|sum of unit rows|^2 - N) / (N (N - 1)), in O(N K).

    Args:
        corr: [N, K], N >= 2.
    Returns:  scalar in [-1 / (N - 1), 1]; small = diverse. Source: L_PD of KD-DLGAN with its index range read as 1..N,
              as a mean.
    """
    n = len(corr)
    rows = F.normalize(corr, dim=1, eps=eps)
    return (rows.sum(0).square().sum() - n) / (n * (n - 1))


def hinged_pairwise_cosine(gen_corr, real_corr):
    """mean over i != j of relu(cos(gen_i, gen_j) - c), where c is the mean cosine between different reals.

    Fakes are pushed apart until they are as diverse as the data. `real_corr` is taken as constant. Both [N, K], N >= 2
    -> scalar.
    """
    limit = mean_pairwise_cosine(real_corr).detach()
    rows = F.normalize(gen_corr, dim=1)
    cosines = rows @ rows.t()
    n = len(rows)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=rows.device)
    return (F.relu(cosines - limit) * off_diagonal).sum() / (n * (n - 1))


class Reading(torch.nn.Module):
    """R0, as printed and as released: nothing is trained. Base class of the readings that train something.

    Args:
        settings:    `settings.Preset`.
        correlation: function [N, M] -> [N, K], rows of length 1.
        dim:         M.
    """

    fields = ()                 # settings that it reads; a reading that compares images has `weight_pd`
    trains_d = in_g_step = False

    def __init__(self, settings, correlation, dim):
        super().__init__()
        self.settings = settings
        self.correlation = correlation

    def adapt(self, feats):
        """The teacher's embeddings [N, M] in the form that CGKD distils."""
        return feats

    def d_losses(self, rows, adapted):
        """As `Distiller.d_losses`, for the pass over fakes; `adapted` = `adapt(rows.own)`. N >= 2."""
        return {}

    def g_losses(self, gen, real):
        """As `Distiller.g_losses`. N >= 2."""
        return {}


class StudentRows(Reading):
    """R1: the mean cosine of the student's rows of fakes, in the D step. Trains head and D."""

    fields = ('weight_pd',)
    trains_d = True

    def d_losses(self, rows, adapted):
        return {'diversity_student': (mean_pairwise_cosine(self.correlation(rows.student)), self.settings.weight_pd)}


class ThroughGenerator(Reading):
    """R2b: the teacher's rows of fakes, no more alike than those of reals, in the G step through the frozen teacher.
    Trains G."""

    fields = ('weight_pd',)
    in_g_step = True

    def g_losses(self, gen, real):
        return {'diversity_generator': (hinged_pairwise_cosine(self.correlation(gen), self.correlation(real)),
                                        self.settings.weight_pd)}


class TeacherAdapter(Reading):
    """R3: diversify, then distil. A residual adapter I' = I + W2 s(W1 I), W2 = 0 at first, behind the teacher; CGKD
    distils C(I').

    The adapter has an objective of its own in the D step, weight_pd * mean cosine of the rows C(I') of fakes +
    weight_anchor * mean |I' - I|^2 / |I|^2, and the distillation sends no gradient into it. Without the anchor the
    adapter could separate images at will. It is relative to |I|, so that one weight suits all teachers. s = leaky ReLU.
    """

    fields = ('weight_pd', 'weight_anchor')

    def __init__(self, settings, correlation, dim):
        super().__init__(settings, correlation, dim)
        self.hidden = FullyConnectedLayer(dim, dim // 2, activation='lrelu')
        self.out = FullyConnectedLayer(dim // 2, dim)
        torch.nn.init.zeros_(self.out.weight)

    def adapt(self, feats):
        return feats + self.out(self.hidden(feats))

    def d_losses(self, rows, adapted):
        shift = (adapted - rows.own).square().sum(1) / rows.own.square().sum(1).clamp(min=1e-8)
        return {'diversity_adapter': (mean_pairwise_cosine(self.correlation(adapted)), self.settings.weight_pd),
                'diversity_anchor': (shift, self.settings.weight_anchor)}


# --kd-pd
READINGS = {'off': Reading, 'student': StudentRows, 'generator': ThroughGenerator, 'adapter': TeacherAdapter}
