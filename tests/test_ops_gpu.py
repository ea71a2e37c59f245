"""The kernels on a GPU: everything that benchmarks/gpu_check.py checks; and that program and the benchmark where there
is none."""

import importlib.util
import pathlib
import sys

import pytest
import torch
from conftest import run_cli

from torch_utils import custom_ops
from torch_utils.ops import _cases, bias_act, upfirdn2d

BENCHMARKS = pathlib.Path(__file__).parent.parent / 'benchmarks'
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f'{name}_benchmark', BENCHMARKS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'path', list(sys.path))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def gpu_check():
    return benchmark('gpu_check')


@pytest.fixture(scope='module')
def ops_benchmark():
    return benchmark('ops')


@pytest.mark.gpu
@needs_gpu
def test_all_checks_on_the_gpu(gpu_check):
    device = torch.device('cuda', torch.cuda.current_device())
    for kernel in custom_ops.OPERATORS:
        custom_ops.require(kernel, device)
    assert gpu_check.report(device)[0] == []


@pytest.mark.gpu
@needs_gpu
def test_impl_cuda_takes_what_the_kernel_takes():
    x = torch.randn(1, 1, 40, 40, device='cuda')
    torch.testing.assert_close(bias_act.bias_act(x, act='lrelu', impl='cuda'),
                               bias_act.bias_act(x, act='lrelu', impl='ref'))
    long = torch.ones(33, device='cuda')
    torch.testing.assert_close(upfirdn2d.upfirdn2d(x, long), upfirdn2d.upfirdn2d(x, long, impl='ref'))
    with pytest.raises(ValueError, match=r"f has shape \[33\], impl='cuda' takes up to 32 taps"):
        upfirdn2d.upfirdn2d(x, long, impl='cuda')


@pytest.mark.skipif(torch.cuda.is_available(), reason='tells of a machine without a GPU')
def test_without_a_gpu_the_check_says_so_in_one_line(gpu_check, capsys):
    assert gpu_check.check() == 1
    out = capsys.readouterr().out
    assert out.startswith('gpu_check needs a CUDA GPU') and out.count('\n') == 1


def test_the_report_counts_cases_and_failures(gpu_check, capsys, monkeypatch):
    cases = [_cases.BiasActCase('swish', (2, 3)), _cases.Upfirdn2dCase('3x5', (1, 1, 4, 4)),
             _cases.ScaledBiasActCase((2, 3, 2, 2))]
    for op, case in zip(custom_ops.OPERATORS, cases, strict=True):
        monkeypatch.setattr(_cases, f'{op}_cases', lambda case=case: [case])
    monkeypatch.setattr(gpu_check, 'check_gradients', lambda device: [[], ['gradgradcheck of x: wrong']])
    monkeypatch.setattr(gpu_check, 'check_registration', lambda device: [gpu_check.attempt('opcheck', lambda: 1 / 0)])
    failures, skipped = gpu_check.report(torch.device('cpu'), [torch.float32])
    assert failures == ['gradgradcheck of x: wrong', 'opcheck: ZeroDivisionError: division by zero']
    assert skipped == ['more than 2^31 elements', 'another stream', 'CUDA graph']
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert (lines[1][:4] == ['bias_act', 'float32', '3', '0']
            and ['first', 'and', 'second', 'derivatives', '2', '1'] in [line[:6] for line in lines])


def test_numeric_derivatives_are_taken_where_they_exist(gpu_check):
    """Beside a kink a numeric derivative would be neither slope. What is right on the CPU must pass."""
    results = list(gpu_check.check_gradients(torch.device('cpu')))
    assert results == [[]] * (len(bias_act.activation_funcs) + 4)


def test_a_kernel_that_is_not_there_is_one_line(gpu_check, capsys, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.current_device', lambda: 0)
    monkeypatch.setattr(custom_ops, '_problems', dict.fromkeys(custom_ops.OPERATORS, 'nvcc is missing'))
    assert gpu_check.check() == 1
    assert capsys.readouterr().out == "bias_act: impl is 'cuda', but there is no kernel: nvcc is missing\n"


def test_a_case_that_cannot_run_is_a_failure(gpu_check):
    line, = gpu_check.compare(_cases.BiasActCase('gelu', (2, 3)), torch.float32, torch.device('cpu'))
    assert 'gelu' in line and 'KeyError' in line


@pytest.mark.skipif(torch.cuda.is_available(), reason='tells of a machine without a GPU')
def test_without_a_gpu_the_benchmark_says_so_in_one_line(ops_benchmark):
    code, output = run_cli(ops_benchmark.main, '--device=cuda', '--quick')
    assert code == 1 and output.startswith('Error: --device=cuda needs a CUDA GPU') and output.count('\n') == 1


def test_the_benchmark_runs(ops_benchmark):
    with torch.no_grad():
        code, output = run_cli(ops_benchmark.main, '--device=cpu', '--quick')
    assert code == 0 and output.count('bias_act lrelu') == 8 and '% ' not in output.splitlines()[1]
