"""Are the CUDA kernels right on this GPU? python benchmarks/gpu_check.py"""

import os
import sys
import time
import warnings

import click
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

from dnnlib.text import gist
from torch_utils import custom_ops  # noqa: E402
from torch_utils.ops import _cases, bias_act, scaled_bias_act, upfirdn2d  # noqa: E402

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FILTER_ARGS = [(2, 2, 1, 1, 2, 1, 2, 1), (1, 1, 2, 2, 1, 1, 1, 1), (1, 1, 1, 1, 2, 1, 2, 1)]      # up, down, padding


def compare(case, dtype, device):
    """-> what is wrong with the results of one case."""
    failures = []
    return attempt(f'{case} in {dtype}', lambda: failures.extend(_cases.failures(case, dtype, device))) + failures


def check_values(op, dtype, device):
    """Yields a list of failures for each case."""
    for case in [*getattr(_cases, f'{op}_cases')(), *_cases.quick(op)]:
        yield compare(case, dtype, device)


def check_quickly(device):
    """As `check_values`, a few cases."""
    for op in custom_ops.OPERATORS:
        for case in _cases.quick(op):
            yield compare(case, torch.float32, device)


def check_gradients(device):
    """Yields a list of failures for each activation and filter: numeric first and second derivatives."""
    x = _cases.random_tensor((1, 2, 3, 2), 0).to(device).requires_grad_(True)
    # X + b is never 0, where relu and others have a kink
    b = (_cases.random_tensor((2,), 1) + 1 / 64).to(device).requires_grad_(True)
    for act in bias_act.activation_funcs:
        fn = lambda x, b, act=act: bias_act.bias_act(x, b, act=act, clamp=0.7)
        yield attempt(f'gradgradcheck of {act}', lambda fn=fn: torch.autograd.gradcheck(fn, (x, b))
                      and torch.autograd.gradgradcheck(fn, (x, b)))
    scale, noise = (_cases.random_tensor(shape, seed).to(device).requires_grad_(True)
                    for seed, shape in [(2, (1, 2)), (3, (1, 1, 3, 2))])
    b = (b.detach() + 1 / 4096).requires_grad_(True)        # nor is x * scale + noise + b
    fn = lambda x, scale, noise, b: scaled_bias_act.by_operator(x, scale, noise, b, 0.2, 1.5, 0.7)
    yield attempt('gradgradcheck of scaled_bias_act', lambda: torch.autograd.gradcheck(fn, (x, scale, noise, b)) and
                  torch.autograd.gradgradcheck(fn, (x, scale, noise, b)))
    for name, args in [('4x4', dict(up=2, padding=2)), ('12', dict(down=2, padding=6)),
                       ('3x5', dict(up=3, down=2, padding=4))]:
        fn = lambda x, name=name, args=args: upfirdn2d.upfirdn2d(x, _cases.FILTERS[name].to(device), **args)
        yield attempt(f'gradgradcheck of {name}', lambda fn=fn: torch.autograd.gradcheck(fn, x)
                      and torch.autograd.gradgradcheck(fn, x))


def check_registration(device):
    """Yields a list of failures for each opcheck: schema, fake tensors, autograd, strides."""
    for layout in ('contiguous', 'channels_last'):
        x = _cases.random_tensor((2, 3, 6, 5), 0, layout).to(device).float().requires_grad_(True)
        b, saved = torch.zeros(3, device=device, requires_grad=True), x.detach().clone().requires_grad_(True)
        for act in ('lrelu', 'swish'):
            args = (1, act, 0.2, 1.5, 0.7)
            yield attempt(f'opcheck of {act}', lambda x=x, b=b, args=args: torch.library.opcheck(
                torch.ops.kdgan.bias_act.default, (x, b, *args)))
            yield attempt(f'opcheck of the slope of {act}',
                          lambda x=x, saved=saved, b=b, args=args: torch.library.opcheck(
                              torch.ops.kdgan.bias_act_slope.default, (x, saved, b, *args)))
        scale, noise = (torch.ones(2, 3, device=device, requires_grad=True),
                        torch.ones(1, 1, 6, 5, device=device, requires_grad=True))
        for name, tensors in [('scaled_bias_act', (x, scale, noise, b)),
                              ('scaled_bias_act_grad', (x, saved, x, scale))]:
            yield attempt(f'opcheck of {name}', lambda name=name, tensors=tensors: torch.library.opcheck(
                getattr(torch.ops.kdgan, name).default, (*tensors, 0.2, 1.5, 0.7)))
        f = _cases.FILTERS['4x4'].to(device)
        for args in FILTER_ARGS:
            yield attempt(f'opcheck of upfirdn2d {args}', lambda x=x, f=f, args=args: torch.library.opcheck(
                torch.ops.kdgan.upfirdn2d.default, (x, f, *args, False, 1.0)))


def check_compiled(device):
    """Yields a list of failures: result and gradient of a compiled function."""
    x = torch.randn(2, 3, 8, 8, device=device, requires_grad=True)
    f = _cases.FILTERS['4x4'].to(device)
    fn = lambda x: bias_act.bias_act(upfirdn2d.upsample2d(x, f), act='lrelu', clamp=0.7)
    compiled = torch.compile(fn, fullgraph=True, backend='aot_eager')

    def values_and_gradients():
        y, want = compiled(x), fn(x)
        dy = torch.randn_like(want)                     # a gradient of ones would hide a mistake in the order of pixels
        torch.testing.assert_close(y, want)
        torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(want, x, dy))
    yield attempt('torch.compile', values_and_gradients)


def check_large(device):
    """Yields a list of failures: images from the beginning to the end of a tensor of more than 2^31 elements."""
    if device.type != 'cuda' or torch.cuda.mem_get_info(device)[0] < 12 * 2 ** 30:
        yield 'needs a GPU with 12 GiB of free memory'
        return
    shape = [2 ** 31 // (4 * 64 * 256) + 1, 4, 64, 256]
    # Several channels, each with a bias of its own: their numbers take 64 bits too
    b = torch.arange(4.0, device=device).half()
    half = torch.full([1, 4], 0.5, device=device)
    f = _cases.FILTERS['4x4'].to(device)
    samples = slice(None, None, 1024)                   # 33 images, the last one, beyond 2^31, among them

    def compare_samples(fn, layout):
        x = torch.empty(shape, dtype=torch.float16, device=device, memory_format=layout).normal_()
        torch.testing.assert_close(fn(x, 'auto')[samples], fn(x[samples].contiguous(), 'ref'), atol=4e-3, rtol=4e-3)
    for layout in (torch.contiguous_format, torch.channels_last):
        for name, fn in [('bias_act', lambda x, impl: bias_act.bias_act(x, b, act='lrelu', impl=impl)),
                         ('scaled_bias_act', lambda x, impl: scaled_bias_act.scaled_bias_act(
                              x, half.expand(len(x), 4), None, b, act='lrelu', impl=impl)),
                         ('upfirdn2d', lambda x, impl: upfirdn2d.filter2d(x, f, impl=impl))]:
            yield attempt(f'{name} of more than 2^31 elements, {layout}',
                          lambda fn=fn, layout=layout: compare_samples(fn, layout))


def on_images(device):
    """-> [(name, function of images on the device)], one for each kernel."""
    f = _cases.FILTERS['4x4'].to(device)
    scale, b = torch.ones(2, 3, device=device), torch.ones(3, device=device)
    return [('bias_act', lambda x: bias_act.bias_act(x, act='lrelu')),
            ('upfirdn2d', lambda x: upfirdn2d.upsample2d(x, f)),
            ('scaled_bias_act', lambda x: scaled_bias_act.scaled_bias_act(x, scale, None, b, act='lrelu'))]


def check_streams(device):
    """Yields a list of failures: an input that its stream makes late, which a kernel on any other stream would read too
    early."""
    if device.type != 'cuda':
        yield 'needs a GPU'
        return
    x = torch.randn(2, 3, 64, 64, device=device)
    for name, fn in on_images(device):
        want, late, stream = fn(x), torch.zeros_like(x), torch.cuda.Stream(device)
        torch.cuda.synchronize(device)
        with torch.cuda.device(device), torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)               # clock cycles: some 30 ms
            late.copy_(x)
            got = fn(late)
        stream.synchronize()
        yield [] if torch.equal(got, want) else [f'{name} does not run on the current stream']


def check_graph(device):
    """Yields a list of failures: a call that a CUDA graph has recorded, replayed after its input has changed."""
    if device.type != 'cuda':
        yield 'needs a GPU'
        return

    def record_and_replay(fn):
        x, graph = torch.randn(2, 3, 64, 64, device=device), torch.cuda.CUDAGraph()
        fn(x)                                           # what a first call sets up is not for a graph
        torch.cuda.synchronize(device)
        with torch.cuda.device(device), torch.cuda.graph(graph):
            y = fn(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(y, fn(x), rtol=0, atol=0)
    for name, fn in on_images(device):
        yield attempt(f'{name} in a CUDA graph', lambda fn=fn: record_and_replay(fn))


def attempt(name, fn):
    """-> [] or the first line of what went wrong."""
    try:
        fn()
    except Exception as err:            # noqa: BLE001  the other checks go on
        return [f'{name}: {gist(err, line=0)}']
    return []


def checks(device, dtypes=DTYPES):
    """Yields (name, generator of lists of failures, or of why the check is skipped)."""
    for op in custom_ops.OPERATORS:
        for dtype in dtypes:
            yield f'{op} {str(dtype).removeprefix("torch.")}', check_values(op, dtype, device)
    yield 'first and second derivatives', check_gradients(device)
    yield 'opcheck', check_registration(device)
    yield 'torch.compile', check_compiled(device)
    yield 'more than 2^31 elements', check_large(device)
    yield 'another stream', check_streams(device)
    yield 'CUDA graph', check_graph(device)
    for i in range(1, torch.cuda.device_count()):
        yield f'cuda:{i}', check_quickly(torch.device('cuda', i))


def report(device, dtypes=DTYPES):
    """Runs all checks and prints the table. Returns all failures, and the names of the checks that were skipped."""
    failures, skipped = [], []
    print(f'{"check":<32}{"cases":>7}{"failed":>8}{"seconds":>9}')
    for name, results in checks(device, dtypes):
        started, count, failed = time.perf_counter(), 0, 0
        for lines in results:
            if isinstance(lines, str):
                skipped.append(name)
                print(f'{name:<32}skipped: {lines}', flush=True)
                break
            count, failed = count + 1, failed + bool(lines)
            failures += lines
        else:
            print(f'{name:<32}{count:>7}{failed:>8}{time.perf_counter() - started:>9.1f}', flush=True)
    return failures, skipped


def check():
    """-> exit code."""
    if not torch.cuda.is_available():
        print(f'gpu_check needs a CUDA GPU, torch {torch.__version__} sees none here; python -m torch_utils.doctor '
              'says more')
        return 1
    device = torch.device('cuda', torch.cuda.current_device())
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # the error says the same
            for kernel in custom_ops.OPERATORS:
                custom_ops.require(kernel, device)
    except RuntimeError as err:
        print(err)
        return 1
    print(f'torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}; built, loaded and '
          f'compared once in {time.perf_counter() - started:.1f} s')
    failures, skipped = report(device)
    right = f'All right, except for what was skipped: {", ".join(skipped)}.' if skipped else 'All right.'
    print('\n'.join(failures[:20]) + f'\n{len(failures)} failures' if failures else right)
    return 1 if failures else 0


@click.command()
def main():
    """Check the CUDA kernels on this GPU.

    Builds and loads them, compares every case with the float64 reference in every dtype, runs gradgradcheck and
    opcheck, checks tensors of more than 2^31 elements, other streams, CUDA graphs, every further GPU, and a compiled
    function; prints a short table. Exit code 0 if all is right, 1 if not or if there is no GPU. Afterwards,
    benchmarks/ops.py measures their speed.
    """
    sys.exit(check())


if __name__ == '__main__':
    main()
