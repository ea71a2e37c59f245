"""--kd-target-norm: the target of the student's embedding, made from the teacher's embedding of an image.

The weights of the methods are made for targets of length 10 (`teacher.COMMON_NORM`): over the real images, the root
mean square of the targets' length is 10 for all except `raw`, which leaves the embedding as it is.
"""

import torch

from dnnlib import UserError

from ..measured import belongs_to
from ..teacher import COMMON_NORM

F = torch.nn.functional
FLOOR = 0.1                     # of a channel's standard deviation, relative to the root mean square over the channels


class Raw(torch.nn.Module):
    """The embedding itself, t = I."""

    has_statistics = False      # of the teacher's embeddings of the real images

    def forward(self, feats):
        """Embeddings of the teacher -> targets, both [N, M]."""
        return feats

    def embedding(self, student):
        """The inverse, for the student's output [N, M]: an embedding to compare with the teacher's embeddings of
        texts."""
        return student


class Unit(Raw):
    """All of length 10, t = 10 I / |I|. No inverse is needed: texts are compared by direction, not by length."""

    def forward(self, feats):
        return F.normalize(feats, dim=1) * COMMON_NORM


class Affine(Raw):
    """t = (I - shift) / scale, with statistics of the real images that are part of the training state.

    A subclass gives `statistics`: [n, M] float64 -> shift [M], scale [M] or scalar. Loading a state with statistics of
    other images or another teacher, as a fork may do, leaves them unchanged.

    Args:
        feats:  [n, M] the teacher's embeddings of the real images.
        source: text that names images and teacher.
    """

    has_statistics = True

    def __init__(self, feats, source):
        super().__init__()
        shift, scale = self.statistics(feats.to('cpu', torch.float64))
        if not (scale > 0).all():
            raise UserError('--kd-target-norm: for the teacher all training images are the same; '
                            'use --kd-target-norm=raw')
        for name, value in (('shift', shift), ('scale', scale)):
            self.register_buffer(name, value.to(feats.device, torch.float32))
        belongs_to(self, source, feats.device)

    def forward(self, feats):
        return (feats - self.shift) / self.scale

    def embedding(self, student):
        return student * self.scale + self.shift


class Centred(Affine):
    """t = 10 (I - m) / s, m = mean of I, s^2 = mean of |I - m|^2: one scalar, so that no direction is favoured.

    Under a linear head and a distance that no rotation changes this is PHI-S (Ranzinger et al., 2024).
    """

    @staticmethod
    def statistics(feats):
        mean = feats.mean(0)
        return mean, (feats - mean).square().sum(1).mean().sqrt() / COMMON_NORM


class PerChannel(Affine):
    """t_j = a (I_j - m_j) / d_j, d_j = max(s_j, 0.1 rms(s)), m_j and s_j mean and standard deviation of channel j.

    a = 10 / sqrt(sum of (s_j / d_j)^2), which is 10 / sqrt(M) unless a channel is at the floor, makes the root mean
    square of the length 10.
    """

    @staticmethod
    def statistics(feats):
        mean = feats.mean(0)
        std = (feats - mean).square().mean(0).sqrt()
        divisor = std.clamp(min=FLOOR * std.square().mean().sqrt())
        return mean, divisor * (std / divisor).square().sum().sqrt() / COMMON_NORM


TARGETS = {'raw': Raw, 'unit': Unit, 'centred': Centred, 'channel': PerChannel}
