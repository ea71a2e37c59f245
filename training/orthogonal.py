"""Orthogonal regularisation (Brock et al., ICLR 2017; BigGAN, ICLR 2019, section 3.1), on their gradients."""

import torch

FORMS = ('modified', 'default')


@torch.no_grad()
def add_orthogonal_gradients(params, strength, form='modified', leave_out=()):
    """Adds to `.grad` of each weight of two or more dimensions strength * 2 M W, with W as [out, rest].

    M = W W^T without its diagonal ('modified', BigGAN: rows may have any length), or W W^T - 1 ('default'). That is
    half of the derivative of the squared norm of M, which is what the public programs add.

    Args:
        params:    parameters with gradients; those without, and vectors, stay as they are.
        strength:  1e-4 in the paper; the published settings for CIFAR and ImageNet 64 have 0.
        leave_out: parameters that are not regularised: the shared class embedding of G, `[G.shared.weight]`.
    Raises: ValueError for another form.
    """
    if form not in FORMS:
        raise ValueError(f'form is {form!r}, it must be one of {", ".join(FORMS)}')
    left_out = {id(param) for param in leave_out}
    for param in params:
        if param.ndim >= 2 and param.grad is not None and id(param) not in left_out:
            matrix = param.flatten(1)
            gram = matrix @ matrix.t()
            gram.diagonal().sub_(gram.diagonal() if form == 'modified' else 1)
            param.grad.add_((gram @ matrix).view(param.shape), alpha=2 * strength)
