"""The project's operator namespace `torch.ops.kdgan` and what its operators share."""

import torch

library = torch.library.Library('kdgan', 'DEF')


def define(schema: str, reference, fake):
    """Declares an operator that runs `reference` on every device that has no kernel of its own.

    Args:
        schema:    as for `torch.library.Library.define`, e.g. 'scale(Tensor x, float gain) -> Tensor'.
        reference: plain torch, called without autograd; its output must not be one of its inputs.
        fake:      gives an output of the right shape, dtype and strides without computing it.
    Returns:       the callable operator.
    """
    name = schema.partition('(')[0]
    library.define(schema)
    library.impl(name, torch.no_grad()(reference), 'CompositeExplicitAutograd')
    torch.library.register_fake(f'kdgan::{name}')(fake)
    return getattr(torch.ops.kdgan, name).default


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """The 4D layout `x` is in; a tensor that is dense in both ways counts as contiguous."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
