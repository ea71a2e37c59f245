"""The hinge loss of GANs (Lim & Ye, "Geometric GAN", 2017; SAGAN, Zhang et al., ICML 2019, equation 4).

All take logits of any shape, such as [N, 1], and keep it; the mean is the loss.
"""

from torch.nn.functional import relu


def fake(logits):
    """In the D step, of fakes: relu(1 + D(G(z)))."""
    return relu(1 + logits)


def real(logits):
    """In the D step, of reals: relu(1 - D(x))."""
    return relu(1 - logits)


def generator(logits):
    """In the G step, of fakes: -D(G(z))."""
    return -logits
