"""The CUDA kernels of torch_utils/ops: built and loaded when the first CUDA tensor comes, compared once with the reference, then used.

Whatever goes wrong, the operators go on in plain torch: one warning says why and what to do. On a machine without a GPU nothing
here runs, and no compiler is needed.
"""

import glob
import os
import platform
import re
import threading
import time
import warnings

import torch

from dnnlib import UserError

from . import distributed, native_build

OPERATORS = {                           # kernel -> the operators it computes
    'bias_act': ['bias_act', 'bias_act_slope', 'bias_act_curve'],
    'upfirdn2d': ['upfirdn2d'],
    'scaled_bias_act': ['scaled_bias_act', 'scaled_bias_act_grad', 'scaled_bias_act_grad2'],
}
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'ops')
_problems = {}                          # kernel -> None if it is in use, else why it is not; empty until the first look
_looking = threading.Lock()
_replacements = []                      # registrations, which last as long as these objects


def problem_of(kernel, time_limit_sec=native_build.TIME_LIMIT_SEC):
    """Why a kernel is not in use on CUDA devices, or None if it is. The first call builds, loads and checks."""
    if kernel not in _problems:
        with _looking:
            if not _problems:
                problems, notes = _load(time_limit_sec)
                _problems.update(problems)          # before the warnings, which may be errors: no call should build again
                for note in notes:
                    warnings.warn(note, RuntimeWarning, stacklevel=2)
    return _problems[kernel]


def require(kernel, device):
    """For impl='cuda': raises RuntimeError unless the kernel runs on `device`."""
    if device.type != 'cuda':
        raise RuntimeError(f"{kernel}: impl is 'cuda', x is on {device}; use impl='auto', or move x to a GPU")
    problem = problem_of(kernel)
    if problem is not None:
        raise RuntimeError(f"{kernel}: impl is 'cuda', but there is no kernel: {problem}")


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
    """Of its own generation, made for this GPU or one before it ('sm_86'), or older code that the driver translates ('compute_80')."""
    codes = re.findall(r'(sm|compute)_(\d+)(\d)', ' '.join(torch.cuda.get_arch_list()))
    return any((int(major), int(minor)) <= capability and (kind == 'compute' or int(major) == capability[0])
               for kind, major, minor in codes)


def recipe(arch):
    """What to compile for these architectures."""
    in_folder = lambda pattern: sorted(glob.glob(os.path.join(FOLDER, pattern)))
    return native_build.Recipe('kdgan_ops', [*in_folder('*.cpp'), *in_folder('*.cu')], in_folder('*.h'), arch)


def load_library(time_limit_sec=native_build.TIME_LIMIT_SEC):
    """Path of the library, built if need be and now known to torch. Raises BuildError, or UserError or OSError of the cache."""
    if torch.version.cuda is None:
        raise native_build.BuildError(f'torch {torch.__version__} is not built for CUDA', 'install torch for CUDA: https://pytorch.org')
    wanted, started = recipe(architectures()), time.time()
    for _ in range(2):
        path = native_build.build(wanted, time_limit_sec)
        try:
            torch.ops.load_library(path)
            return path
        except OSError as err:                      # a file that is damaged, or was made where other libraries are installed
            problem = err.__cause__ or err          # newer torch tells the reason there only
            native_build.discard(path, before=started)
    raise native_build.BuildError(f'the library, built anew, does not load: {problem}', 'install what it lacks, with its folder in LD_LIBRARY_PATH '
                                  'if need be; where it lacks a version of GLIBCXX or GLIBC, name an older compiler with CXX')


def _load(time_limit_sec):
    """-> ({kernel: None or problem} of all kernels, what to warn of)."""
    try:
        load_library(time_limit_sec)
    except Exception as err:            # noqa: BLE001  a run must not end here, whatever the machine's tools do
        problem = f'{err}' if isinstance(err, (native_build.BuildError, UserError)) else f'{type(err).__name__}: {err}'
        note = (f'bias_act and upfirdn2d run without their CUDA kernels on {platform.node()}, which is slower but gives the same results: '
                f'{problem}')
        return dict.fromkeys(OPERATORS, problem), [note] if distributed.is_first_of_machine() else []       # the others share its tools
    problems = {kernel: _check(kernel, _different_gpus()) for kernel in OPERATORS}
    # From any rank: the GPU may be one that the first rank does not use.
    return problems, [f'{kernel} runs without its CUDA kernel on rank {distributed.get_rank()}: {problem}'
                      for kernel, problem in problems.items() if problem is not None]


def _different_gpus():
    """One GPU of each architecture, since each has code of its own: the current one, and the last of every other kind."""
    return [torch.device('cuda', i) for i in {torch.cuda.get_device_capability(i): i for i in _gpus()}.values()]


def _check(kernel, devices):
    """None if the loaded kernel gives what the reference gives, else what it does instead; then torch goes back to the reference."""
    failures = [f'{line} (on {device})' for device in devices for line in _failures(kernel, device)]
    if not failures:
        return None
    _use_reference(kernel, devices[0])
    return (f'the kernel gives wrong results on this machine: {failures[0]}. To mend it: check that TORCH_CUDA_ARCH_LIST, if it is set, names '
            'this GPU, or hide the GPU with CUDA_VISIBLE_DEVICES; delete the folder native-ops in the cache (~/.cache/kdgan) to build anew, and '
            'run python -m torch_utils.doctor')


def _failures(kernel, device):
    from .ops import _cases  # here, since the operators import this file
    try:
        return _missing(kernel, device) or [text for case in _cases.quick(kernel) for text in _cases.failures(case, torch.float32, device)]
    except Exception as err:            # noqa: BLE001  e.g. a library without code for this GPU
        return [f'{type(err).__name__}: {err}']


def _missing(kernel, device):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return [f'the library has no kernel for {name}' for name in OPERATORS[kernel] if not has(f'kdgan::{name}', device.type.upper())]


def _use_reference(kernel, device):
    """Puts the reference in the place of a kernel that torch knows already."""
    from .ops import _library
    replacement = torch.library.Library('kdgan', 'IMPL')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')         # torch remarks that a kernel is replaced
        for name in OPERATORS[kernel]:
            replacement.impl(name, _library.references[name], device.type.upper())
    _replacements.append(replacement)
