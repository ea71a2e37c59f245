"""The CUDA kernels of torch_utils/ops: built and loaded when the first CUDA tensor comes, compared once with the
reference, then used.

There are two ways to get them: a library built by nvcc (native/build.py), or else NVRTC, which comes with torch
(native/nvrtc_kernels.py). If neither works, the operators run in plain torch, and one warning says why and what to do.
On a machine without a GPU nothing here runs, and no compiler is needed.
"""

import glob
import os
import platform
import re
import threading
import time
import warnings

import torch

import dnnlib
from dnnlib import UserError

from . import distributed
from .native import build as native_build
from .native import cache as build_cache
from .native import nvrtc_kernels
from .native.cuda_driver import DriverError

OPERATORS = {                           # kernel -> the operators it computes
    'bias_act': ['bias_act', 'bias_act_slope', 'bias_act_curve'],
    'upfirdn2d': ['upfirdn2d'],
    'scaled_bias_act': ['scaled_bias_act', 'scaled_bias_act_grad', 'scaled_bias_act_grad2'],
}
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'ops')
# Operator -> the function in plain torch that it falls back to (ops/_library.py)
references = {}
CHECK = 'torch_utils.ops._cases.quick_failures'         # by name: the operators import this file
_problems = {}                          # kernel -> None if in use, else its `Problem`; empty until the first look
_backends = {}                          # kernel -> what runs on CUDA devices and why, in a few words
_looking = threading.Lock()
_installed = {}                         # operator -> the Python function that torch calls on a GPU; see `_install`
_registrations = []                     # which last as long as these objects


def problem_of(kernel, time_limit_sec=native_build.TIME_LIMIT_SEC):
    """The `Problem` of a kernel that is not in use on CUDA devices, or None. The first call builds, loads, checks."""
    if kernel not in _problems:
        with _looking:
            if not _problems:
                problems, backends, notes = _load(time_limit_sec)
                _backends.update(backends)
                # Before the warnings, which may be errors: no call should build again
                _problems.update(problems)
                for note in notes:
                    warnings.warn(note, RuntimeWarning, stacklevel=2)
    return _problems[kernel]


def require(kernel, device):
    """For impl='cuda': raises RuntimeError unless the kernel runs on `device`."""
    if device.type != 'cuda':
        raise RuntimeError(f"{kernel}: impl is 'cuda', x is on {device}; use impl='auto', or move x to a GPU")
    problem = problem_of(kernel) if kernel in OPERATORS else 'none is written for it'
    if problem is not None:
        raise RuntimeError(f"{kernel}: impl is 'cuda', but there is no kernel: {problem}")


def backend_of(kernel, device):
    """The backend of a kernel's operators on a device and the reason, e.g. 'kernel compiled by NVRTC 13.0 (nvcc is
    missing)'. May build, as `problem_of`."""
    if device.type != 'cuda':
        return f'plain torch (on {device.type})'
    problem_of(kernel)
    return _backends[kernel]


def architectures():
    """The user's TORCH_CUDA_ARCH_LIST, else the architectures of the GPUs at hand, e.g. '8.0;9.0'."""
    listed = os.environ.get('TORCH_CUDA_ARCH_LIST')
    if listed and listed != 'native':               # which means those at hand, but only newer torch knows the word
        return listed
    return ';'.join(sorted({'{}.{}'.format(*torch.cuda.get_device_capability(i)) for i in _gpus()}))


def _gpus():
    """Numbers of the GPUs to build for: the current one last, before it all that torch itself has code for."""
    current = torch.cuda.current_device()
    others = [i for i in range(torch.cuda.device_count()) if i != current]
    return [*(i for i in others if _torch_has_code_for(torch.cuda.get_device_capability(i))), current]


def _torch_has_code_for(capability):
    """Of its own generation, made for this GPU or one before it ('sm_86'), or older code that the driver translates
    ('compute_80')."""
    codes = re.findall(r'(sm|compute)_(\d+)(\d)', ' '.join(torch.cuda.get_arch_list()))
    return any((int(major), int(minor)) <= capability and (kind == 'compute' or int(major) == capability[0])
               for kind, major, minor in codes)


def recipe(arch):
    """What to compile for these architectures."""
    in_folder = lambda pattern: sorted(glob.glob(os.path.join(FOLDER, pattern)))
    return native_build.Recipe('kdgan_ops', [*in_folder('*.cpp'), *in_folder('*.cu')], in_folder('*.h'), arch)


def load_library(time_limit_sec=native_build.TIME_LIMIT_SEC):
    """Path of the library, built if need be and now known to torch. Raises BuildError, or UserError or OSError of the
    cache."""
    if torch.version.cuda is None:
        raise native_build.BuildError(f'torch {torch.__version__} is not built for CUDA',
                                      'install torch for CUDA: https://pytorch.org')
    wanted, started = recipe(architectures()), time.time()
    for _ in range(2):
        path = native_build.build(wanted, time_limit_sec)
        try:
            torch.ops.load_library(path)
            return path
        except OSError as err:
            # a file that is damaged, or was made where other libraries are installed
            problem = err.__cause__ or err          # newer torch gives the reason only there
            build_cache.discard(path, before=started)
    raise native_build.BuildError(f'the library, built again, does not load: {problem}',
                                  'install what it lacks, with its folder in LD_LIBRARY_PATH '
                                  'if need be; where it lacks a version of GLIBCXX or GLIBC, name an older '
                                  'compiler with CXX')


def _load(time_limit_sec):
    """-> ({kernel: None or `Problem`} of all kernels, {kernel: backend in words}, what to warn of)."""
    search = Search()
    for load in (_load_library, _load_nvrtc):
        left = search.left()
        if left:
            try:
                backend, functions = load(time_limit_sec)
            except Exception as err:    # noqa: BLE001  no failure of the machine's tools may end a run
                search.note_unbuilt(err)
            else:
                for kernel in left:
                    search.try_kernel(kernel, backend, functions)
    return search.result()


def _load_library(time_limit_sec):
    load_library(time_limit_sec)
    return 'nvcc', None


def _load_nvrtc(time_limit_sec):
    capabilities = {torch.cuda.get_device_capability(i) for i in _gpus()}
    return f'NVRTC {nvrtc_kernels.version()}', nvrtc_kernels.operators(capabilities, time_limit_sec)


class Search:
    """Which backend serves which kernel, as far as it is known; and why others do not."""

    def __init__(self):
        self.backends = {}              # kernel -> in words
        self.unbuilt = []               # why there are no kernels at all, one `Problem` per backend
        self.wrong = {}                 # kernel -> `Problem` of a backend that gives wrong results
        self.notes = []

    def left(self):
        return [kernel for kernel in OPERATORS if kernel not in self.backends]

    def note_unbuilt(self, err):
        problem = _problem_in(err)
        if problem not in self.unbuilt:
            self.unbuilt.append(problem)

    def try_kernel(self, kernel, backend, functions):
        """functions: {operator: function}, or None where torch knows the kernels already."""
        devices = _different_gpus()
        if functions is not None:
            _install(kernel, functions, devices[0])
        problem = _check(kernel, devices)
        if problem is not None:
            self.wrong[kernel] = problem
            return
        reasons = [*self.unbuilt, *filter(None, [self.wrong.get(kernel)])]
        self.backends[kernel] = f'kernel compiled by {backend}' + (f' ({reasons[0].gist()})' if reasons else '')
        if kernel in self.wrong:
            self.notes.append(f'{kernel} runs with the kernel of {backend} on rank {distributed.get_rank()}: '
                              f'{self.wrong.pop(kernel)}')
        if functions is not None:
            _install(kernel, {name: _guarded(kernel, name, functions[name]) for name in OPERATORS[kernel]}, devices[0])

    def result(self):
        left = self.left()
        problems = dict.fromkeys(OPERATORS)
        unbuilt = _either(self.unbuilt) if self.unbuilt else None
        for kernel in left:
            problems[kernel] = self.wrong.get(kernel) or unbuilt
            self.backends[kernel] = f'plain torch ({problems[kernel].gist()})'
        # A failed build is reported by the first process, since all share its tools; wrong results by any process: the
        # GPU may be its own.
        self.notes += [f'{kernel} runs without its CUDA kernel on rank {distributed.get_rank()}: {self.wrong[kernel]}'
                       for kernel in left if kernel in self.wrong]
        unserved = [kernel for kernel in left if kernel not in self.wrong]
        if unserved and distributed.is_first_of_machine():
            run, their, kernels = ('run', 'their', 'kernels') if len(unserved) > 1 else ('runs', 'its', 'kernel')
            listed = ' and '.join(part for part in (', '.join(unserved[:-1]), unserved[-1]) if part)
            self.notes.append(f'{listed} {run} without {their} CUDA {kernels} on {platform.node()}, which is slower '
                              f'but gives the same results: {unbuilt}')
        return problems, self.backends, self.notes


def _problem_in(err):
    if isinstance(err, native_build.BuildError):
        return err.problem
    if isinstance(err, UserError):
        return build_cache.Problem(err.fact, err.remedy or '')
    return build_cache.Problem(f'{err}' if isinstance(err, DriverError) else f'{type(err).__name__}: {err}')


def _either(problems):
    """Several problems as one: fixing any of them is enough."""
    first, *others = problems
    more = ''.join(f'\nOr without a compiler: {other}' for other in others)
    return first._replace(remedy=first.remedy + more) if first.remedy else first._replace(reason=first.reason + more)


def _different_gpus():
    """One GPU of each architecture, since each has code of its own: the current one, and the last of every other
    kind."""
    return [torch.device('cuda', i) for i in {torch.cuda.get_device_capability(i): i for i in _gpus()}.values()]


def _check(kernel, devices):
    """None if the loaded kernel gives what the reference gives, else its `Problem`; then torch goes back to the
    reference."""
    failures = [f'{line} (on {device})' for device in devices for line in _failures(kernel, device)]
    if not failures:
        return None
    _use_reference(kernel, devices[0])
    return build_cache.Problem(
        f'the kernel gives wrong results on this machine: {failures[0]}',
        'check that TORCH_CUDA_ARCH_LIST, if it is set, names this GPU, or hide the GPU with CUDA_VISIBLE_DEVICES; '
        'delete the folder native-ops in the cache (~/.cache/kdgan) to build again, and run python -m '
        'torch_utils.doctor')


def _failures(kernel, device):
    try:
        return _missing(kernel, device) or dnnlib.util.call_func_by_name(kernel, device, func_name=CHECK)
    except Exception as err:            # noqa: BLE001  e.g. a library without code for this GPU
        return [f'{type(err).__name__}: {err}']


def _missing(kernel, device):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return [f'the library has no kernel for {name}' for name in OPERATORS[kernel]
            if not has(f'kdgan::{name}', device.type.upper())]


def _install(kernel, functions, device):
    """Makes torch call these functions, {operator: function}, on such devices, instead of a kernel that it may know
    already."""
    new = [name for name in OPERATORS[kernel] if name not in _installed]
    _installed.update({name: functions[name] for name in OPERATORS[kernel]})
    registration = torch.library.Library('kdgan', 'IMPL')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')         # torch warns that a kernel is replaced
        for name in new:                        # once, since a Python function cannot be replaced by another
            registration.impl(name, lambda *args, name=name: _installed[name](*args), device.type.upper())
    _registrations.append(registration)


def _use_reference(kernel, device):
    _install(kernel, references, device)


def _guarded(kernel, name, function):
    """A launch that fails gives one warning; from then on the reference runs."""
    def run(*args):
        try:
            return function(*args)
        except DriverError as err:
            if _problems[kernel] is None:
                problem = build_cache.Problem(f'a launch failed: {err}',
                                              'start the program again, after python -m torch_utils.doctor')
                _problems[kernel], _backends[kernel] = problem, f'plain torch ({problem.gist()})'
                _use_reference(kernel, args[0].device)
                warnings.warn(f'{kernel} runs without its CUDA kernel from here on: {problem}', RuntimeWarning,
                              stacklevel=2)
            return references[name](*args)
    return run
