"""Kernels without a compiler: the launches of NVRTC's kernels against those of the C++, a driver that is not there, a
real compilation."""

import ctypes
import random
import re

import pytest
import torch
from host_build import NAMES

from torch_utils import custom_ops
from torch_utils.native import cache as build_cache
from torch_utils.native import nvrtc, nvrtc_kernels
from torch_utils.native.cuda_driver import PROTOTYPES, Driver, DriverError
from torch_utils.ops import _cases, _launch, _launch_bias_act, _launch_scaled_bias_act, _launch_upfirdn2d
from torch_utils.ops.scaled_bias_act import real_dtype

LAUNCHES = dict(bias_act=_launch_bias_act, upfirdn2d=_launch_upfirdn2d, scaled_bias_act=_launch_scaled_bias_act)
GENERATIONS = [major for major in ('12', '13') if nvrtc.find_library(major) is not None]
needs_nvrtc = pytest.mark.skipif(not GENERATIONS, reason='needs the package nvidia-cuda-nvrtc')


class Recorder:
    """A launcher that keeps the launch instead of making it."""
    def __init__(self, multiprocessors=1):
        self.count, self.last = multiprocessors, None

    def multiprocessors(self, device):
        return self.count

    def resident_blocks(self, device, body):
        return 8 * self.count

    def launch(self, device, launch):
        self.last = launch


def operators(launcher):
    return {name: function for launches in LAUNCHES.values() for name, function in launches.operators(launcher).items()}


def fields(params):
    """{name: value}, structs within it as tuples."""
    plain = lambda value: tuple(fields(value).values()) if isinstance(value, ctypes.Structure) else value
    return {name: plain(getattr(params, name)) for name, _ in params._fields_}


def body_in(text):
    """'BiasAct<float, Relu, none>' of how a compiler, or we, write the type of a body."""
    text = re.search(r'Body = ([^;\]]+)', text)[1] if 'Body = ' in text else text
    text = text.replace('c10::BFloat16', 'bfloat16_t').replace('c10::Half', 'half_t')
    return text.replace('kdgan::', '').replace('Derivative::', '').replace('Pass::', '').strip()


def test_the_structs_lie_in_memory_as_in_cpp(host_library):
    mirrored = []
    for launches in LAUNCHES.values():
        mirrored += [ctypes.sizeof(launches.Params), *(getattr(launches.Params, name).offset
                                                       for name, _ in launches.Params._fields_)]
    assert host_library.layout() == mirrored and len(mirrored) > 80


def random_upfirdn2d(rng):
    """(x, f, arguments): small images in any layout, any factors, half of them such that a specialised kernel runs."""
    special = rng.random() < 0.5
    up, down = rng.choice(_launch_upfirdn2d.FACTORS) if special else (rng.randint(1, 4), rng.randint(1, 4))
    taps_x, taps_y = (4, 4) if special else (rng.randint(1, 32), rng.randint(1, 32))
    separable = rng.random() < 0.4
    taps_y = taps_x if separable else taps_y
    dtype, layout = rng.choice(list(_launch.CPP_TYPE)), rng.choice(_cases.LAYOUTS)
    x = _cases.random_tensor([rng.randint(1, 3), rng.choice([1, 3, 8, 16, 24]), rng.randint(1, 40),
                              rng.choice([1, 5, 16, 32, 37])], 0, layout)
    f = torch.ones([taps_x] if separable else [taps_y, taps_x]) / 7
    pads = [taps_x + rng.randint(-1, 3), rng.randint(0, 5), taps_y + rng.randint(-1, 3), rng.randint(0, 5)]
    if rng.random() < 0.3:
        pads[1] -= rng.randint(0, 3)
    up_y, down_y = (up, down) if special else (rng.randint(1, 4), rng.randint(1, 4))
    return _cases.laid_out(x, layout, dtype, 'cpu'), f, (up, up_y, down, down_y, *pads, rng.random() < 0.5, 1.25)


def random_bias_act(rng):
    """(operator, arguments)."""
    name, dtype, layout = rng.choice(NAMES[:3]), rng.choice(list(_launch.CPP_TYPE)), rng.choice(_cases.LAYOUTS)
    shape = [rng.randint(1, 9) for _ in range(rng.choice([1, 2, 4, 4, 4]))]
    if rng.random() < 0.3:
        shape[-1] = rng.choice([64, 1000, 5000])
    dim = rng.randrange(-len(shape), len(shape))
    tensors = [_cases.laid_out(_cases.random_tensor(shape, i, rng.choice([layout, 'contiguous'])), layout, dtype, 'cpu')
               for i in range({'bias_act': 1, 'bias_act_slope': 2, 'bias_act_curve': 3}[name])]
    b = _cases.laid_out(_cases.random_tensor([shape[dim]], 9), layout, dtype, 'cpu') if rng.random() < 0.7 else None
    act = rng.choice(list(_launch_bias_act.STRUCTS))
    return name, (*tensors, b, dim, act, 0.2, rng.choice([0.0, 1.0, -1.5]), rng.choice([-1.0, 0.5]))


def random_scaled_bias_act(rng):
    """(operator, arguments), one in ten of them wrong in a way that both must refuse."""
    name, dtype = rng.choice(custom_ops.OPERATORS['scaled_bias_act']), rng.choice(list(_launch.CPP_TYPE))
    layout = rng.choice(_cases.LAYOUTS)
    n, c, h, w = shape = [rng.randint(0, 3), rng.choice([1, 3, 8, 40, 300]), rng.randint(1, 30),
                          rng.choice([1, 5, 16, 37])]
    real = real_dtype(dtype)
    fits = lambda: rng.random() < 0.95
    small = lambda *sizes: torch.ones(sizes, dtype=real).mul(0.5) if fits() else torch.ones([*sizes, 2], dtype=real)
    maybe = lambda t: t if rng.random() < 0.7 else None
    large = lambda: _cases.laid_out(_cases.random_tensor(shape, rng.randint(0, 9), rng.choice([layout, 'contiguous'])),
                                    layout, dtype, 'cpu')
    x, scale, args = large(), small(n, c), (0.2, rng.choice([1.5, 1.5, 1.5, 0.5, 0.0]), rng.choice([-1.0, 0.5]))
    noise = maybe(small(rng.choice([1, n]), 1, h, w))
    if name == 'scaled_bias_act':
        return name, (x, scale, noise, small(c), *args)
    first = () if name == 'scaled_bias_act_grad' else (large(), maybe(small(n, c)), noise, maybe(small(c)))
    return name, (*first, large(), large(), x, scale, *args)


def forms(result):
    """[(shape, dtype, strides)] of the result of an operator, a tensor or several."""
    return [(t.shape, t.dtype, _cases.strides_that_matter(t))
            for t in ([result] if torch.is_tensor(result) else result)]


def assert_same_launch(host_library, multiprocessors, name, args):
    """Both make the same kernel, shared memory and parameters of a call, the pointers to what each of them allocates
    aside; or neither any."""
    recorder, kernel = Recorder(multiprocessors), next(kernel for kernel, names in custom_ops.OPERATORS.items()
                                                       if name in names)
    messages = []
    for run in (operators(recorder)[name], host_library.operator(name)):
        try:
            result, message = forms(run(*args)), None
        except RuntimeError as err:
            result, message = None, str(err).partition('\n')[0]
        messages.append((message, result))
    assert messages[0] == messages[1]
    if recorder.last is None:
        return 0
    body, shared_bytes, params = host_library.last_launch(LAUNCHES[kernel].Params)
    assert body_in(recorder.last.body) == body_in(body) and recorder.last.shared_bytes == shared_bytes
    ours, theirs = fields(recorder.last.params), fields(params)
    for pointer in [key for key, kind in params._fields_ if kind is ctypes.c_void_p]:
        assert (ours[pointer] is None) == (theirs.pop(pointer) is None), pointer
        del ours[pointer]
    assert ours == theirs
    return 1


@pytest.mark.parametrize('multiprocessors', [1, 30, 132])
def test_random_calls_make_the_launches_of_the_library(host_library, multiprocessors):
    rng = random.Random(multiprocessors)
    host_library.set_multiprocessors(multiprocessors)
    try:
        launches = 0
        for _ in range(150):
            x, f, args = random_upfirdn2d(rng)
            launches += assert_same_launch(host_library, multiprocessors, 'upfirdn2d', (x, f, *args))
            launches += assert_same_launch(host_library, multiprocessors, *random_bias_act(rng))
            launches += assert_same_launch(host_library, multiprocessors, *random_scaled_bias_act(rng))
        assert launches > 300
    finally:
        host_library.set_multiprocessors(1)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16], ids=str)
def test_the_launches_of_scaled_bias_act_give_its_results(host_library, dtype):
    """What the kernel leaves as sums of tiles is added up in Python here: every case with the kernels of the host
    build."""
    class Host(Recorder):
        def launch(self, device, launch):
            host_library.launch_scaled_bias_act(launch)
    with torch.library._scoped_library('kdgan', 'IMPL') as library:
        for name, function in _launch_scaled_bias_act.operators(Host()).items():
            library.impl(name, function, 'CPU')
        cases = list(_cases.scaled_bias_act_cases())
        assert len(cases) > 90
        assert [text for case in cases for text in _cases.failures(case, dtype, torch.device('cpu'))] == []


@pytest.mark.parametrize('shape, f, args', [
    ((1, 3, 1024, 1024), [4, 4], (2, 2, 1, 1, 2, 1, 2, 1)), ((4, 64, 256, 256), [4], (1, 1, 2, 2, 1, 1, 1, 1)),
    ((1, 1, 2000, 3), [32, 31], (1, 1, 40, 40, 0, 90, 0, 90)), ((1, 2, 40, 40), [32], (1, 1, 39, 1, 16, 16, 16, 16))])
@pytest.mark.parametrize('multiprocessors', [1, 30, 132])
def test_large_images_get_the_tiles_that_fit_into_shared_memory(shape, f, args, multiprocessors):
    """What the sizes must obey, whichever way they were found."""
    upx, upy, downx, downy, left, right, top, bottom = args
    plan = _launch_upfirdn2d.plan(torch.float16, False, shape[:2],
                                  _launch_upfirdn2d.Axis('x', shape[3], upx, downx, left, right, f[-1]),
                                  _launch_upfirdn2d.Axis('y', shape[2], upy, downy, top, bottom, f[0]), len(f) == 1,
                                  False, True, multiprocessors)
    p = plan.params
    assert (p.tiles_x * p.tile_w >= p.out_w and p.tiles_y * p.tile_h >= p.out_h + p.shift_y
            and p.tiles_k * p.tile_k >= shape[0] * shape[1])
    assert (p.blocks == p.tiles_x * p.tiles_y * p.tiles_k
            and plan.shared_bytes == 4 * (p.weights + p.box_size + p.middle_size) <= 48 << 10)


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
