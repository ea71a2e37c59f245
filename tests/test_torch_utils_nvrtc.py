"""The launches that Python makes are those of the library."""

import ctypes
import random
import re

import pytest
import torch
from host_build import NAMES

from torch_utils import custom_ops
from torch_utils.ops import _cases, _launch, _launch_bias_act, _launch_scaled_bias_act, _launch_upfirdn2d
from torch_utils.ops.scaled_bias_act import real_dtype

LAUNCHES = dict(bias_act=_launch_bias_act, upfirdn2d=_launch_upfirdn2d, scaled_bias_act=_launch_scaled_bias_act)


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
