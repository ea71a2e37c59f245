"""The CUDA kernels that NVRTC compiles: one archive per architecture in the cache, and their launching through the
driver."""

import functools
import glob
import hashlib
import json
import os
import re
import sys
import time
import zipfile

import torch

from dnnlib import files

from ..ops import _launch_bias_act, _launch_scaled_bias_act, _launch_upfirdn2d
from ..ops._launch import CPP_TYPE, THREADS
from . import cache as build_cache
from . import nvrtc
from .cache import ANNOUNCEMENT, TIME_LIMIT_SEC, BuildError
from .cuda_driver import Driver, DriverError

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'ops')
KERNELS = {                             # operator -> (its source, its launches)
    'bias_act': ('bias_act_pass.h', _launch_bias_act), 'upfirdn2d': ('upfirdn2d_tile.h', _launch_upfirdn2d),
    'scaled_bias_act': ('scaled_bias_act_tile.h', _launch_scaled_bias_act),
}
LOG_LINES = 12


def program_of(kernel, dtype):
    return f'{kernel}-{str(dtype).removeprefix("torch.")}'


def kernel_of(body):
    """The C++ name of a body's kernel."""
    return f'kdgan::kernel<{body}>'


def programs():
    """{name: (source, [kernel, ...])}: one program per operator and dtype, so that they compile side by side."""
    return {program_of(kernel, dtype): (f'#include "{source}"\n', [kernel_of(body) for body in launches.bodies(dtype)])
            for kernel, (source, launches) in KERNELS.items() for dtype in CPP_TYPE}


def headers():
    """{name: text} of the sources."""
    texts = {}
    for path in sorted(glob.glob(os.path.join(FOLDER, '*.h'))):
        with open(path, encoding='utf-8') as f:
            texts[os.path.basename(path)] = f.read()
    return texts


def library():
    """Path of NVRTC of torch's generation of CUDA: code of another one may be too new for the driver. Raises
    BuildError."""
    if torch.version.cuda is None:
        raise BuildError(f'torch {torch.__version__} is not built for CUDA',
                         'install torch for CUDA: https://pytorch.org')
    major = torch.version.cuda.split('.')[0]
    path = nvrtc.find_library(major)
    if path is None:
        package = 'nvidia-cuda-nvrtc' + (f'-cu{major}' if int(major) < 13 else '')
        raise BuildError(f'NVRTC of CUDA {major} is missing', f"pip install '{package}=={torch.version.cuda}.*'")
    return path


def version():
    """'13.0', of the NVRTC in use. Raises BuildError."""
    return '{}.{}'.format(*_version_of(library()))


@functools.cache
def _version_of(path):
    try:
        return nvrtc.Nvrtc(path).version()
    except nvrtc.NvrtcError as err:
        raise BuildError(str(err), 'reinstall torch, or delete that file if another one is meant') from None


def build(capability, time_limit_sec=TIME_LIMIT_SEC):
    """Path of the archive for GPUs of a capability, compiled unless the cache has it. Raises BuildError, or UserError
    of the cache."""
    path, texts = library(), headers()
    key = hashlib.sha256(repr([_version_of(path), capability, nvrtc.HEADERS, nvrtc.OPTIONS, texts,
                               programs()]).encode()).hexdigest()[:16]
    job = dict(library=path, capability=capability, headers=texts, programs=programs())
    name = 'kdgan_nvrtc-{}{}-{}.zip'.format(*capability, key)
    return build_cache.cached(name, lambda to: _build_to(to, job, time_limit_sec), time_limit_sec, ANNOUNCEMENT)


def _build_to(path, job, time_limit_sec):
    with build_cache.private_folder(path) as folder:
        built, job_path = os.path.join(folder, 'kernels.zip'), os.path.join(folder, 'job.json')
        files.write_text(job_path, json.dumps(dict(job, path=built)))
        command = [sys.executable, '-m', 'torch_utils.native.nvrtc', job_path]
        log = build_cache.run(command, build_cache.environment(), folder, time_limit_sec)
        if not os.path.isfile(built):
            lines = [line for line in log.splitlines() if line.strip()]
            first = next((i for i, line in enumerate(lines) if re.search(r'\berror\b', line)), 0)
            raise BuildError('compiling with NVRTC failed', 'install the newest driver and torch for this GPU; '
                             'python -m torch_utils.doctor tells the versions',
                             '\n'.join(lines[first:first + LOG_LINES]))
        with files.atomic_path(path) as temp:
            os.replace(built, temp)


class Archive:
    """Compiled programs in memory: `images` {program: bytes}, `names` {program: {kernel: name}}. Raises BuildError of a
    damaged file."""

    def __init__(self, path):
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = json.loads(archive.read(nvrtc.INDEX))
                self.images = {name: archive.read(name) for name in self.names}
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as err:
            raise BuildError(f'{path} is damaged: {err}', 'delete it') from None


class Launcher:
    """What the launches in ops/_launch_*.py need of a GPU.

    Args:
        archives: {capability: Archive}.
        driver:   a `Driver`.
    Raises, in all methods: DriverError.
    """

    def __init__(self, archives, driver):
        self.archives, self.driver = archives, driver
        self.functions, self.resident, self.modules = {}, {}, {}

    @staticmethod
    @functools.cache
    def multiprocessors(device):
        return torch.cuda.get_device_properties(device).multi_processor_count

    def resident_blocks(self, device, body):
        """How many blocks of a body without shared memory the device runs at once."""
        if (device, body) not in self.resident:
            with torch.cuda.device(device):
                self.driver.use(device.index)
                each = self.driver.blocks_per_multiprocessor(self._function(device, body), THREADS)
            self.resident[device, body] = max(each, 1) * self.multiprocessors(device)
        return self.resident[device, body]

    def launch(self, device, launch):
        """Puts a launch into the current stream of the device."""
        with torch.cuda.device(device):
            self.driver.use(device.index)
            self.driver.launch(self._function(device, launch.body), launch.params.blocks, THREADS, launch.shared_bytes,
                               torch.cuda.current_stream(device).cuda_stream, launch.params)

    def _function(self, device, body):
        if (device, body) not in self.functions:
            capability = torch.cuda.get_device_capability(device)
            archive = self.archives.get(capability)
            if archive is None:
                raise DriverError('there is no code for {}, of architecture {}.{}'.format(device, *capability))
            program = next(name for name, names in archive.names.items() if kernel_of(body) in names)
            if (device, program) not in self.modules:
                self.modules[device, program] = self.driver.load(archive.images[program])
            self.functions[device, body] = self.driver.function(self.modules[device, program],
                                                                archive.names[program][kernel_of(body)])
        return self.functions[device, body]


def operators(capabilities, time_limit_sec=TIME_LIMIT_SEC):
    """{operator: function that launches its kernels on GPUs of these capabilities}, compiled if need be.

    Raises BuildError, DriverError, or UserError or OSError of the cache.
    """
    driver = Driver()
    launcher = Launcher({capability: _archive(capability, time_limit_sec) for capability in capabilities}, driver)
    return {name: function for _, launches in KERNELS.values()
            for name, function in launches.operators(launcher).items()}


def _archive(capability, time_limit_sec):
    started, path = time.time(), build(capability, time_limit_sec)
    try:
        return Archive(path)
    except BuildError:
        build_cache.discard(path, before=started)
    return Archive(build(capability, time_limit_sec))
