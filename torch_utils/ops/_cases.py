"""The cases on which every kernel is compared with the reference in float64: at the first load (a few), by the doctor,
by the tests of the host build, and by benchmarks/gpu_check.py on a GPU."""

import itertools
from typing import NamedTuple

import torch

from ..custom_ops import references
from . import bias_act, scaled_bias_act, upfirdn2d

# A result in half precision is rounded once from float32: half a unit in the last place, and some from the sum. The
# others lose a few more units in sums and in exp.
TOLERANCE = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 32, torch.float64: 64}       # times eps of the dtype
LAYOUTS = ('contiguous', 'channels_last', 'unaligned', 'strided')
FILTERS = {
    '4x4': upfirdn2d.setup_filter([1, 3, 4, 2]), '4': upfirdn2d.setup_filter([1, 3, 4, 2], separable=True),
    '12': upfirdn2d.setup_filter([1, -2, 3, 4, -5, 6, 7, 8, 9, -3, 2, 1]), '1x1': torch.ones([1, 1]),
    '3x5': torch.arange(15.).reshape(3, 5) / 105, '32': upfirdn2d.setup_filter([1 + i % 5 for i in range(32)]),
    '31x32': (torch.arange(31. * 32) % 7).reshape(31, 32) / 3000,
}


def random_tensor(shape, seed, layout='contiguous'):
    """Float64 numbers that every dtype represents, so that a comparison sees the arithmetic and not the rounding of its
    input."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).mul(32).round().div(32)
    return x if layout != 'channels_last' or x.ndim != 4 else x.contiguous(memory_format=torch.channels_last)


def laid_out(x, layout, dtype, device):
    """The same values in a layout: 'unaligned' begins one element after a multiple of 16 bytes, 'strided' has gaps."""
    x = x.to(device=device, dtype=dtype)
    if layout == 'unaligned':
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    if layout == 'strided':
        return torch.stack([x, x], dim=-1)[..., 0]
    return x


def run(operator, *args):
    """-> (its result, the tensor without numbers that torch.compile expects)."""
    without_numbers = lambda a: torch.empty_strided(a.shape, a.stride(), dtype=a.dtype,
                                                    device='meta') if isinstance(a, torch.Tensor) else a
    return operator(*args), operator(*map(without_numbers, args))


class BiasActCase(NamedTuple):
    """All derivatives of one activation on one tensor."""
    act: str
    shape: tuple
    dim: int = 1
    layout: str = 'contiguous'
    gain: float = 1.5
    clamp: float = -1.0
    biased: bool = True

    def compare(self, dtype, device):
        """Yields (what, got, want, fake): the operators on `device`, the references in float64 on the CPU, what a
        compiler expects."""
        x, dy, ddx = (random_tensor(self.shape, seed, self.layout) for seed in (0, 1, 2))
        b = random_tensor([self.shape[self.dim]], 3) if self.biased else None
        args = (self.dim, self.act, 0.25, self.gain, self.clamp)
        place = lambda t: None if t is None else laid_out(t, self.layout, dtype, device)
        y, fake = run(torch.ops.kdgan.bias_act, place(x), place(b), *args)
        yield 'bias_act', y, references['bias_act'](x, b, *args), fake
        # The references start from the same, rounded y
        saved = x if self.act == 'swish' else y.detach().cpu().double()
        for name, tensors in [('bias_act_slope', (dy,)), ('bias_act_curve', (ddx, dy))]:
            got, fake = run(getattr(torch.ops.kdgan, name), *map(place, tensors), place(saved), place(b), *args)
            yield name, got, references[name](*tensors, saved, b, *args), fake


class ScaledBiasActCase(NamedTuple):
    """One tensor through the operator and its first and second derivative."""
    shape: tuple
    layout: str = 'contiguous'
    clamp: float = -1.0
    noises: int | None = 1                  # maps of noise: one, one for each sample, or None for no noise
    partly: bool = False                    # the second derivative without what is optional

    def compare(self, dtype, device):
        """As `BiasActCase.compare`; gradients of the small tensors are in the type that is computed in."""
        n, c, h, w = self.shape
        x, dy, ddx = (random_tensor(self.shape, seed, self.layout) for seed in (0, 1, 2))
        scale, b, ddscale, ddb = (random_tensor(shape, 3 + i) for i, shape in enumerate([[n, c], [c], [n, c], [c]]))
        noise, ddnoise = None if self.noises is None else random_tensor([self.noises, 1, h, w],
                                                                        7), random_tensor([n, 1, h, w], 8)
        ddscale, ddnoise, ddb = (None, None, None) if self.partly else (ddscale, ddnoise, ddb)
        args = (0.25, 1.5, self.clamp)
        place = lambda t: None if t is None else laid_out(t, self.layout, dtype, device)
        small = lambda t: None if t is None else t.to(device=device, dtype=scaled_bias_act.real_dtype(dtype))
        y, fake = run(torch.ops.kdgan.scaled_bias_act, place(x), small(scale), small(noise), small(b), *args)
        yield 'scaled_bias_act', y, references['scaled_bias_act'](x, scale, noise, b, *args), fake
        # The references start from the same, rounded y
        y = y.detach().cpu().double()
        for name, seconds in [('scaled_bias_act_grad', ()), ('scaled_bias_act_grad2', (ddx, ddscale, ddnoise, ddb))]:
            first = [place(t) if i == 0 else small(t) for i, t in enumerate(seconds)]
            got, fake = run(getattr(torch.ops.kdgan, name), *first, place(dy), place(y), place(x), small(scale), *args)
            want = references[name](*seconds, dy, y, x, scale, *args)
            yield from ((f'{name}, result {i}', *of_result)
                        for i, of_result in enumerate(zip(got, want, fake, strict=True)))


class Upfirdn2dCase(NamedTuple):
    """One filter with one set of factors. A derivative is again such a case, with up and down exchanged."""
    filter: str
    shape: tuple
    up: tuple = (1, 1)
    down: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)           # beyond what makes the padded image as large as the filter needs
    layout: str = 'contiguous'
    flip: bool = False

    def compare(self, dtype, device):
        """As `BiasActCase.compare`."""
        x, f = random_tensor(self.shape, 0, self.layout), FILTERS[self.filter]
        fw, fh = upfirdn2d.filter_size(f)
        left, right, top, bottom = self.padding
        args = dict(up=list(self.up), down=list(self.down),
                    padding=[fw // 2 + left, fw // 2 + right, fh // 2 + top, fh // 2 + bottom],
                    flip_filter=self.flip, gain=1.5)
        got, fake = run(lambda x, f: upfirdn2d.upfirdn2d(x, f, **args), laid_out(x, self.layout, dtype, device),
                        f.to(device))
        yield 'upfirdn2d', got, upfirdn2d.upfirdn2d(x, f, impl='ref', **args), fake


def bias_act_cases():
    """Every activation, clamp and layout on shapes that make each kind of access to the bias, with odd sizes and sizes
    of 1."""
    for act, clamp in itertools.product(bias_act.activation_funcs, (-1.0, 0.75)):
        for shape, layout in itertools.product([(3, 5, 3, 7), (2, 8, 4, 4)], LAYOUTS):
            yield BiasActCase(act, shape, layout=layout, clamp=clamp)
    for shape, dim in [((7,), 0), ((5, 16), 1), ((3, 5), 0), ((2, 3, 4), -1), ((1, 1, 1, 1), 1), ((2, 1, 3, 1), 1),
                       ((2, 3, 1, 5), 3), ((0, 3), 1), ((40, 3, 50, 3), 1)]:
        yield from (BiasActCase(act, shape, dim) for act in ('lrelu', 'swish'))
    yield from (BiasActCase(act, (2, 3, 4, 4), gain=gain, biased=False) for act in ('tanh', 'linear', 'swish')
                for gain in (-1.5, 0.0, 1.0))


def scaled_bias_act_cases():
    """Every layout, with and without what is optional; tiles that end inside, rows and columns of one element, nothing
    at all."""
    for shape, layout, clamp in itertools.product(
            [(3, 5, 3, 7), (2, 8, 4, 4), (2, 16, 8, 16), (2, 40, 5, 13), (1, 3, 40, 50)], LAYOUTS, (-1.0, 0.75)):
        yield ScaledBiasActCase(shape, layout, clamp, noises=shape[0])
        yield ScaledBiasActCase(shape, layout, clamp, noises=None, partly=True)
    for shape in [(1, 1, 1, 1), (2, 1, 3, 1), (2, 3, 1, 5), (0, 3, 2, 2), (2, 0, 3, 2), (1, 700, 2, 2), (2, 300, 1, 1),
                  (1, 2, 1, 600), (2, 70, 16, 16), (1, 264, 8, 8)]:
        yield from (ScaledBiasActCase(shape, layout, clamp=2.0) for layout in ('contiguous', 'channels_last'))


def upfirdn2d_cases():
    """Every specialised path, and 12 taps, in every layout; factors 1 to 4 through the general one; sizes of 1, crops,
    tiles that end inside."""
    paddings = [(0, 0, 0, 0), (1, 0, -1, 2), (-2, 3, 3, -1)]
    for (name, up, down), shape, layout, padding in itertools.product(
            [(f, up, down) for f in ('4x4', '4', '12') for up, down in [(2, 1), (1, 2), (1, 1)]],
            [(2, 3, 9, 7), (1, 8, 8, 16)], LAYOUTS, paddings):
        yield Upfirdn2dCase(name, shape, (up, up), (down, down), padding, layout, flip=shape[1] == 8)
    for name, up, down in itertools.product(FILTERS, (1, 3, 4), (1, 2, 3, 4)):
        yield Upfirdn2dCase(name, (1, 2, 6, 5), (up, 1 + up % 3), (down, 1 + down % 4), (1, 2, 0, -1),
                            layout=LAYOUTS[(up + down) % 2])
    for name, up, down in [('4x4', 2, 1), ('4x4', 1, 2), ('4x4', 1, 1), ('12', 2, 1), ('12', 1, 2), ('3x5', 1, 1)]:
        for shape in [(1, 1, 1, 1), (3, 40, 2, 2), (1, 2, 70, 67), (1, 20, 33, 40), (1, 1, 3, 200)]:
            for layout in ('contiguous', 'channels_last'):
                yield Upfirdn2dCase(name, shape, (up, up), (down, down), layout=layout)


def quick(kernel):
    """A few cases, which take milliseconds on a GPU: the check of a freshly loaded library."""
    if kernel == 'bias_act':
        return [BiasActCase(act, (2, 8, 5, 4), layout=layout, clamp=0.75)
                for act, layout in [('lrelu', 'contiguous'), ('swish', 'channels_last')]]
    if kernel == 'scaled_bias_act':
        return [ScaledBiasActCase((2, 40, 5, 8), layout, clamp=2.0, noises=2)
                for layout in ('contiguous', 'channels_last')]
    return [Upfirdn2dCase('4x4', (2, 8, 8, 16), (2, 2), layout='channels_last'),
            Upfirdn2dCase('12', (2, 3, 9, 7), (1, 1), (2, 2))]


def quick_failures(kernel, device):
    """The lines of all quick cases of a kernel that fail, in every precision."""
    return [text for dtype in TOLERANCE for case in quick(kernel) for text in failures(case, dtype, device)]


def strides_that_matter(t):
    """The others step along an extent of 1, that is, nowhere."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1] if t.numel() else []


def failures(case, dtype, device):
    """A line for each result of the case that differs from the reference by more than rounding, or in shape, or from
    the fake in layout."""
    for what, got, want, fake in case.compare(dtype, device):
        limit = TOLERANCE[fake.dtype] * torch.finfo(fake.dtype).eps
        error = (((got.cpu().double() - want).abs() / (1 + want.abs())).max().item() if want.numel()
                 and got.shape == want.shape else 0.0)
        same_form = (got.shape == want.shape == fake.shape and got.dtype == fake.dtype
                     and strides_that_matter(got) == strides_that_matter(fake))
        if not same_form or not error <= limit:
            yield (f'{what} of {case} in {dtype}: the error is {error:.2g}, the limit {limit:.2g}; shape '
                   f'{list(got.shape)}, dtype {got.dtype}, strides {list(got.stride())}, expected {list(want.shape)} '
                   f'and {list(fake.stride())}')
