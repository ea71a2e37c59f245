"""What scripts for StyleGAN2-ADA import from here (docs/library.md), modules without memory, and eval mode for a
while."""

import contextlib
import functools
import warnings

import torch
import torch.overrides


class ShapesOnly(torch.overrides.TorchFunctionMode):
    """Within it, new weights have a shape but no memory: modules can be built to inspect them.

    `torch.device('meta')` does that for everything, but its arithmetic first imports modules for a second.
    """

    FACTORIES = (torch.randn, torch.zeros, torch.ones, torch.full, torch.empty)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.FACTORIES:
            return torch.empty(args[0], device='meta', **{k: v for k, v in kwargs.items() if k == 'dtype'})
        if func in (torch.Tensor.div, torch.Tensor.__truediv__) and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def eval_mode(*modules):
    """Within it, the modules are in eval mode; after it, each is in the mode that it was in."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


# ---------------------------------------------------------------------------
# What scripts for StyleGAN2-ADA import from here (docs/library.md).

nan_to_num, symbolic_assert = torch.nan_to_num, torch._assert


def assert_shape(tensor, ref_shape):
    """Raises AssertionError unless the tensor has this shape; None stands for any size."""
    fits = [want is None or size == want for size, want in zip(tensor.shape, ref_shape, strict=False)]
    if tensor.ndim != len(ref_shape) or not all(fits):
        raise AssertionError(f'the tensor has shape {list(tensor.shape)}, expected {list(ref_shape)}')


def params_and_buffers(module):
    """List of all tensors of a module."""
    return [value for _, value in named_params_and_buffers(module)]


def named_params_and_buffers(module):
    """List of (name, tensor): the parameters, then the buffers."""
    return [*module.named_parameters(), *module.named_buffers()]


@torch.no_grad()
def copy_params_and_buffers(src_module, dst_module, require_all=False):
    """Copies the tensors that both modules have under the same name; others stay as they are.

    Raises ValueError where the shapes differ, and with `require_all` where the source lacks one.
    """
    source = dict(named_params_and_buffers(src_module))
    for name, value in named_params_and_buffers(dst_module):
        if name in source and source[name].shape != value.shape:
            raise ValueError(f'copy_params_and_buffers: {name} has shape {list(source[name].shape)}, '
                             f'its target {list(value.shape)}')
        if name in source:
            value.copy_(source[name])
        elif require_all:
            raise ValueError(f'copy_params_and_buffers: the source has no {name}; without require_all it stays')


@contextlib.contextmanager
def suppress_tracer_warnings():
    """Within it, torch.jit.trace does not warn about values that it treats as constants."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        yield


def profiled_function(fn):
    """Decorator: the function appears under its name in torch's profiler."""
    @functools.wraps(fn)
    def named(*args, **kwargs):
        with torch.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)
    return named
