"""Kernels compiled by NVRTC: the driver, the compiler, and where both fail."""

import ctypes

import pytest
import torch

from torch_utils import custom_ops
from torch_utils.native import cache as build_cache
from torch_utils.native import nvrtc, nvrtc_kernels
from torch_utils.native.cuda_driver import PROTOTYPES, Driver, DriverError
from torch_utils.ops import _launch, _launch_bias_act, _launch_upfirdn2d

GENERATIONS = [major for major in ('12', '13') if nvrtc.find_library(major) is not None]
needs_nvrtc = pytest.mark.skipif(not GENERATIONS, reason='needs the package nvidia-cuda-nvrtc')


class FakeCuda:
    """The functions of the driver as C calls them; `calls` has (name, arguments), launches with a copy of their
    parameters."""

    def __init__(self, fail=()):
        self.calls, self.fail = [], dict(fail)
        for name, arguments in PROTOTYPES.items():
            prototype = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
            setattr(self, name, prototype(lambda *args, name=name: self.answer(name, args)))

    def answer(self, name, args):
        if name == 'cuGetErrorString':
            args[1][0] = b'it went wrong'
            return 0
        if name in self.fail:
            return self.fail[name]
        if name in ('cuDevicePrimaryCtxRetain', 'cuModuleLoadData', 'cuModuleGetFunction'):
            args[0][0] = 0x7f0000000000 + len(self.calls)           # more than 32 bits, as on a real machine
        if name == 'cuOccupancyMaxActiveBlocksPerMultiprocessor':
            args[0][0] = 5
        copied = (ctypes.string_at(args[9][0], ctypes.sizeof(_launch_upfirdn2d.Params)) if name == 'cuLaunchKernel'
                  else None)
        self.calls.append((name, args, copied))
        return 0

    def named(self, name):
        return [call for call in self.calls if call[0] == name]


@pytest.fixture
def one_gpu(monkeypatch):
    """A GPU with 30 multiprocessors of architecture 9.0, whose current stream is 0x1234567890."""
    class Stream:
        cuda_stream = 0x1234567890
    monkeypatch.setattr('torch.cuda.get_device_capability', lambda device=None: (9, 0))
    monkeypatch.setattr('torch.cuda.current_stream', lambda device: Stream)
    monkeypatch.setattr('torch.cuda.device', lambda device: torch.no_grad())
    monkeypatch.setattr(nvrtc_kernels.Launcher, 'multiprocessors', lambda self, device: 30)


def archive():
    """As if compiled: every kernel's name in its file is its own, backwards."""
    made = object.__new__(nvrtc_kernels.Archive)
    made.names = {name: {kernel: kernel[::-1] for kernel in kernels}
                  for name, (_, kernels) in nvrtc_kernels.programs().items()}
    made.images = {name: name.encode() for name in made.names}
    return made


def test_the_driver_is_called_with_the_launch(one_gpu):
    cuda, device = FakeCuda(), torch.device('cuda', 0)
    launcher = nvrtc_kernels.Launcher({(9, 0): archive()}, Driver(cuda))
    params = _launch_upfirdn2d.Params(blocks=77, gain=1.5, x=0x7e1234567890, tile_w=16)
    launch = _launch.Launch(_launch_upfirdn2d.body_of(torch.float16, 2, 1, 4, False), params, 12345)
    for _ in range(2):
        launcher.launch(device, launch)
    (_, args, copied), _second = cuda.named('cuLaunchKernel')
    assert args[1:9] == (77, 1, 1, 256, 1, 1, 12345, 0x1234567890) and copied == bytes(params)
    (_, load, _), = cuda.named('cuModuleLoadData')
    (_, function, _), = cuda.named('cuModuleGetFunction')
    assert load[1] == b'upfirdn2d-float16'
    assert function[2].decode()[::-1] == 'kdgan::kernel<kdgan::Upfirdn2d<kdgan::half_t, 2, 1, 4, false>>'
    assert args[0] > 2 ** 32 and len(cuda.named('cuCtxSetCurrent')) == 2
    # cuInit, cuDeviceGet came before
    assert {call[1][0] for call in cuda.named('cuCtxSetCurrent')} == {0x7f0000000000 + 2}
    assert launcher.resident_blocks(device, _launch_bias_act.body_of(torch.float32, 'lrelu', 'slope')) == 5 * 30


def test_errors_of_the_driver_have_its_words(one_gpu):
    launcher = nvrtc_kernels.Launcher({(8, 0): archive()}, Driver(FakeCuda()))
    launch = _launch.Launch(_launch_bias_act.body_of(torch.float32, 'relu', 'none'), _launch_bias_act.Params(blocks=1))
    with pytest.raises(DriverError, match='there is no code for cuda:0, of architecture 9.0'):
        launcher.launch(torch.device('cuda', 0), launch)
    launcher = nvrtc_kernels.Launcher({(9, 0): archive()}, Driver(FakeCuda({'cuModuleLoadData': 209})))
    with pytest.raises(DriverError, match=r'cuModuleLoadData: it went wrong \(CUDA error 209\)'):
        launcher.launch(torch.device('cuda', 0), launch)


@pytest.mark.parametrize('capability, target', [((8, 6), 'sm_86'), ((8, 9), 'sm_86'), ((9, 0), 'sm_90'),
                                                ((10, 0), 'compute_90'), ((7, 5), None)])
def test_the_target_is_what_the_gpu_runs(capability, target):
    if target is None:
        with pytest.raises(nvrtc.NvrtcError, match='no code for GPUs of architecture 7.5, the oldest it knows is 8.0'):
            nvrtc.target_of(capability, [80, 86, 90])
    else:
        assert nvrtc.target_of(capability, [80, 86, 90]) == target


def test_a_damaged_archive_is_compiled_anew(monkeypatch, tmp_path):
    path, built = tmp_path / 'kernels.zip', []

    def build(capability, time_limit_sec):
        built.append(capability)
        if not path.exists():
            nvrtc_kernels.zipfile.ZipFile(path, 'w').writestr(nvrtc.INDEX, '{}')
        return str(path)
    path.write_bytes(b'half an archive')
    nvrtc_kernels.os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(nvrtc_kernels, 'build', build)
    assert nvrtc_kernels._archive((9, 0), 60).names == {} and len(built) == 2


@needs_nvrtc
@pytest.mark.parametrize('major', GENERATIONS)
def test_nvrtc_compiles_in_a_process_of_its_own(major, monkeypatch, capfd):
    """Some kernels of every kind for one architecture; `make soak` compiles all for all."""
    monkeypatch.setattr('torch.version.cuda', f'{major}.0')
    some = {name: (source, kernels[-1:]) for name, (source, kernels) in nvrtc_kernels.programs().items()
            if 'float64' not in name}
    monkeypatch.setattr(nvrtc_kernels, 'programs', lambda: some)
    for _ in range(2):
        path = nvrtc_kernels.build((7, 5))
    archive = nvrtc_kernels.Archive(path)
    assert capfd.readouterr().out.count(build_cache.ANNOUNCEMENT) == 1
    assert set(archive.images) == set(some) and all(image.startswith(b'\x7fELF') for image in archive.images.values())
    for name, (_, kernels) in some.items():
        assert [archive.names[name][kernel].encode() in archive.images[name] for kernel in kernels] == [True]


@needs_nvrtc
def test_a_source_that_does_not_compile_is_an_error_with_its_lines(monkeypatch):
    monkeypatch.setattr('torch.version.cuda', f'{GENERATIONS[-1]}.0')
    monkeypatch.setattr(nvrtc_kernels, 'programs', lambda: {'broken': ('int broken() { return seven; }', [])})
    with pytest.raises(build_cache.BuildError, match='compiling with NVRTC failed') as caught:
        nvrtc_kernels.build((8, 0))
    assert '"seven" is undefined' in str(caught.value) and 'To mend it: ' in str(caught.value)


@needs_nvrtc
@pytest.mark.soak
@pytest.mark.parametrize('capability', [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)], ids=str)
@pytest.mark.parametrize('major', GENERATIONS)
def test_every_kernel_compiles_for_every_architecture(major, capability, monkeypatch):
    monkeypatch.setattr('torch.version.cuda', f'{major}.0')
    archive = nvrtc_kernels.Archive(nvrtc_kernels.build(capability, 1800))
    assert sum(len(names) for names in archive.names.values()) == 146
    assert all(image.startswith(b'\x7fELF') for image in archive.images.values())


def test_the_search_goes_from_nvcc_to_nvrtc_to_torch(monkeypatch):
    """Which backend serves, and the words for it, with each kind of failure."""
    monkeypatch.setattr(custom_ops, '_different_gpus', lambda: [torch.device('cpu')])
    monkeypatch.setattr(custom_ops, '_install', lambda *args: None)
    of_nvrtc = [name for kernel in nvrtc_kernels.KERNELS for name in custom_ops.OPERATORS[kernel]]
    functions = dict.fromkeys(of_nvrtc, lambda *args: None)

    def fail(text):
        raise build_cache.BuildError(text, 'do this')

    def search(library, nvrtc_load, check=lambda *args: None):
        monkeypatch.setattr(custom_ops, '_load_library', library)
        monkeypatch.setattr(custom_ops, '_load_nvrtc', nvrtc_load)
        monkeypatch.setattr(custom_ops, '_check', check)
        return custom_ops._load(60)
    works = lambda limit: ('NVRTC 13.0', functions)
    problems, backends, notes = search(lambda limit: fail('nvcc is missing'), works)
    assert problems == dict.fromkeys(custom_ops.OPERATORS) and notes == []
    assert set(backends.values()) == {'kernel compiled by NVRTC 13.0 (nvcc is missing)'}
    problems, backends, notes = search(lambda limit: ('nvcc', None), lambda limit: fail('not asked for'))
    assert set(backends.values()) == {'kernel compiled by nvcc'} and notes == []
    problems, backends, notes = search(lambda limit: fail('nvcc is missing'), lambda limit: fail('NVRTC is missing'))
    assert str(problems['upfirdn2d']) == ('nvcc is missing. To mend it: do this\nOr without a compiler: NVRTC is '
                                          'missing. To mend it: do this')
    assert backends['bias_act'] == 'plain torch (nvcc is missing)' and len(notes) == 1
    wrong = iter([build_cache.Problem('wrong', 'x'), None, None, None])                # bias_act of the library
    problems, backends, notes = search(lambda limit: ('nvcc', None), works, lambda *args: next(wrong))
    assert set(problems.values()) == {None} and backends['upfirdn2d'] == 'kernel compiled by nvcc'
    assert (backends['bias_act'] == 'kernel compiled by NVRTC 13.0 (wrong)'
            and 'bias_act runs with the kernel of NVRTC' in notes[0])


def test_a_launch_that_fails_ends_in_the_reference_with_one_warning(monkeypatch):
    installed = []
    monkeypatch.setattr(custom_ops, '_problems', dict.fromkeys(custom_ops.OPERATORS))
    monkeypatch.setattr(custom_ops, '_backends', {})
    monkeypatch.setattr(custom_ops, '_use_reference', lambda kernel, device: installed.append(kernel))

    def fail(*args):
        raise DriverError('cuLaunchKernel: out of resources (CUDA error 701)')
    run, x = custom_ops._guarded('bias_act', 'bias_act', fail), torch.randn(2, 3)
    args = (x, None, 1, 'relu', 0.0, 1.0, -1.0)
    with pytest.warns(RuntimeWarning, match='bias_act runs without its CUDA kernel from here on: a launch failed: '
                                            'cuLaunchKernel: out of') as caught:
        results = [run(*args), run(*args)]
    assert len(caught) == 1 and installed == ['bias_act']
    assert 'a launch failed' in custom_ops._problems['bias_act'].reason
    for y in results:
        torch.testing.assert_close(y, custom_ops.references['bias_act'](*args))
    assert custom_ops.backend_of('bias_act', torch.device('cpu')) == 'plain torch (on cpu)'
