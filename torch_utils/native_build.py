"""Compiles C++ and CUDA sources into a library that torch loads: once per machine, whatever goes wrong never a hang or half a file.

A build runs in a process group of its own, in a private folder, and its result is moved into place whole. Processes that start at
once wait for the first: its lock is the operating system's and ends with the process that holds it, so none can go stale.
"""

import contextlib
import glob
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import torch

from dnnlib import files

try:
    import fcntl
except ImportError:                     # Windows, where `build` refuses
    fcntl = None

TIME_LIMIT_SEC = 180
LOG_LINES = 12
DEFAULT_CUDA_HOME = '/usr/local/cuda'    # where torch looks last, too
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class BuildError(RuntimeError):
    """Why there is no library. `problem` is one line, `remedy` what to do, `log` the last lines that the compilers wrote."""

    def __init__(self, problem, remedy, log=''):
        self.problem, self.remedy, self.log = problem, remedy, log
        super().__init__(f'{problem}\n{log}\nTo mend it: {remedy}' if log else f'{problem}. To mend it: {remedy}')


class Recipe(NamedTuple):
    """What to compile."""
    name: str                           # of the library
    sources: list[str]                  # paths; .cu for nvcc
    headers: list[str]                  # paths: only for the digest
    arch: str = ''                      # as TORCH_CUDA_ARCH_LIST takes it; '' = no CUDA
    cflags: list[str] = ['-O2']
    cuda_cflags: list[str] = ['-O3']

    def key(self):
        """Digest of all that the result depends on, the machine too: several kinds may share a home folder."""
        machine = [sys.platform, platform.machine(), platform.libc_ver()]
        torch_build = [torch.__version__, torch.version.cuda if self.arch else '', torch.compiled_with_cxx11_abi()]
        digest = hashlib.sha256(repr([machine, torch_build, *self]).encode())
        for path in [*self.sources, *self.headers]:
            with open(path, 'rb') as f:
                digest.update(f.read())
        return digest.hexdigest()[:16]


def build(recipe, time_limit_sec=TIME_LIMIT_SEC):
    """Path of the library, compiled unless the cache has it. Raises BuildError, and UserError where the cache cannot be written."""
    if fcntl is None:
        raise BuildError('the CUDA kernels are built on Linux only', 'use WSL, the Linux within Windows')
    stem = os.path.join(files.cache_dir('native-ops'), f'{recipe.name}-{recipe.key()}')
    path = stem + '.so'
    if os.path.isfile(path):
        return path
    started = time.time()
    with _locked(stem + '.lock', time_limit_sec + 20):
        if os.path.isfile(path):
            return path
        _raise_if_failed_since(started, stem + '.failed')
        try:
            _build_to(path, recipe, time_limit_sec)
        except BuildError as err:
            files.write_text(stem + '.failed', json.dumps([err.problem, err.remedy, err.log]))
            raise
    return path


def discard(path, before):
    """Removes a library that does not load, if it was made before this time: a younger one is what a new attempt would give."""
    with contextlib.suppress(OSError):          # another process was faster; or the next attempt to load it says what is wrong
        if os.path.getmtime(path) < before:
            os.remove(path)


def _build_to(path, recipe, time_limit_sec):
    env = build_environment(recipe)
    folder = os.path.abspath(tempfile.mkdtemp(prefix='build-', dir=os.path.dirname(path)))
    try:
        log = _run([sys.executable, '-m', 'torch_utils.native_build', json.dumps(recipe), folder], env, folder, time_limit_sec)
        built = os.path.join(folder, recipe.name + '.so')
        if not os.path.isfile(built):
            raise BuildError(f'compiling {recipe.name} failed', _remedy_of(log), _last_lines(log))
        with files.atomic_path(path) as temp:
            os.replace(built, temp)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path, patience_sec):
    """One process at a time. Where the file system cannot lock, all of them at once, which is slower but as safe."""
    deadline = time.monotonic() + patience_sec
    with open(path, 'w') as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f'another process has held {path} for {patience_sec:g} seconds', 'end that process') from None
                time.sleep(0.1)
            except OSError:
                break
        yield


def _raise_if_failed_since(started, path):
    """A failure that happened while this process waited is its failure too: it does not try again."""
    if os.path.isfile(path) and os.path.getmtime(path) >= started:
        with open(path, encoding='utf-8') as f:
            raise BuildError(*json.load(f))


def _run(command, env, folder, time_limit_sec):
    """Runs a command in a folder, where no module of the user is in its way, for at most the time limit. Returns what it printed."""
    log_path = os.path.join(folder, 'log.txt')
    with open(log_path, 'w') as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    try:
        process.wait(time_limit_sec)
    except subprocess.TimeoutExpired:
        raise BuildError(f'compiling took longer than {time_limit_sec:g} seconds',
                         'run python -m torch_utils.doctor --build, which waits longer, while the machine is less busy') from None
    finally:                            # at the time limit, and on Ctrl-C too
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with open(log_path, encoding='utf-8', errors='replace') as f:
        return f.read()


def _last_lines(log):
    lines = [line for line in log.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if re.search(r'\berror\b', line)), None)     # what follows it is mostly noise
    return '\n'.join(lines[-LOG_LINES:] if first is None else lines[max(first - 2, 0):first - 2 + LOG_LINES])


def _remedy_of(log):
    if re.search(r'Unknown CUDA arch|[Uu]nsupported gpu architecture', log):
        return ("set TORCH_CUDA_ARCH_LIST to the newest architecture that this CUDA toolkit and torch know, with '+PTX', "
                "e.g. '9.0+PTX', or hide a GPU that is too old for them with CUDA_VISIBLE_DEVICES")
    if re.search(r'unsupported GNU version', log):
        return 'install a C++ compiler that this CUDA toolkit supports and name it with CXX (and with CC, where that is set: nvcc goes by it)'
    return 'python -m torch_utils.doctor checks the tools; matching versions of torch, CUDA toolkit and compiler usually help'


# ---------------------------------------------------------------------------
# Tools.

def find_nvcc():
    """Path of nvcc, looked for where torch does, or None."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    found = os.path.join(home, 'bin', 'nvcc') if home else shutil.which('nvcc') or os.path.join(DEFAULT_CUDA_HOME, 'bin', 'nvcc')
    return found if os.access(found, os.X_OK) else None


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


def build_environment(recipe):
    """The environment in which torch finds all tools. Raises BuildError if one is missing or does not fit."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [ROOT, os.environ.get('PYTHONPATH')]))}
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
            env['CC'] = find_compiler()           # torch gives nvcc the compiler that CC names, and CXX to the other files only
        env.update(_header_folder(env['CUDA_HOME']))
    return env


def _header_folder(home):
    """{'CUDA_INC_PATH': folder}, one more for torch to look in, if the headers are where conda puts them, else {}."""
    header = 'cuda_runtime_api.h'
    elsewhere = sorted(glob.glob(os.path.join(glob.escape(home), 'targets', '*', 'include', header)))
    if not elsewhere or os.environ.get('CUDA_INC_PATH') or os.path.isfile(os.path.join(home, 'include', header)):
        return {}
    return dict(CUDA_INC_PATH=os.path.dirname(elsewhere[0]))


def _cuda_home():
    nvcc, wanted = find_nvcc(), torch.version.cuda or '13.0'
    if nvcc is None:
        home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
        raise BuildError(f'nvcc is missing{f" from {home}, which CUDA_HOME names" if home else ""}',
                         f'install the CUDA toolkit {wanted} (conda install -c nvidia cuda-toolkit={wanted}) and set CUDA_HOME to its folder')
    version = nvcc_version(nvcc)
    if torch.version.cuda and version and version.split('.')[0] != wanted.split('.')[0]:
        raise BuildError(f'{nvcc} is of CUDA {version}, torch of CUDA {wanted}: they must agree up to the point',
                         f'install the CUDA toolkit {wanted} and set CUDA_HOME to its folder')
    return os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH') or toolkit_of(nvcc)


def toolkit_of(nvcc):
    """The folder of the toolkit. nvcc itself tells: what is on PATH may be a script that calls it."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        dry_run = subprocess.run([nvcc, '--dryrun', '-x', 'cu', '-c', os.devnull], capture_output=True, text=True, timeout=20)
        match = re.search(r'^#\$ TOP=(.+)$', dry_run.stderr, re.MULTILINE)
        if match:
            return os.path.realpath(match.group(1).strip())
    return os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))


def _compile(recipe, folder):
    """The build itself, in the process that `build` starts."""
    from torch.utils import cpp_extension
    cpp_extension.load(recipe.name, recipe.sources, extra_cflags=recipe.cflags, extra_cuda_cflags=recipe.cuda_cflags, build_directory=folder,
                       with_cuda=bool(recipe.arch), is_python_module=False, verbose=True)


if __name__ == '__main__':
    _compile(Recipe(*json.loads(sys.argv[1])), sys.argv[2])
