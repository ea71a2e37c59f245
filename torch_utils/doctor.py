"""Reports what this machine can do and what is missing: python -m torch_utils.doctor [--build]

Prints versions, devices, which backend each operator uses and why, and the results of a short numeric check. Ends with
exit code 0 if all is well (a machine without a GPU is), with 1 if something is broken; every problem comes with its
fix.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings

import torch

from . import custom_ops
from .native import build as native_build
from .native import nvrtc_kernels
from .ops import _cases, bias_act, scaled_bias_act, upfirdn2d

PATIENT_SEC = 1800


def driver_version():
    """The version of the NVIDIA driver, or None."""
    if shutil.which('nvidia-smi') is None:
        return None
    try:
        result = subprocess.run(['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'],
                                capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.split('\n')[0].strip() or None if result.returncode == 0 else None


def versions():
    """Yields (what, version and place)."""
    nvcc, ninja, compiler = native_build.find_nvcc(), native_build.find_ninja(), native_build.find_compiler()
    tool = lambda path, version: 'not found' if path is None else f'{version or "does not run"}  ({path})'
    yield 'python', f'{platform.python_version()}  ({sys.executable})'
    yield 'torch', f'{torch.__version__}, built for {f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"}'
    yield 'driver', driver_version() or 'no NVIDIA driver'
    yield 'nvcc', tool(nvcc, nvcc and native_build.nvcc_version(nvcc))
    yield 'NVRTC', nvrtc_version()
    yield 'ninja', tool(ninja, ninja and native_build.version_of(ninja))
    yield 'compiler', tool(compiler, compiler and native_build.version_of(compiler))


def nvrtc_version():
    """'13.0  (path)' of the NVRTC that would compile for torch, or the reason why there is none."""
    try:
        return f'{nvrtc_kernels.version()}  ({nvrtc_kernels.library()})'
    except native_build.BuildError as err:
        return f'not in use: {err.problem.gist()}'


def devices():
    """Lines about the processors."""
    lines = [f'cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads, '
             f'{torch.backends.cpu.get_cpu_capability()}']
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f'cuda:{i}, {properties.name}, architecture {properties.major}.{properties.minor}, '
                     f'{properties.total_memory / 2 ** 30:.0f} GiB')
    return lines


def backends(has_cuda, time_limit_sec=native_build.TIME_LIMIT_SEC):
    """{operator: (backend and reason, problem or None)}; with a GPU this builds the kernels if need be, within the
    limit."""
    if not has_cuda:
        reason = 'torch is built for the CPU' if torch.version.cuda is None else 'torch sees no GPU'
        return dict.fromkeys(custom_ops.OPERATORS, (f'plain torch: {reason}', None))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')             # their text is printed below
        problems = {kernel: custom_ops.problem_of(kernel, time_limit_sec) for kernel in custom_ops.OPERATORS}
    return {kernel: (f'{custom_ops.backend_of(kernel, torch.device("cuda"))} on cuda, plain torch on cpu'
                     if problem is None else 'plain torch: the CUDA kernel is not in use', problem)
            for kernel, problem in problems.items()}


def numeric_check(kernel, device):
    """Lines about results that differ from the float64 reference, up to the second derivative."""
    cases = _cases.quick(kernel)
    lines = [text for dtype in (torch.float32, torch.float64) for case in cases
             for text in _cases.failures(case, dtype, device)]
    x = _cases.random_tensor((1, 2, 6, 5), 5).to(device).requires_grad_(True)
    second = []
    for impl in ('auto', 'ref'):
        y = _example(kernel, x, impl)
        dx, = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(dx.square().sum(), x)[0])
    if not torch.allclose(*second, rtol=1e-6, atol=1e-6):        # the filter's weights are float32
        lines.append(f'{kernel}: the second derivative on {device} differs by '
                     f'{(second[0] - second[1]).abs().max().item():.2g}')
    return lines


def _example(kernel, x, impl):
    """A function of x [N, C, H, W] that goes through the operators of a kernel, on every device, or through their
    definition."""
    if kernel == 'bias_act':
        return bias_act.bias_act(x, act='swish', impl=impl)
    if kernel == 'upfirdn2d':
        return upfirdn2d.upsample2d(x, _cases.FILTERS['4x4'].to(x.device), impl=impl).sin()
    scale, b = x.detach()[:, :, 0, 0], x.detach()[0, :, 0, 1]
    if impl == 'ref':
        return scaled_bias_act.scaled_bias_act(x, scale, None, b, act='lrelu', gain=1.5, impl=impl)
    return scaled_bias_act.by_operator(x, scale, None, b, 0.2, 1.5, None)


def machine_problems(driver, has_cuda):
    """Yields (problem, fix) of a machine that has a GPU which torch does not see."""
    if driver and torch.version.cuda is None:
        yield 'there is an NVIDIA driver, but torch is built for the CPU', 'install torch for CUDA: https://pytorch.org'
    elif driver and not has_cuda:
        yield (f'torch for CUDA {torch.version.cuda} sees no GPU (driver {driver})',
               'check CUDA_VISIBLE_DEVICES, or install a newer driver, or torch for an older CUDA')


def kernel_problems(problem_of_kernel):
    """Yields (problem, fix), once if kernels share it."""
    for problem in dict.fromkeys(problem_of_kernel.values()):
        kernels = ', '.join(kernel for kernel, other in problem_of_kernel.items() if other == problem)
        yield (f'{kernels}: {problem.reason}',
               problem.remedy or 'KDGAN_CACHE_DIR names another folder for the kernels; deleting the folder '
                                 'native-ops in it is safe')


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m torch_utils.doctor', description=__doc__.split('\n')[0])
    parser.add_argument('--build', action='store_true', help=f'let the compilation of the CUDA kernels take up to '
                                                             f'{PATIENT_SEC // 60} minutes')
    options = parser.parse_args(argv)
    table = dict(versions())
    for what, text in table.items():
        print(f'{what:<12}{text}')
    has_cuda = torch.cuda.is_available()
    for line in devices():
        print(f'{"device":<12}{line}')
    problems = list(machine_problems(driver_version(), has_cuda))
    found = backends(has_cuda, PATIENT_SEC if options.build else native_build.TIME_LIMIT_SEC)
    for kernel, (text, _) in found.items():
        print(f'{kernel:<11} {text}')
    problems += kernel_problems({kernel: problem for kernel, (_, problem) in found.items() if problem is not None})
    for device in [torch.device(name) for name in ['cpu', *(['cuda'] if has_cuda else [])]]:
        started = time.perf_counter()
        lines = [line for kernel in custom_ops.OPERATORS for line in numeric_check(kernel, device)]
        print(f'{"check":<12}{device}: {"wrong" if lines else "right"} to the second derivative, '
              f'{time.perf_counter() - started:.1f} s')
        fix = ('the folder native-ops in the cache (~/.cache/kdgan) may be deleted to build again; else report '
               'these lines')
        problems += [(line, fix if device.type == 'cuda' else 'reinstall torch; if it stays, report these lines')
                     for line in lines]
    for problem, fix in problems:
        print(f'\nProblem: {problem}\nFix:     {fix}')
    print(f'\n{len(problems)} problems found' if problems else '\nEverything is in order.')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
