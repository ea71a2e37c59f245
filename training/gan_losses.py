"""The adversarial losses of `StyleGAN2Loss` by name: three functions of logits, which keep their shape."""

from collections.abc import Callable
from typing import NamedTuple

from torch.nn.functional import relu, softplus


class GanLoss(NamedTuple):
    """Losses of single images; their mean is trained.

    d_fake, d_real: in the D step, of the logits of fakes and of reals.
    g:              in the G step, of the logits of fakes.
    """
    d_fake: Callable
    d_real: Callable
    g: Callable


GAN_LOSSES = {
    # -log(1 - sigmoid), -log sigmoid, and the non-saturating -log sigmoid (Goodfellow et al., NeurIPS 2014).
    'logistic': GanLoss(softplus, lambda logits: softplus(-logits), lambda logits: softplus(-logits)),
    # Lim & Ye, "Geometric GAN", 2017; SAGAN, Zhang et al., ICML 2019, equation 4.
    'hinge': GanLoss(lambda logits: relu(1 + logits), lambda logits: relu(1 - logits), lambda logits: -logits),
}
