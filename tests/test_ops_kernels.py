"""The CUDA kernels without a GPU: the same source as a CPU library, compared with the reference; and what nvcc says of
it."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import torch

from torch_utils import custom_ops
from torch_utils.native import build as native_build
from torch_utils.ops import _cases, bias_act, conv2d_resample, scaled_bias_act, upfirdn2d

CPU = torch.device('cpu')
F = torch.nn.functional
OPS = pathlib.Path(custom_ops.FOLDER)
NAMES = [name for names in custom_ops.OPERATORS.values() for name in names]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
MULTIPROCESSORS = [1, 30, 132]
NVCC_FLAGS = ['-D__CUDA_NO_HALF_OPERATORS__', '-D__CUDA_NO_HALF_CONVERSIONS__', '-D__CUDA_NO_BFLOAT16_CONVERSIONS__',
              '-D__CUDA_NO_HALF2_OPERATORS__',
              '--expt-relaxed-constexpr']     # as torch passes them


@pytest.fixture
def kernels(host_library):
    """Inside a test, the kernels are what torch.ops.kdgan calls on the CPU: a set of the names of those that were
    called."""
    called = set()
    with torch.library._scoped_library('kdgan', 'IMPL') as library:
        for name in NAMES:
            library.impl(name, lambda *args, name=name: called.add(name) or host_library.operator(name)(*args), 'CPU')
        yield called


@pytest.fixture(params=MULTIPROCESSORS)
def multiprocessors(request, kernels, host_library):
    """Of the GPU that tiles and grids are chosen for: with more of them, tiles are smaller."""
    host_library.set_multiprocessors(request.param)
    yield request.param
    host_library.set_multiprocessors(1)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('op', list(custom_ops.OPERATORS))
def test_every_case_equals_the_float64_reference(multiprocessors, op, dtype):
    cases = list(getattr(_cases, f'{op}_cases')()) + _cases.quick(op)
    assert len(cases) > 100
    assert [text for case in cases for text in _cases.failures(case, dtype, CPU)] == []


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != 'linux', reason='needs the sanitizers of GCC or Clang on Linux')
def test_no_sanitizer_reports_anything():
    """All cases at all numbers of multiprocessors again, in a process in which reads and writes beyond memory end
    it."""
    runtime = subprocess.run([native_build.find_compiler(), '-print-file-name=libasan.so'], capture_output=True,
                             text=True).stdout.strip()
    env = dict(os.environ, LD_PRELOAD=os.path.realpath(runtime), KDGAN_TEST_SANITIZE='1', OMP_NUM_THREADS='1',
               ASAN_OPTIONS='detect_leaks=0:verify_asan_link_order=0', UBSAN_OPTIONS='print_stacktrace=1')
    command = [sys.executable, '-m', 'pytest', __file__, '-k', 'test_every_case_equals', '-x', '-p', 'no:cacheprovider']
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    count = len(custom_ops.OPERATORS) * len(DTYPES) * len(MULTIPROCESSORS)
    assert result.returncode == 0 and f'{count} passed' in result.stdout, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.parametrize('clamp', [None, 0.6])
@pytest.mark.parametrize('act', list(bias_act.activation_funcs))
def test_bias_act_to_the_second_derivative(kernels, act, clamp):
    """Autograd through the definition is the judge; the formulas that lead from kernel to kernel are those of
    training."""
    x, b = (torch.randn(s, dtype=torch.double, generator=torch.Generator().manual_seed(4)).requires_grad_(True)
            for s in [(3, 4, 5, 2), 4])
    results = []
    for impl in ('auto', 'ref'):
        y = bias_act.bias_act(x, b, act=act, clamp=clamp, gain=1.7, impl=impl)
        dx, db = torch.autograd.grad(y, [x, b], torch.cos(y), create_graph=True)
        results.append([y, dx, db, *torch.autograd.grad(dx.square().sum() + db.square().sum(), [x, b])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)
    assert torch.autograd.gradgradcheck(lambda x, b: bias_act.bias_act(x, b, act=act, clamp=clamp), (x, b))


@pytest.mark.parametrize('name, args', [('4x4', dict(up=2, padding=2)), ('4', dict(down=2, padding=1)),
                                        ('4x4', dict(padding=[2, 1, 0, 3])), ('12', dict(up=2, padding=[6, 5])),
                                        ('12', dict(down=2, padding=5)), ('3x5', dict(up=4, padding=[-3, 25, 20, -2]))])
def test_upfirdn2d_derivatives(kernels, name, args):
    x = torch.randn(1, 2, 5, 4, dtype=torch.double, requires_grad=True)
    f = _cases.FILTERS[name]
    fn = lambda x, impl='auto': upfirdn2d.upfirdn2d(x, f, gain=-1.5, impl=impl, **args)
    torch.testing.assert_close(torch.autograd.grad(fn(x).cos().sum(), x),
                               torch.autograd.grad(fn(x, 'ref').cos().sum(), x))
    assert torch.autograd.gradgradcheck(fn, x)


def layer_definition(x, scale, noise, b, clamp):
    """What follows a modulated convolution, written out."""
    u = x * scale[:, :, None, None] + noise + b[:, None, None]
    y = torch.where(u > 0, u, 0.2 * u) * 1.5
    return y if clamp is None else torch.where(y.abs() < clamp, y, clamp * y.sign())


def up_conv_definition(x, w, f):
    """Zeros between the pixels, the filter (a convolution), the kernel (a correlation)."""
    n, c, h, width = x.shape
    spread = torch.stack([x, torch.zeros_like(x)], -1).reshape(n, c, h, 2 * width)
    spread = torch.stack([spread, torch.zeros_like(spread)], 3).reshape(n, c, 2 * h, 2 * width)
    filtered = F.conv2d(F.pad(spread, [3, 2, 3, 2]), 4 * f.flip([0, 1])[None, None].expand(c, 1, -1, -1), groups=c)
    return F.conv2d(filtered, w)


def two_layers(tensors, layer, up_conv, conv, clamp):
    """-> image, its gradients with respect to x and the scales, and those of the penalties on them (R1, path length) to
    all tensors."""
    x, scale_1, b_1, noise_1, weight_1, scale_2, b_2, noise_2, weight_2 = tensors
    x_1 = layer(up_conv(x, weight_1), scale_1, noise_1, b_1, clamp)
    image = layer(conv(x_1, weight_2), scale_2, noise_2, b_2, clamp)
    direction = torch.linspace(-1, 1, image.numel(), dtype=image.dtype).reshape(image.shape)
    first = torch.autograd.grad((image * direction).sum(), [x, scale_1, scale_2], create_graph=True)
    lengths = torch.cat([g.square().sum(1) for g in first[1:]]).sqrt()
    penalty = first[0].square().sum() + (lengths - 0.3).square().sum()
    return [image, *first, *torch.autograd.grad(penalty + image.square().mean(), tensors)]


@pytest.mark.parametrize('clamp', [None, 0.8])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_generator_with_its_regularisations_goes_from_kernel_to_kernel(kernels, monkeypatch, layout, dtype, clamp):
    """The fused operator before and after convolutions, one of them with a filter, in first and second derivatives: as
    float64 in plain torch."""
    monkeypatch.setattr(scaled_bias_act, '_operator_serves', lambda x: True)
    shapes = [[2, 3, 6, 5], [2, 4], [4], [1, 1, 12, 10], [4, 3, 3, 3], [2, 8], [8], [2, 1, 12, 10], [8, 4, 3, 3]]
    exact = [_cases.random_tensor(shape, seed).requires_grad_(True) for seed, shape in enumerate(shapes)]
    given = [t.detach().to(dtype, memory_format=layout if t.ndim == 4 else torch.preserve_format).requires_grad_(True)
             for t in exact]
    f = _cases.FILTERS['4x4']
    layer = lambda x, scale, noise, b, clamp: scaled_bias_act.scaled_bias_act(x, scale, noise, b, 'lrelu', 1.5, clamp)
    conv = lambda x, w: conv2d_resample.conv2d_resample(x, w, padding=1)
    got = two_layers(given, layer, lambda x, w: conv2d_resample.conv2d_resample(x, w, f, up=2, padding=1), conv, clamp)
    assert kernels == {'upfirdn2d', *custom_ops.OPERATORS['scaled_bias_act']}
    want = two_layers(exact, layer_definition, lambda x, w: up_conv_definition(x, w, f.double()),
                      lambda x, w: F.conv2d(x, w, padding=1), clamp)
    for got_one, want_one in zip(got, want, strict=True):
        error = (got_one.double() - want_one).norm() / want_one.norm()
        assert error <= (1e-6 if dtype == torch.float32 else 1e-13) * 20 and want_one.norm() > 0, error


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'strided'])
def test_opcheck_and_strides(kernels, layout):
    """opcheck compares shapes, dtypes, strides and offsets with what the fake promises to a compiler."""
    x = _cases.laid_out(_cases.random_tensor((2, 3, 6, 5), 0, layout), layout, torch.float32, CPU)
    b, args = torch.zeros(3), (1, 'swish', 0.2, 1.0, -1.0)
    test = ('test_schema', 'test_faketensor')
    torch.library.opcheck(torch.ops.kdgan.bias_act.default, (x, b, *args), test_utils=test)
    torch.library.opcheck(torch.ops.kdgan.bias_act_slope.default, (x, x.contiguous(), b, *args), test_utils=test)
    torch.library.opcheck(torch.ops.kdgan.bias_act_curve.default, (x, x.contiguous(), x, b, *args), test_utils=test)
    torch.library.opcheck(torch.ops.kdgan.upfirdn2d.default, (x, _cases.FILTERS['4x4'], 2, 2, 1, 1, 2, 1, 2, 1, False,
                                                              1.0), test_utils=test)
    scale, noise, tail = torch.ones(2, 3), torch.ones(1, 1, 6, 5), (0.2, 1.5, 0.7)
    torch.library.opcheck(torch.ops.kdgan.scaled_bias_act.default, (x, scale, noise, b, *tail), test_utils=test)
    torch.library.opcheck(torch.ops.kdgan.scaled_bias_act_grad.default, (x, x, x, scale, *tail), test_utils=test)
    torch.library.opcheck(torch.ops.kdgan.scaled_bias_act_grad2.default, (x, scale, noise, b, x, x, x, scale, *tail),
                          test_utils=test)


def test_a_result_in_another_layout_is_a_failure():
    case = _cases.BiasActCase('relu', (2, 3, 4, 5), layout='channels_last')
    with torch.library._scoped_library('kdgan', 'IMPL') as wrong:
        wrong.impl('bias_act', lambda x, *args: custom_ops.references['bias_act'](x, *args).contiguous(), 'CPU')
        line, = _cases.failures(case, torch.float32, CPU)
    assert 'the error is 0,' in line and 'strides [60, 20, 5, 1], expected [2, 3, 4, 5] and [60, 1, 15, 3]' in line


def test_nan_reaches_the_result(kernels):
    x = torch.tensor([[float('nan')]])
    for act in bias_act.activation_funcs:
        assert bias_act.bias_act(x, act=act, clamp=1).isnan().item()


@pytest.mark.parametrize('act', ['lrelu', 'swish'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_no_gradient_passes_a_limit_that_the_dtype_cannot_represent(kernels, act, dtype):
    x = torch.full([1, 9], 5.0, dtype=dtype, requires_grad=True)
    assert torch.autograd.grad(bias_act.bias_act(x, act=act, clamp=0.1).sum(), x)[0].abs().sum() == 0


@pytest.mark.parametrize('call, message', [
    (lambda ops, x: ops.bias_act(x, torch.zeros(4), 1, 'relu', 0.0, 1.0, -1.0),
     r'b is Float\[4\] on cpu, it must be Float\[3\]'),
    (lambda ops, x: ops.bias_act(x, None, 1, 'gelu', 0.0, 1.0, -1.0), "act is 'gelu'"),
    (lambda ops, x: ops.bias_act_slope(x, x[:1], None, 1, 'relu', 0.0, 1.0, -1.0), r'saved is Float\[1, 3, 4, 4\]'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(33), 1, 1, 1, 1, 40, 0, 40, 0, False, 1.0),
     r'f has shape \[33\], the kernel takes'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(5), 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0),
     'the padded image is smaller than the filter'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(1), 0, 1, 1, 1, 0, 0, 0, 0, False, 1.0),
     'upx is 0, downx is 1, they must be 1 to 1073741824'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(1), 1, 1, 1, 0, 0, 0, 0, 0, False, 1.0),
     'upy is 1, downy is 0, they must be 1 to 1073741824'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(1), 1, 2 ** 62, 1, 1, 0, 0, 0, 0, False, 1.0),
     'upy is 4611686018427387904, downy is 1, they must'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(1), 1, 1, 1, 1, 2 ** 31 + 5, -2 ** 31, 0, 0, False, 1.0),
     'the padding in x is 2147483653 and -2147'),
    (lambda ops, x: ops.upfirdn2d(x, torch.ones(1), 1, 2 ** 30, 1, 2 ** 30, 0, 0, 0, 0, False, 1.0),
     'the image with its padding is too large in y')])
def test_the_library_itself_refuses_what_would_read_beyond_a_tensor(host_library, call, message):
    with pytest.raises(RuntimeError, match=message):
        call(host_library.operators, torch.zeros(2, 3, 4, 4))


def test_python_and_the_kernel_agree_on_the_limits():
    text = (OPS / 'upfirdn2d.h').read_text()
    assert re.search(r'MAX_KERNEL_TAPS = (\d+);', text)[1] == str(upfirdn2d.KERNEL_TAPS)
    assert 2 ** int(re.search(r'MAX_EXTENT = 1 << (\d+);', text)[1]) == upfirdn2d.MAX_EXTENT


def test_a_change_of_any_included_file_makes_another_library(tmp_path, monkeypatch):
    folder = tmp_path / 'ops'
    shutil.copytree(OPS, folder)
    monkeypatch.setattr(custom_ops, 'FOLDER', str(folder))
    names = {name for path in folder.glob('*.[ch]*') for name in re.findall(r'#include "(.+)"', path.read_text())}
    assert 'dtype.h' in names
    for name in names:
        before = custom_ops.recipe('9.0').key()
        (folder / name).write_text((folder / name).read_text() + '// changed\n')
        assert custom_ops.recipe('9.0').key() != before, name


@pytest.mark.skipif(native_build.find_nvcc() is None, reason='needs nvcc')
# Torch 2.6 and 2.13; half as long
@pytest.mark.parametrize('arch, std, form', [(80, 'c++17', '-ptx'), (90, 'c++20', '-c')])
@pytest.mark.parametrize('name', list(custom_ops.OPERATORS))
def test_nvcc_compiles_without_a_warning(name, arch, std, form, tmp_path):
    nvcc, target = native_build.find_nvcc(), tmp_path / 'kernels.o'
    if int(native_build.nvcc_version(nvcc).split('.')[0]) < 12:
        pytest.skip('needs CUDA 12')
    arch_flag = f'-gencode=arch=compute_{arch},code={"compute" if form == "-ptx" else "sm"}_{arch}'
    flags = ['-O1', f'-std={std}', arch_flag, *NVCC_FLAGS, '--Werror', 'all-warnings', '-Xcompiler',
             '-Wall,-Wextra,-Werror']
    result = subprocess.run([nvcc, form, str(OPS / f'{name}.cu'), '-o', str(target), *flags],
                            capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == '', result.stdout + result.stderr
    assert target.stat().st_size > 100_000
