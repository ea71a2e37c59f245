"""Compiles CUDA kernels with NVRTC, the compiler as a library that comes with torch for CUDA: no nvcc, no host
compiler, no ninja.

It runs in a process of its own (`main`), which needs no torch, so that neither a crash nor an endless compilation
affects the caller.
"""

import concurrent.futures
import contextlib
import ctypes
import glob
import importlib.util
import json
import os
import re
import sys
import zipfile
from ctypes import c_char_p, c_int, c_size_t, c_void_p

INDEX = 'kernels.json'                  # in an archive, beside the programs: {program: {kernel: its name in that file}}
# What the sources include of C++; NVRTC has the functions, but not the headers.
HEADERS = {
    'cstdint': '#pragma once\n'
               'typedef unsigned short uint16_t; typedef unsigned int uint32_t; typedef unsigned long long uint64_t;\n'
               'typedef long long int64_t; typedef unsigned long long uintptr_t;\n',
    'cmath': '#pragma once\nnamespace std { using ::exp; using ::expm1; using ::log1p; using ::tanh; }\n',
}
OPTIONS = ['--std=c++17', '-default-device']


class NvrtcError(RuntimeError):
    """NVRTC cannot be used or did not compile."""


def find_library(major):
    """Path of NVRTC of a generation of CUDA (e.g. 13): from the pip packages, from torch's own folder, or from a
    toolkit; or None."""
    name = f'nvrtc64_{major}*_0.dll' if sys.platform == 'win32' else f'libnvrtc*.so.{major}*'
    for folder in _folders(major):
        found = sorted(path for path in glob.glob(os.path.join(glob.escape(folder), name))
                       if not re.search(r'builtins|\.alt\.', os.path.basename(path)))
        if found:
            return found[0]
    return None


def _folders(major):
    """Where NVRTC may lie, the most likely first."""
    parts = 'bin' if sys.platform == 'win32' else 'lib'
    for package in package_folders('nvidia'):
        yield os.path.join(package, f'cu{major}', parts)
        yield os.path.join(package, f'cu{major}', parts, 'x86_64')
        yield os.path.join(package, 'cuda_nvrtc', parts)
    for package in package_folders('torch'):
        yield os.path.join(package, 'lib')
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH') or '/usr/local/cuda'
    yield from (os.path.join(home, name) for name in ('lib64', 'lib', 'bin', os.path.join('bin', 'x64')))
    yield from filter(None, os.environ.get('LD_LIBRARY_PATH', '').split(os.pathsep))


def package_folders(name):
    """Where a package lies, without importing it; [] where it is missing."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        return list(spec.submodule_search_locations or []) if spec is not None else []
    return []


class Nvrtc:
    """The library at a path. Raises NvrtcError where it cannot be loaded."""

    def __init__(self, path):
        try:
            if sys.platform == 'win32':
                os.add_dll_directory(os.path.dirname(path))         # its own parts lie there
            self.library = ctypes.CDLL(path)
        except OSError as err:
            raise NvrtcError(f'{path} does not load: {err}') from None
        self.library.nvrtcGetErrorString.restype = c_char_p

    def version(self):
        """(major, minor)."""
        major, minor = c_int(), c_int()
        self._call('nvrtcVersion', ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def architectures(self):
        """[75, 80, ...]: what it compiles for."""
        count = c_int()
        self._call('nvrtcGetNumSupportedArchs', ctypes.byref(count))
        numbers = (c_int * count.value)()
        self._call('nvrtcGetSupportedArchs', numbers)
        return sorted(numbers)

    def compile(self, source, headers, kernels, target):
        """-> (cubin or PTX, {kernel: its name in there}). headers: {name: text}; target: as `target_of` gives it."""
        program = c_void_p()
        headers = {**HEADERS, **headers}
        self._call('nvrtcCreateProgram', ctypes.byref(program), source.encode(), b'kdgan_ops.cu', len(headers),
                   _strings(headers.values()), _strings(headers))
        try:
            for kernel in kernels:
                self._call('nvrtcAddNameExpression', program, kernel.encode())
            options = [f'--gpu-architecture={target}', *OPTIONS]
            if self.library.nvrtcCompileProgram(program, len(options), _strings(options)) != 0:
                raise NvrtcError(self._bytes('nvrtcGetProgramLog', program).decode(errors='replace').rstrip('\0'))
            image = self._bytes('nvrtcGetCUBIN' if target.startswith('sm_') else 'nvrtcGetPTX', program)
            return image, {kernel: self._lowered(program, kernel) for kernel in kernels}
        finally:
            self._call('nvrtcDestroyProgram', ctypes.byref(program))

    def _bytes(self, function, program):
        size = c_size_t()
        self._call(function + 'Size', program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(function, program, buffer)
        return buffer.raw

    def _lowered(self, program, kernel):
        name = c_char_p()
        self._call('nvrtcGetLoweredName', program, kernel.encode(), ctypes.byref(name))
        return name.value.decode()

    def _call(self, name, *args):
        code = getattr(self.library, name)(*args)
        if code != 0:
            raise NvrtcError(f'{name}: {self.library.nvrtcGetErrorString(code).decode()}')


def _strings(texts):
    texts = list(texts)
    return (c_char_p * len(texts))(*(text.encode() for text in texts))


def target_of(capability, architectures):
    """'sm_86' for a GPU of capability (8, 6): its own architecture, or the last before it of the same generation, whose
    code it can run; 'compute_120' for a GPU newer than the compiler, whose driver translates it. Raises NvrtcError for
    one that is too old."""
    number = capability[0] * 10 + capability[1]
    older = [arch for arch in architectures if arch <= number]
    if not older:
        raise NvrtcError(f'NVRTC has no code for GPUs of architecture {capability[0]}.{capability[1]}, '
                         f'the oldest it knows is {architectures[0] // 10}.{architectures[0] % 10}')
    return f'sm_{older[-1]}' if older[-1] // 10 == capability[0] else f'compute_{older[-1]}'


def compile_archive(path, library, capability, headers, programs):
    """Writes an archive of compiled programs, several at a time. programs: {name: (source, [kernel, ...])}."""
    nvrtc = Nvrtc(library)
    target = target_of(capability, nvrtc.architectures())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {name: pool.submit(nvrtc.compile, source, headers, kernels, target)
                for name, (source, kernels) in programs.items()}
        results = {name: job.result() for name, job in jobs.items()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, (image, _) in results.items():
            archive.writestr(name, image)
        archive.writestr(INDEX, json.dumps({name: names for name, (_, names) in results.items()}))


def main(job_path):
    """The process: `job_path` is JSON of the arguments of `compile_archive`. Ends with 1 after saying what is wrong."""
    with open(job_path, encoding='utf-8') as f:
        job = json.load(f)
    try:
        compile_archive(**job)
    except NvrtcError as err:
        sys.exit(f'error: {err}')


if __name__ == '__main__':
    main(sys.argv[1])
