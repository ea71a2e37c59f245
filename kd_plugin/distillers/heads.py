"""Heads that map the discriminator's features to the teacher's width: the student's embedding Df of KD-DLGAN."""

import torch

from dnnlib import UserError
from training.networks.biggan_layers import SNLinear, initialise
from training.networks.stylegan2_layers import FullyConnectedLayer


class LinearHead(FullyConnectedLayer):
    """[N, in_features] -> [N, dim], a linear layer next to the one of the adversarial logit.

    It has the equalised learning rate of all layers of D. Without it, the head would learn sqrt(in_features) times
    faster than D's last layer, grow, and drown the adversarial gradient.
    """


class ReleasedHead(torch.nn.Module):
    """The head of the authors' released code: spectrally normalised 256 -> 1024 -> 512 without an activation between.

    Here in_features -> 1024 -> dim, with the names of their checkpoints; weights start as N(0, 0.02). There it is a
    part of D, which sees fakes and reals in one pass: one power iteration in each step of D and of G. Only a pass in
    training mode stores its iteration.
    """

    def __init__(self, in_features, dim, hidden=1024):
        super().__init__()
        self.linear_cls_1, self.linear_cls_2 = SNLinear(in_features, hidden), SNLinear(hidden, dim)
        initialise(self, 'normal')

    def forward(self, x):
        return self.linear_cls_2(self.linear_cls_1(x))


def no_head(in_features, dim):
    """The features themselves. Raises UserError unless they have the teacher's width."""
    if in_features != dim:
        raise UserError(f"--kd-head=none: the discriminator's features have width {in_features}, the teacher's {dim}; "
                        'use --kd-head=linear or a teacher of that width')
    return torch.nn.Identity()


HEADS = {'linear': LinearHead, 'released': ReleasedHead, 'none': no_head}
