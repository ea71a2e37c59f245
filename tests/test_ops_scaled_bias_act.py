import pytest
import torch

from torch_utils.ops import scaled_bias_act as op

ARGS = (0.2, 1.5)                       # alpha, gain
NOISES = {'each': (3, 1, 5, 2), 'one': (1, 1, 5, 2), 'map': (5, 2), 'none': None}
needs_grad = lambda tensors: [t.detach().clone().requires_grad_(True) for t in tensors if t is not None]


def inputs(noise='each', seed=0):
    """x, scale, bias, noise; the operator is piecewise linear, and no element is close to a kink or to a limit of
    0.6."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 5, 2), (3, 4), (4,), NOISES[noise]]
    return [None if s is None else torch.randn(s, dtype=torch.double, generator=rng).requires_grad_(True)
            for s in shapes]


def definition(x, scale, b, noise, clamp, alpha=0.2, gain=1.5):
    """Written out, in differentiable torch of any order."""
    u = x * scale.reshape(*scale.shape, 1, 1) + b.reshape(1, -1, 1, 1) + (0 if noise is None else noise)
    y = torch.where(u > 0, u, alpha * u) * gain
    return y if clamp is None else torch.where(y.abs() < clamp, y, clamp * y.sign())


def by_operator(x, scale, b, noise, clamp):
    return op.by_operator(x, scale, noise, b, *ARGS, clamp)


@pytest.mark.parametrize('clamp', [None, 0.6])
@pytest.mark.parametrize('noise', list(NOISES))
def test_values_and_both_derivatives_equal_autograd_through_the_definition(noise, clamp):
    tensors = [t for t in inputs(noise) if t is not None]
    rng = torch.Generator().manual_seed(9)
    random = lambda like: torch.randn(like.shape, dtype=torch.double, generator=rng)
    dy, directions = random(tensors[0]), [random(t) for t in tensors]
    results = []
    for fn in (by_operator, definition):
        full = tensors if len(tensors) == 4 else [*tensors, None]
        weight = dy.clone().requires_grad_(True)
        y = fn(*full, clamp)
        first = torch.autograd.grad(y, tensors, weight, create_graph=True)
        total = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        second = torch.autograd.grad(total, [*tensors, weight], allow_unused=True)
        results.append([y, *first, *(torch.zeros_like(t) if g is None else g
                                     for g, t in zip(second, [*tensors, weight], strict=True))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('wanted', ['dx', 'dscale', 'dnoise', 'db'])
def test_second_derivatives_of_one_gradient_alone(wanted):
    """Path length asks for one of the four; the others have no gradient of their own then."""
    tensors = inputs()
    index = ['dx', 'dscale', 'db', 'dnoise'].index(wanted)
    results = []
    for fn in (by_operator, definition):
        weight = torch.linspace(-1, 1, 120, dtype=torch.double).reshape(3, 4, 5, 2).requires_grad_(True)
        grad = torch.autograd.grad(fn(*tensors, None), tensors, weight, create_graph=True)[index]
        second = torch.autograd.grad(grad.sin().sum(), [*tensors, weight], allow_unused=True)
        results.append([torch.zeros_like(t) if g is None else g
                        for g, t in zip(second, [*tensors, weight], strict=True)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('clamp', [None, 0.6])
def test_gradcheck_and_opcheck(clamp):
    tensors = inputs()
    fn = lambda *tensors: by_operator(*tensors, clamp)
    assert torch.autograd.gradcheck(fn, tensors)
    assert torch.autograd.gradgradcheck(fn, tensors)
    x, scale, b, noise = tensors
    args = (*ARGS, -1.0 if clamp is None else clamp)
    torch.library.opcheck(torch.ops.kdgan.scaled_bias_act.default, (x, scale, noise, b, *args))
    dy, y = needs_grad([x, x])
    torch.library.opcheck(torch.ops.kdgan.scaled_bias_act_grad.default, (dy, y, x, scale, *args))
    with torch.no_grad():
        torch.library.opcheck(torch.ops.kdgan.scaled_bias_act_grad2.default,
                              (x, scale, noise, b, dy, y, x, scale, *args))


@pytest.mark.parametrize('act, gain, clamp', [
    ('lrelu', None, None), ('lrelu', 0.7, 0.5), ('lrelu', -1.0, None), ('swish', None, 0.5), ('relu', 0.0, 1)])
@pytest.mark.parametrize('noise', list(NOISES))
@pytest.mark.parametrize('scaled', [True, False])
def test_what_a_gpu_gets_is_what_a_cpu_gets(noise, act, gain, clamp, scaled, monkeypatch):
    x, scale, b, noise = inputs(noise)
    args = (x, scale if scaled else None, noise, b, act, gain, clamp)
    on_cpu, ref = op.scaled_bias_act(*args), op.scaled_bias_act(*args, impl='ref')
    calls = []
    monkeypatch.setattr(op, '_operator_serves', lambda x: True)
    monkeypatch.setattr(op, 'by_operator', lambda *args, run=op.by_operator: calls.append(1) or run(*args))
    torch.testing.assert_close(op.scaled_bias_act(*args), on_cpu)
    torch.testing.assert_close(ref, on_cpu)
    assert len(calls) == (scaled and act == 'lrelu' and gain != -1)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_and_memory_format_are_kept(dtype, layout):
    """Gradients of what is small stay in float32, in which they are summed."""
    x, scale, b, noise = (t.detach() for t in inputs())
    x = x.to(dtype).contiguous(memory_format=layout)
    want = definition(x.double(), scale, b, noise, 0.6)
    tensors = needs_grad([x, scale.float(), b.float(), noise.float()])
    y = by_operator(*tensors, 0.6)
    grads = torch.autograd.grad(y.sum(), tensors)
    assert [t.dtype for t in (y, *grads)] == [dtype, dtype, *[torch.float32] * 3]
    assert y.is_contiguous(memory_format=layout) and grads[0].is_contiguous(memory_format=layout)
    tolerance = 8 * torch.finfo(dtype).eps          # in plain torch each step rounds
    torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_no_gradient_passes_a_limit_that_the_dtype_cannot_represent(dtype):
    x, one = torch.full([1, 1, 1, 1], 5.0, dtype=dtype, requires_grad=True), torch.ones(1, 1)
    assert torch.autograd.grad(by_operator(x, one, one[0], None, 0.1), x)[0].item() == 0


def test_derivatives_take_any_layout_of_the_gradient():
    x, scale, b, noise = (t.detach() for t in inputs())
    y = op.by_operator(x, scale, noise, b, *ARGS, None)
    want = torch.ops.kdgan.scaled_bias_act_grad(y, y, x, scale, *ARGS, -1.0)
    for form in (torch.channels_last, torch.contiguous_format):
        strided = torch.stack([y, y], dim=-1)[..., 0]
        got = torch.ops.kdgan.scaled_bias_act_grad(strided, y, x.contiguous(memory_format=form), scale, *ARGS, -1.0)
        assert got[0].is_contiguous(memory_format=form)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w)


def test_compiles_without_a_break():
    tensors = inputs()
    fn = lambda *tensors: by_operator(tensors[0] * 2, *tensors[1:], 0.7)
    compiled = torch.compile(fn, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(*tensors), fn(*tensors))
    got, want = (torch.autograd.grad(f(*tensors).square().sum(), tensors) for f in (compiled, fn))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize('change, error, message', [
    (dict(x=torch.zeros(2, 3)), ValueError, r'x has shape \[2, 3\], it must be \[N, C, H, W\]'),
    (dict(x=torch.zeros(2, 3, 4, 4, dtype=torch.int64)), TypeError, 'x is torch.int64 of shape'),
    (dict(scale=torch.zeros(3, 2)), ValueError, r'scale has shape \[3, 2\], with x of shape \[2, 3, 4, 4\] it must be '
                                                r'\[2, 3\]'),
    (dict(noise=torch.zeros(2, 4, 4)), ValueError, r'noise has shape .* it must be \[2, 1, 4, 4\] or \[1, 1, 4, 4\] or '
                                                   r'\[4, 4\]'),
    (dict(b=torch.zeros(4)), ValueError, r'b has shape \[4\], with x of shape'),
    (dict(b=torch.zeros(3, device='meta')), TypeError, 'b is on meta, x on cpu'),
    (dict(act='gelu'), ValueError, "act is 'gelu', it must be one of linear"),
    (dict(clamp=-1), ValueError, 'clamp is -1, it must be at least 0'),
    (dict(impl='cuda'), RuntimeError, "scaled_bias_act: impl is 'cuda', x is on cpu")])
def test_wrong_arguments_are_named(change, error, message):
    args = dict(x=torch.zeros(2, 3, 4, 4), scale=torch.zeros(2, 3), noise=None, b=torch.zeros(3))
    with pytest.raises(error, match=message):
        op.scaled_bias_act(**{**args, **change})
