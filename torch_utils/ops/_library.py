"""The project's operator namespace `torch.ops.kdgan`, and shared parts of its operators."""

import torch

from .. import custom_ops

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
IMPLS = ('auto', 'cuda', 'ref')
library = torch.library.Library('kdgan', 'DEF')
# A compiler must pass tensors in the layout that the fake output was computed for, since the output depends on it.
TAGS = (getattr(torch.Tag, 'needs_exact_strides', torch.Tag.needs_fixed_stride_order), torch.Tag.pt2_compliant_tag)


def define(schema: str, reference, fake, kernel: str | None = None):
    """Declares an operator that runs `reference` wherever it has no kernel.

    Its first call with a CUDA tensor looks for the kernels (custom_ops.py). If there are any, torch calls them from
    then on instead of `reference`. The autograd formula of an operator stays a Python function that runs on every call.

    Args:
        schema:    as for `torch.library.Library.define`, e.g. 'scale(Tensor x, float gain) -> Tensor'.
        reference: plain torch, called without autograd; its output must not be one of its inputs.
        fake:      gives an output of the right shape, dtype and strides without computing it.
        kernel:    the row of `custom_ops.OPERATORS` with its CUDA kernel; None = it has none and stays plain torch.
    Returns:       the callable operator.
    """
    name = schema.partition('(')[0]
    custom_ops.references[name] = reference = torch.no_grad()(reference)

    def find_kernel(x, *args):
        if kernel is not None and x.is_cuda and custom_ops.problem_of(kernel) is None:
            return operator(x, *args)
        return reference(x, *args)

    library.define(schema, tags=TAGS)
    library.impl(name, find_kernel, 'CompositeExplicitAutograd')
    torch.library.register_fake(f'kdgan::{name}')(fake)
    operator = getattr(torch.ops.kdgan, name).default
    return operator


def check_input(op: str, x: torch.Tensor, impl: str):
    """Refuses an `x` or `impl` that an operator does not take, with the same message on every device."""
    if impl not in IMPLS:
        raise ValueError(f'{op}: impl is {impl!r}, it must be one of {", ".join(IMPLS)}')
    if x.dtype not in DTYPES:
        raise TypeError(f'{op}: x is {x.dtype} of shape {list(x.shape)}, it must be floating point: float16, bfloat16, '
                        'float32 or float64')
    if impl == 'cuda' and not torch.compiler.is_compiling():
        custom_ops.require(op, x.device)


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """The 4D layout `x` is in; a tensor that is dense in both ways counts as contiguous."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
