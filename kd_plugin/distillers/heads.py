"""Heads that map the discriminator's features to the teacher's width: the student's embedding Df of KD-DLGAN."""

import torch

from dnnlib import UserError
from training.networks.stylegan2_layers import FullyConnectedLayer


class LinearHead(FullyConnectedLayer):
    """[N, in_features] -> [N, dim], a linear layer next to the one of the adversarial logit.

    It has the equalised learning rate of all layers of D. Without it, the head would learn sqrt(in_features) times
    faster than D's last layer, grow, and drown the adversarial gradient.
    """


class ReleasedHead(torch.nn.Module):
    """The head of the authors' released code: spectrally normalised 256 -> 1024 -> 512 without an activation between.

    Here in_features -> 1024 -> dim; weights start as N(0, 0.02).
    """

    def __init__(self, in_features, dim, hidden=1024):
        super().__init__()
        layers = [torch.nn.Linear(in_features, hidden), torch.nn.Linear(hidden, dim)]
        for layer in layers:
            torch.nn.init.normal_(layer.weight, std=0.02)
        self.layers = torch.nn.Sequential(*[torch.nn.utils.parametrizations.spectral_norm(layer, eps=1e-8)
                                            for layer in layers])

    def forward(self, x):
        return self.layers(x)


def no_head(in_features, dim):
    """The features themselves. Raises UserError unless they have the teacher's width."""
    if in_features != dim:
        raise UserError(f"--kd-head=none: the discriminator's features have width {in_features}, the teacher's {dim}; "
                        'use --kd-head=linear or a teacher of that width')
    return torch.nn.Identity()


HEADS = {'linear': LinearHead, 'released': ReleasedHead, 'none': no_head}
