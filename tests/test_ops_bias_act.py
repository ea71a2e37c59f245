import pytest
import torch

from torch_utils.ops import bias_act as op
from torch_utils.ops import upfirdn2d

ACTS = list(op.activation_funcs)
COMBINATIONS = [(act, clamp, gain) for act in ACTS for clamp, gain in [(None, None), (0.6, None), (0.5, 1.7)]]


def inputs(shape=(3, 4, 5, 2), dim=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.double, generator=rng).requires_grad_(True)
    b = torch.randn(shape[dim], dtype=torch.double, generator=rng).requires_grad_(True)
    return x, b


@pytest.mark.parametrize('act, clamp, gain', COMBINATIONS)
def test_values_and_derivatives_equal_autograd_through_the_definition(act, clamp, gain):
    """'ref' is the formula in plain differentiable torch; both are float64, so only rounding may differ."""
    x, b = inputs()
    dy, ux, ub = torch.randn_like(x), torch.randn_like(x), torch.randn_like(b)
    results = []
    for impl in ('auto', 'ref'):
        y = op.bias_act(x, b, act=act, clamp=clamp, gain=gain, impl=impl)
        weight = dy.clone().requires_grad_(True)
        dx, db = torch.autograd.grad(y, [x, b], weight, create_graph=True)
        second = torch.autograd.grad((dx * ux).sum() + (db * ub).sum(), [x, b, weight], allow_unused=True)
        results.append([y, dx, db, *[torch.zeros_like(t) if g is None else g
                                     for g, t in zip(second, [x, b, weight], strict=True)]])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('act, clamp, gain', COMBINATIONS)
def test_gradgradcheck_and_opcheck(act, clamp, gain):
    x, b = inputs()
    fn = lambda x, b: op.bias_act(x, b, act=act, clamp=clamp, gain=gain)
    assert torch.autograd.gradcheck(fn, (x, b))
    assert torch.autograd.gradgradcheck(fn, (x, b))
    args = (1, act, 0.2, 1.0 if gain is None else gain, -1.0 if clamp is None else clamp)
    saved = x.detach().clone().requires_grad_(True)
    torch.library.opcheck(torch.ops.kdgan.bias_act.default, (x, b, *args))
    torch.library.opcheck(torch.ops.kdgan.bias_act_slope.default, (x, saved, b, *args))


@pytest.mark.parametrize('value, act, alpha, expected', [
    (-2.0, 'lrelu', None, -0.4 * 2 ** 0.5), (3.0, 'lrelu', 0.5, 3 * 2 ** 0.5), (-1.0, 'relu', None, 0),
    (2.0, 'linear', None, 2), (0.0, 'sigmoid', None, 0.5), (0.0, 'softplus', None, 0.6931471805599453),
    (-1e9, 'elu', None, -1), (0.0, 'swish', None, 0)])
def test_hand_computed_values(value, act, alpha, expected):
    y = op.bias_act(torch.tensor([[value - 0.25]], dtype=torch.double), torch.tensor([0.25], dtype=torch.double),
                    act=act, alpha=alpha)
    assert y.item() == pytest.approx(expected)


def test_clamp_comes_after_gain_and_stops_the_gradient():
    x = torch.tensor([[0.1, 1.0]], requires_grad=True)
    y = op.bias_act(x, gain=4, clamp=1)
    assert y.tolist() == [[pytest.approx(0.4), 1.0]]
    y.sum().backward()
    assert x.grad.tolist() == [[4.0, 0.0]]


@pytest.mark.parametrize('shape, dim', [((6, 7), 1), ((5,), 0), ((2, 3, 4), 2), ((2, 1, 3, 1), 1), ((2, 3, 4, 5), -1),
                                        ((0, 3, 2, 2), 1)])
def test_shapes_and_bias_dimension(shape, dim):
    x, b = inputs(shape, dim)
    want = x + b.reshape([-1 if i == dim % len(shape) else 1 for i in range(len(shape))])
    torch.testing.assert_close(op.bias_act(x, b, dim=dim), want)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_and_memory_format_are_kept(dtype, layout):
    x = torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=layout).requires_grad_(True)
    b = torch.randn(3).to(dtype)
    y = op.bias_act(x, b, act='lrelu')
    dx, = torch.autograd.grad(y.sum(), x)
    assert y.dtype == dx.dtype == dtype
    assert y.is_contiguous(memory_format=layout) and dx.is_contiguous(memory_format=layout)
    want = op.bias_act(x.double(), b.double(), act='lrelu', impl='ref')
    tolerance = 4 * torch.finfo(dtype).eps          # bias, slope and gain each round once
    torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('act', ['lrelu', 'swish'])
def test_no_gradient_passes_a_limit_that_the_dtype_cannot_represent(act, dtype):
    """0.1 is rounded down in float16 and up in bfloat16: a result at the limit is a result at the limit either way."""
    x = torch.tensor([[5.0]], dtype=dtype, requires_grad=True)
    assert torch.autograd.grad(op.bias_act(x, act=act, clamp=0.1), x)[0].item() == 0


def test_gradient_of_a_bias_over_the_only_dimension():
    x, b = inputs((5,), 0)
    assert torch.autograd.gradcheck(lambda x, b: op.bias_act(x, b, dim=0, act='swish'), (x, b))


@pytest.mark.filterwarnings('ignore')              # torch's own, of its compiler
@pytest.mark.parametrize('act', ACTS)
def test_compiled_it_is_plain_torch_with_the_same_values_and_gradients(act):
    """The compiler may join it with its neighbours; the operator itself would be a wall between them. upfirdn2d stays
    one."""
    seen = []
    torch.compiler.reset()              # one version of a function per activation would pass its limit

    def backend(graph, example_inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == 'call_function')
        return torch._dynamo.lookup_backend('aot_eager')(graph, example_inputs)
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    fn = lambda x, b: op.bias_act(upfirdn2d.filter2d(x * 2, f), b, act=act, clamp=0.7)
    (x, b), dy = inputs(), torch.randn(3, 4, 5, 2, dtype=torch.double)
    got = torch.compile(fn, fullgraph=True, backend=backend)(x, b)
    torch.testing.assert_close(got, fn(x, b))
    torch.testing.assert_close(torch.autograd.grad(got, [x, b], dy), torch.autograd.grad(fn(x, b), [x, b], dy))
    assert not any('bias_act' in name for name in seen) and any('kdgan.upfirdn2d' in name for name in seen)


@pytest.mark.filterwarnings('ignore')
def test_compiled_it_has_no_slope_at_the_limit_either():
    x = torch.tensor([[-2.0, -1.0, 0.5, 1.0, 2.0]], requires_grad=True)
    fn = lambda x: op.bias_act(x, clamp=1)
    for way in (fn, torch.compile(fn, fullgraph=True, backend='aot_eager')):
        assert torch.autograd.grad(way(x).sum(), x)[0].tolist() == [[0, 0, 1, 0, 0]]


@pytest.mark.parametrize('change, error, message', [
    (dict(act='gelu'), ValueError, "act is 'gelu', it must be one of linear"),
    (dict(x=torch.zeros(2, 3, dtype=torch.int64)), TypeError, r'x is torch.int64 of shape \[2, 3\], it must be '
                                                              r'floating point'),
    (dict(b=torch.zeros(4)), ValueError, r'b has shape \[4\], it must be \[3\], the size of x in dimension 1'),
    (dict(b=torch.zeros(3, dtype=torch.float64)), TypeError, 'b is torch.float64 on cpu, x is torch.float32'),
    (dict(b=torch.zeros(3), dim=2), ValueError, 'dim is 2, x of shape'),
    (dict(impl='fast'), ValueError, "impl is 'fast', it must be one of auto, cuda, ref"),
    (dict(impl='cuda'), RuntimeError, "impl is 'cuda', x is on cpu"),
    (dict(x=torch.zeros(2, 3, dtype=torch.float8_e5m2)), TypeError, 'x is torch.float8_e5m2 of shape'),
    (dict(clamp=-1), ValueError, 'clamp is -1, it must be at least 0'),
    (dict(act='lrelu', alpha=-0.1), ValueError, 'alpha is -0.1, it must be at least 0')])
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        op.bias_act(**{'x': torch.zeros(2, 3), **change})


@pytest.mark.parametrize('layouts', [(torch.contiguous_format, torch.channels_last),
                                     (torch.channels_last, torch.contiguous_format)])
@pytest.mark.parametrize('act', ['lrelu', 'swish'])
def test_derivatives_keep_the_layout_of_what_comes_in(act, layouts):
    """Gradient and result may lie differently in memory; a compiler relies on what the operator promises."""
    dy, saved = (torch.randn(2, 3, 4, 5).contiguous(memory_format=layout) for layout in layouts)
    args = (1, act, 0.2, 1.4, 0.5)
    torch.library.opcheck(torch.ops.kdgan.bias_act_slope.default, (dy, saved, None, *args))
    torch.library.opcheck(torch.ops.kdgan.bias_act_curve.default, (dy, dy, saved, None, *args))
    assert torch.ops.kdgan.bias_act_slope(dy, saved, None, *args).stride() == dy.stride()
