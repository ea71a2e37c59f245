"""AGKD and CGKD against numbers worked out by hand and against loops written from the paper's text."""

import math

import pytest
import torch

from dnnlib import UserError
from kd_plugin.distillers import agkd, cgkd, heads
from kd_plugin.distillers.distiller import Pass
from kd_plugin.distillers.settings import PRESETS


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def agkd_of(student, own, other, aggregate=True, **settings):
    term = agkd.AGKD(PRESETS['paper']._replace(**settings))
    term.aggregate = aggregate
    return term.loss(Pass('fake', student, own, other))


def test_agkd_by_hand():
    """Df = (1, 0), I = (0, 2), the other kind's I = (1, 1): |I - Df| = 1 + 2, |I' - Df| = 0 + 1; Euclidean sqrt(5) and
    1."""
    student, own, other = torch.tensor([[1., 0]]), torch.tensor([[0., 2]]), torch.tensor([[1., 1]])
    assert agkd_of(student, own, other).tolist() == [4]
    assert agkd_of(student, own, other, distance='l2').tolist() == [pytest.approx(math.sqrt(5) + 1)]
    assert agkd_of(student, own, other, aggregate=False).tolist() == [3]


@pytest.mark.parametrize('aggregate', [True, False])
def test_agkd_equals_a_loop_over_the_paper(aggregate):
    """L = |I(x)-Df(x)| + |I(G)-Df(G)| + 1[q <= p] (|I(x)-Df(G)| + |I(G)-Df(x)|), L1, summed over M, mean over the
    batch."""
    i_real, i_fake, d_real, d_fake = [rand(5, 7, seed=s) for s in range(4)]
    want = 0
    for n in range(5):
        for m in range(7):
            want += abs(i_real[n, m] - d_real[n, m]) + abs(i_fake[n, m] - d_fake[n, m])
            if aggregate:
                want += abs(i_real[n, m] - d_fake[n, m]) + abs(i_fake[n, m] - d_real[n, m])
    got = agkd_of(d_fake, i_fake, i_real, aggregate).mean() + agkd_of(d_real, i_real, i_fake, aggregate).mean()
    torch.testing.assert_close(got, want / 5)


def test_gradient_scale_of_the_reductions():
    """methods: with respect to one sample's Df, Euclidean has gradient norm 1 and L1 has sqrt(M); 0.44 makes L1 at M =
    512 equal 10 x Euclidean."""
    for distance, norm in [(agkd.euclidean, 1), (agkd.l1, math.sqrt(512))]:
        student = rand(1, 512).requires_grad_(True)
        distance(rand(1, 512, seed=1), student).sum().backward()
        assert student.grad.norm().item() == pytest.approx(norm)
    assert 0.44 * math.sqrt(512) == pytest.approx(10, rel=0.005)


def test_euclidean_has_no_nan_at_zero():
    x = torch.zeros(1, 3, requires_grad=True)
    agkd.euclidean(torch.zeros(1, 3), x).sum().backward()
    assert x.grad.tolist() == [[0, 0, 0]]


def test_q_is_a_function_of_seed_and_images_seen_with_frequency_p():
    settings = PRESETS['paper']._replace(p=0.7)
    a, b = agkd.AGKD(settings, seed=3), agkd.AGKD(settings, seed=3)
    draws = []
    for nimg in range(0, 64 * 2000, 64):
        a.start_step(nimg)
        draws.append(a.aggregate)
    assert sum(draws) / 2000 == pytest.approx(0.7, abs=0.05)         # 5 standard deviations
    b.start_step(64 * 1234)
    assert b.aggregate == draws[1234]
    other = agkd.AGKD(settings, seed=4)
    different = 0
    for i in range(200):
        other.start_step(64 * i)
        different += other.aggregate != draws[i]
    assert different > 30


def test_correlation_by_hand():
    """Texts (1, 0) and (3, 4): the image (1, 0) correlates 1 and 3, row (1, 3) / sqrt(10)."""
    corr = cgkd.image_text_correlation(torch.tensor([[1., 0]]), torch.tensor([[1., 0], [3, 4]]))
    torch.testing.assert_close(corr, torch.tensor([[1, 3]]) / math.sqrt(10))


def cgkd_of(student, teacher, texts, **settings):
    term = cgkd.CGKD(PRESETS['paper']._replace(pd='off', **settings), texts)
    return term.loss(Pass('fake', student, teacher, teacher)).mean()


@pytest.mark.parametrize('reduction, factor', [('mean', 1 / 6), ('sum', 1)])
@pytest.mark.parametrize('distance, power', [('l1', 1), ('l2', 2)])
def test_cgkd_equals_a_loop(distance, power, reduction, factor):
    """|C_T - C_S| with C = the dot products of an image with all texts, scaled to length 1."""
    teacher, student, texts = rand(6, 5, seed=1), rand(6, 5, seed=2), rand(4, 5, seed=3)
    want = 0
    for i in range(6):
        rows = []
        for feats in (teacher, student):
            dots = [sum(feats[i, m] * texts[k, m] for m in range(5)) for k in range(4)]
            length = math.sqrt(sum(d * d for d in dots))
            rows.append([d / length for d in dots])
        want += sum(abs(t - s) ** power for t, s in zip(*rows, strict=True))
    got = cgkd_of(student, teacher, texts, distance=distance, reduction=reduction)
    assert got.item() == pytest.approx(float(want) * factor, rel=1e-5)       # rows are float32


def test_the_sum_is_batch_size_times_the_mean():
    student, teacher, texts = rand(50, 5, seed=1), rand(50, 5, seed=2), rand(3, 5, seed=3)
    mean, total = [cgkd_of(student, teacher, texts, distance='l2', reduction=reduction)
                   for reduction in ('mean', 'sum')]
    torch.testing.assert_close(total, 50 * mean)


def test_heads_give_the_teachers_width():
    x = torch.randn(4, 16)
    for name in ('linear', 'released'):
        assert heads.HEADS[name](16, 24)(x).shape == (4, 24)
    assert torch.equal(heads.HEADS['none'](16, 16)(x), x)
    with pytest.raises(UserError, match='--kd-head=none: .* width 16, the teacher.s 24; use --kd-head=linear'):
        heads.HEADS['none'](16, 24)


def test_released_head_is_linear_with_spectral_norm_one():
    torch.manual_seed(0)
    head = heads.HEADS['released'](16, 24)
    for _ in range(100):                        # power iteration
        head(torch.randn(2, 16))
    for layer in (head.linear_cls_1, head.linear_cls_2):
        weight = layer.normalised(torch.float32)
        assert torch.linalg.matrix_norm(weight, ord=2).item() == pytest.approx(1, rel=0.02)
    head.eval()
    x, y = torch.randn(3, 16), torch.randn(3, 16)
    zero = head(torch.zeros(3, 16))
    torch.testing.assert_close(head(x + y) - zero, head(x) + head(y) - 2 * zero, rtol=1e-4, atol=1e-5)
