"""The distillation term in the D step and the G step: who receives gradients, what the teacher sees, what is logged."""

import pytest
import torch
from kd_toys import RES, TEXTS, N, reported_losses, setup, size, step, toy_teacher, without_kd

from kd_plugin.distillers.agkd import AGKD
from kd_plugin.distillers.settings import DEFAULT, PRESETS
from kd_plugin.loss import Distillation
from torch_utils import training_stats


@pytest.fixture(scope='module')
def teacher():
    return toy_teacher()


TERMS = [('agkd', dict(pd='off'), {'KD/agkd_fake', 'KD/agkd_real'}),
         ('cgkd', dict(pd='off'), {'KD/cgkd_fake'}),
         ('cgkd', dict(pd='off', samples='both'), {'KD/cgkd_fake', 'KD/cgkd_real'}),
         ('cgkd', dict(pd='student', weight_cgkd=0), {'KD/cgkd_fake', 'KD/diversity_student'}),
         ('fitnets', {}, {'KD/fitnets_fake', 'KD/fitnets_real'}),
         ('labeldist', {}, {'KD/labeldist_fake', 'KD/labeldist_real'}),
         ('pkt', {}, {'KD/pkt_fake', 'KD/pkt_real'}),
         ('spkd', {}, {'KD/spkd_fake', 'KD/spkd_real'}),
         ('agkd', dict(preset='released'), {'KD/agkd_fake', 'KD/agkd_real'}),
         ('cgkd', dict(preset='released'), {'KD/cgkd_fake', 'KD/cgkd_real'})]


@pytest.mark.parametrize('method, settings, names', TERMS, ids=lambda v: None if isinstance(v, set) else str(v))
def test_every_term_moves_head_and_trunk_in_the_d_step_and_nothing_else(teacher, method, settings, names):
    """The terms' own gradient: what Dmain accumulates with them, less what it does without."""
    G, D, kd, loss = setup(teacher, (method,), **settings)
    assert reported_losses(lambda: step(loss, 'Dmain', G, D, kd)) == names
    with_kd = {name: p.grad.clone() for name, p in D.named_parameters()}
    assert size(kd.head) > 0
    assert size(G) == size(teacher) == 0
    step(without_kd(G, D), 'Dmain', G, D, kd)
    changed = {name for name, p in D.named_parameters() if (p.grad - with_kd[name]).abs().max() > 1e-7}
    assert {'b16.conv0.weight', 'b8.conv1.weight', 'b4.fc.weight'} <= changed
    assert 'b4.out.weight' not in changed                   # the adversarial readout


@pytest.mark.parametrize('phase', ['Dreg', 'Gmain', 'Greg'])
def test_distillation_stays_out_of_regularisation_and_of_the_g_phase(teacher, phase):
    G, D, kd, loss = setup(teacher)
    teacher.encoder.seen.clear()
    step(loss, phase, G, D, kd)
    assert size(kd) == 0 and teacher.encoder.seen == []
    mine = {name: p.grad.clone() for name, p in (G if phase[0] == 'G' else D).named_parameters() if p.grad is not None}
    step(without_kd(G, D), phase, G, D, kd)
    for name, p in (G if phase[0] == 'G' else D).named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(mine[name], p.grad)


def test_two_pass_step_equals_all_terms_in_one_backward(teacher):
    """D's gradient of the two passes = that of logistic loss + AGKD + CGKD + diversity, written as one sum."""
    G, D, kd, loss = setup(teacher, p=1.0)
    step(loss, 'Dmain', G, D, kd)
    got = {name: p.grad.clone() for name, p in [*D.named_parameters(), *kd.head.named_parameters()]}
    rng = torch.Generator().manual_seed(5)
    real = torch.rand(N, 3, RES, RES, generator=rng) * 2 - 1
    z = torch.randn(N, 8, generator=rng)
    torch.manual_seed(11)
    fake = G(z, None)
    D.requires_grad_(True)
    for p in [*D.parameters(), *kd.head.parameters()]:
        p.grad = None
    with torch.no_grad():
        i_real, i_fake, t = teacher.encode_image(real), teacher.encode_image(fake), teacher.encode_text(TEXTS)
    l_fake, f_fake = D(fake, None, return_features=True)
    l_real, f_real = D(real, None, return_features=True)
    d_fake, d_real = kd.head(f_fake.epilogue), kd.head(f_real.epilogue)
    rows = lambda feats: (feats @ t.t()) / (feats @ t.t()).norm(dim=1, keepdim=True)
    c_s = rows(d_fake)
    total = torch.log1p(l_fake.exp()).mean() + torch.log1p((-l_real).exp()).mean()
    total = total + 0.44 * sum((a - b).abs().sum(1).mean() for a in (i_real, i_fake) for b in (d_real, d_fake))
    total = total + 10 * (rows(i_fake) - c_s).abs().sum(1).mean()
    total = total + 0.1 * sum(c_s[i] @ c_s[j] for i in range(N) for j in range(N) if i != j) / (N * (N - 1))
    total.backward()
    for name, p in [*D.named_parameters(), *kd.head.named_parameters()]:
        torch.testing.assert_close(got[name], p.grad, rtol=1e-3, atol=1e-5)


def double_and_shift(img):
    return img.roll(2, 3) * 0.5


@pytest.mark.parametrize('view', ['clean', 'augmented'])
def test_view_of_the_teacher(teacher, view):
    G, D, kd, loss = setup(teacher, view=view, augment=double_and_shift)
    teacher.encoder.seen.clear()
    real = torch.rand(N, 3, RES, RES) * 2 - 1
    step(loss, 'Dmain', G, D, kd, real_img=real)
    assert len(teacher.encoder.seen) == 2               # fakes and reals, once each
    want = double_and_shift(real) if view == 'augmented' else real
    expected = torch.nn.functional.interpolate(want * 0.5 + 0.5, size=[8, 8], mode='bicubic',
                                               antialias=True).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(teacher.encoder.seen[1], expected)


def test_cached_features_of_the_reals_are_used_by_index(teacher):
    """With the cache the teacher sees fakes only, and the step is the same."""
    real = torch.rand(10, 3, RES, RES) * 2 - 1
    idx = torch.tensor([7, 2, 2, 9])
    grads = []
    for cache in (None, teacher.encode_image(real)):
        G, D, kd, loss = setup(teacher, cache=cache)
        teacher.encoder.seen.clear()
        step(loss, 'Dmain', G, D, kd, real_img=real[idx], real_idx=idx)
        assert len(teacher.encoder.seen) == (2 if cache is None else 1)
        grads.append([p.grad.clone() for p in D.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    assert 'cache' not in kd.state_dict() and not any('teacher' in name for name in kd.state_dict())


def test_warmup_grows_the_weights(teacher):
    """Over 2 kimg, linearly: nothing at 0, a quarter at 500 images, everything from 2000 on."""
    G, D, kd, loss = setup(teacher, ('agkd',), warmup=2.0, p=0.0)
    collector = training_stats.Collector('Loss/KD/agkd_fake')
    values = []
    for nimg in (0, 500, 2000, 9000):
        step(loss, 'Dmain', G, D, kd, cur_nimg=nimg)
        collector.update()
        values.append(collector.mean('Loss/KD/agkd_fake'))
    assert values[2] > 0
    assert [v / values[2] for v in values] == pytest.approx([0, 0.25, 1, 1])


def test_raw_input_is_nearest_and_unnormalised(teacher):
    """As the released code feeds CLIP: pixels copied, values left in [-1, 1]."""
    img = torch.rand(1, 3, 4, 4) * 2 - 1
    teacher.encoder.seen.clear()
    teacher.encode_image(img, raw_input=True)
    torch.testing.assert_close(teacher.encoder.seen[0], img.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_teacher_stays_frozen_and_in_eval(teacher):
    teacher.train()
    assert not teacher.training and not teacher.encoder.training
    assert not any(p.requires_grad for p in teacher.parameters())
    img = torch.zeros(1, 3, 8, 8, requires_grad=True)
    teacher.encode_image(img).sum().backward()
    assert img.grad.abs().max() > 0


def test_the_seed_of_the_run_is_that_of_the_draws(teacher):
    """AGKD draws whether to aggregate, by the seed."""
    def draws(method):
        found = []
        for nimg in range(0, 400, 4):
            method.start_step(nimg)
            found.append(method.aggregate)
        return found
    settings = PRESETS['paper']
    term = lambda seed: Distillation(teacher, 16, ('agkd',), [], settings, seed=seed)
    kept = {seed: draws(term(seed).methods['agkd']) for seed in (0, 3)}
    assert kept == {seed: draws(AGKD(settings, seed=seed)) for seed in (0, 3)} and kept[0] != kept[3]


def test_presets_hold_the_published_settings():
    tenth, paper, released = [PRESETS[name] for name in ('tenth', 'paper', 'released')]
    assert DEFAULT == 'tenth' and tenth == paper._replace(weight_agkd=0.044, weight_cgkd=1, weight_pd=0.01,
                                                          weight_fitnets=18, weight_labeldist=0.2, weight_pkt=5000,
                                                          weight_spkd=44, weight_anchor=0.1)
    assert (paper.weight_agkd, paper.weight_cgkd, paper.p, paper.distance,
            paper.samples) == (0.44, 10, 0.7, 'l1', 'fake')
    assert (released.weight_agkd, released.weight_cgkd, released.p, released.distance,
            released.samples) == (10, 10, 1, 'l2', 'both')
    assert (released.reduction == 'sum' and released.teacher_input == 'raw' and released.view == 'augmented'
            and released.pd == 'off')
