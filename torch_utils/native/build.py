"""Compiles C++ and CUDA sources into a library that torch loads, with nvcc, a host compiler and ninja; cache.py keeps
the result."""

import contextlib
import glob
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import torch

from dnnlib import files

from . import cache as build_cache
from . import nvrtc
from .cache import ANNOUNCEMENT, TIME_LIMIT_SEC, BuildError

LOG_LINES = 12
DEFAULT_CUDA_HOME = '/usr/local/cuda'    # where torch looks last, too


class Recipe(NamedTuple):
    """What to compile."""
    name: str                           # of the library
    sources: list[str]                  # paths; .cu for nvcc
    headers: list[str]                  # paths: only for the digest
    arch: str = ''                      # as TORCH_CUDA_ARCH_LIST takes it; '' = no CUDA
    cflags: list[str] = ['-O2']
    cuda_cflags: list[str] = ['-O3']
    ldflags: list[str] = []

    def key(self):
        """Digest of everything that the result depends on, including the machine: different machines may share a home
        folder."""
        machine = [sys.platform, platform.machine(), platform.libc_ver()]
        torch_build = [torch.__version__, torch.version.cuda if self.arch else '', torch.compiled_with_cxx11_abi()]
        digest = hashlib.sha256(repr([machine, torch_build, *self]).encode())
        for path in [*self.sources, *self.headers]:
            with open(path, 'rb') as f:
                digest.update(f.read())
        return digest.hexdigest()[:16]


def build(recipe, time_limit_sec=TIME_LIMIT_SEC):
    """Path of the library, compiled unless the cache has it. Raises BuildError, and UserError where the cache cannot be
    written."""
    if build_cache.fcntl is None:
        raise BuildError('nvcc builds the CUDA kernels on Linux only', 'use WSL, the Linux within Windows')
    return build_cache.cached(f'{recipe.name}-{recipe.key()}.so', lambda path: _build_to(path, recipe, time_limit_sec),
                              time_limit_sec, ANNOUNCEMENT if recipe.arch else None)


def _build_to(path, recipe, time_limit_sec):
    with build_cache.private_folder(path) as folder, _without_space(folder) as links:
        env = build_environment(recipe, links)
        command = [sys.executable, '-m', 'torch_utils.native.build', json.dumps(recipe), folder, links]
        log = build_cache.run(command, env, folder, time_limit_sec)
        built = os.path.join(folder, recipe.name + '.so')
        if not os.path.isfile(built):
            raise BuildError(f'compiling {recipe.name} failed', _remedy_of(log), _last_lines(log))
        with files.atomic_path(path) as temp:
            os.replace(built, temp)


@contextlib.contextmanager
def _without_space(folder):
    """A folder for links whose path has no space: torch does not quote the folders of libraries in its commands."""
    if ' ' not in folder:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix='kdgan-') as links:
            yield links


def _link_without_space(path, links, name):
    """`path` itself, or a link to it where it has a space."""
    if ' ' not in path:
        return path
    link = os.path.join(links, name)
    os.symlink(path, link)
    return link


def _last_lines(log):
    lines = [line for line in log.splitlines() if line.strip()]
    # What follows it is mostly noise
    first = next((i for i, line in enumerate(lines) if re.search(r'\berror\b', line)), None)
    return '\n'.join(lines[-LOG_LINES:] if first is None else lines[max(first - 2, 0):first - 2 + LOG_LINES])


def _remedy_of(log):
    if re.search(r'Unknown CUDA arch|[Uu]nsupported gpu architecture', log):
        return ("set TORCH_CUDA_ARCH_LIST to the newest architecture that this CUDA toolkit and torch know, "
                "with '+PTX', e.g. '9.0+PTX', or hide a GPU that is too old for them with CUDA_VISIBLE_DEVICES")
    if re.search(r'unsupported GNU version', log):
        return ('install a C++ compiler that this CUDA toolkit supports and name it with CXX (and with CC, where that '
                'is set: nvcc uses it)')
    return ('python -m torch_utils.doctor checks the tools; matching versions of torch, CUDA toolkit and compiler '
            'usually help')


# ---------------------------------------------------------------------------
# Tools.

def find_nvcc():
    """Path of nvcc, or None: that of CUDA_HOME, else from PATH, from the pip packages for torch's generation of CUDA,
    where torch looks last."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    if home:
        candidates = [os.path.join(home, 'bin', 'nvcc')]
    else:
        candidates = [shutil.which('nvcc'), *(os.path.join(folder, 'bin', 'nvcc')
                                              for folder in [*_pip_toolkits(), DEFAULT_CUDA_HOME])]
    return next((path for path in candidates if path is not None and os.access(path, os.X_OK)), None)


def _pip_toolkits():
    """['.../site-packages/nvidia/cu13']: the folders of the package nvidia-cuda-nvcc and its companions (extra
    cuda13)."""
    generation = (torch.version.cuda or '13').split('.')[0]
    return [os.path.join(folder, f'cu{generation}') for folder in nvrtc.package_folders('nvidia')]


def find_ninja():
    """Path of ninja, or None. The Python package brings one that is not on PATH unless its environment is activated."""
    found = shutil.which('ninja')
    if found is None:
        with contextlib.suppress(ImportError):
            found = shutil.which('ninja', path=importlib.import_module('ninja').BIN_DIR)
    return found


def find_compiler():
    """Path of the C++ compiler, or None."""
    return shutil.which(os.environ.get('CXX') or 'c++')


def version_of(tool, pattern=r'(\d+\.\d+(?:\.\d+)?)'):
    """The version that `tool --version` prints, or None."""
    try:
        result = subprocess.run([tool, '--version'], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(pattern, result.stdout)
    return match and match.group(1)


def nvcc_version(nvcc):
    return version_of(nvcc, r'release (\d+\.\d+)')


def build_environment(recipe, links):
    """The environment in which torch finds all tools; links: a folder for links. Raises BuildError if one is missing or
    does not fit."""
    env = build_cache.environment()
    ninja = find_ninja()
    if ninja is None:
        raise BuildError('ninja is missing', 'pip install ninja')
    env['PATH'] = os.pathsep.join([os.environ.get('PATH', ''), os.path.dirname(ninja)])
    if find_compiler() is None:
        raise BuildError(f'the C++ compiler {os.environ.get("CXX") or "c++"} is missing',
                         'install one (apt install g++; conda install cxx-compiler), or name yours with CXX')
    if recipe.arch:
        env.update(CUDA_HOME=_cuda_home(), TORCH_CUDA_ARCH_LIST=recipe.arch, CUDA_VISIBLE_DEVICES='')
        if os.environ.get('CXX') and not os.environ.get('CC'):
            # Torch gives nvcc the compiler that CC names, and CXX to the other files only
            env['CC'] = find_compiler()
        env.update(_header_folder(env['CUDA_HOME']))
        env.update(_linked_runtime(env['CUDA_HOME'], links))
        env['CUDA_HOME'] = _link_without_space(env['CUDA_HOME'], links, 'cuda')
    return env


def _header_folder(home):
    """{'CUDA_INC_PATH': folder}, one more for torch to look in, if the headers are where conda puts them, else {}."""
    header = 'cuda_runtime_api.h'
    elsewhere = sorted(glob.glob(os.path.join(glob.escape(home), 'targets', '*', 'include', header)))
    if not elsewhere or os.environ.get('CUDA_INC_PATH') or os.path.isfile(os.path.join(home, 'include', header)):
        return {}
    return dict(CUDA_INC_PATH=os.path.dirname(elsewhere[0]))


def _linked_runtime(home, links):
    """{'LIBRARY_PATH': folders}, where libcudart.so is found: the pip package has only libcudart.so.13, which no linker
    looks for."""
    versioned = sorted(glob.glob(os.path.join(glob.escape(home), 'lib', 'libcudart.so.*')))
    if not versioned or glob.glob(os.path.join(glob.escape(home), 'lib*', 'libcudart.so')):
        return {}
    os.symlink(versioned[0], os.path.join(links, 'libcudart.so'))
    return dict(LIBRARY_PATH=os.pathsep.join(filter(None, [links, os.environ.get('LIBRARY_PATH')])))


def _cuda_home():
    nvcc, wanted = find_nvcc(), torch.version.cuda or '13.0'
    if nvcc is None:
        home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
        raise BuildError(f'nvcc is missing{f" from {home}, which CUDA_HOME names" if home else ""}',
                         f'install the CUDA toolkit {wanted} (conda install -c nvidia cuda-toolkit={wanted}) and set '
                         'CUDA_HOME to its folder'
                         + ("; or pip install 'kd-dlgan[cuda13]'" if wanted.startswith('13.') and not home else ''))
    version = nvcc_version(nvcc)
    if torch.version.cuda and version and version.split('.')[0] != wanted.split('.')[0]:
        raise BuildError(f'{nvcc} is of CUDA {version}, torch of CUDA {wanted}: they must agree up to the point',
                         f'install the CUDA toolkit {wanted} and set CUDA_HOME to its folder')
    return os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH') or toolkit_of(nvcc)


def toolkit_of(nvcc):
    """The folder of the toolkit, from nvcc itself: the nvcc on PATH may be a script that calls it."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        dry_run = subprocess.run([nvcc, '--dryrun', '-x', 'cu', '-c', os.devnull], capture_output=True,
                                 text=True, timeout=20)
        match = re.search(r'^#\$ TOP=(.+)$', dry_run.stderr, re.MULTILINE)
        if match:
            return os.path.realpath(match.group(1).strip())
    return os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))


def _compile(recipe, folder, links):
    """The build itself, in the process that `build` starts."""
    from torch.utils import cpp_extension
    cpp_extension.TORCH_LIB_PATH = _link_without_space(cpp_extension.TORCH_LIB_PATH, links, 'torch-lib')
    cpp_extension.load(recipe.name, recipe.sources, extra_cflags=recipe.cflags, extra_cuda_cflags=recipe.cuda_cflags,
                       extra_ldflags=recipe.ldflags, build_directory=folder, with_cuda=bool(recipe.arch),
                       is_python_module=False, verbose=True)


if __name__ == '__main__':
    _compile(Recipe(*json.loads(sys.argv[1])), *sys.argv[2:])
