"""The readings of pairwise diversity: formulas, and for each what it trains and what it must not; centred
correlations."""

import itertools

import pytest
import torch
from kd_toys import DIM, N, reported_losses, setup, size, step, toy_teacher, without_kd

from kd_plugin import gradient_scale
from kd_plugin.distillers import cgkd, diversity
from kd_plugin.distillers.distiller import Pass
from kd_plugin.distillers.settings import PRESETS
from torch_utils import training_stats
from training.loss_terms import Step


@pytest.fixture(scope='module')
def teacher():
    return toy_teacher()


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def pairwise_cosines(corr):
    """{(i, j): cosine} over i != j, one pair at a time."""
    return {(i, j): float(torch.dot(corr[i], corr[j]) / (corr[i].norm() * corr[j].norm()))
            for i, j in itertools.permutations(range(len(corr)), 2)}


def test_mean_pairwise_cosine_equals_the_double_sum():
    corr = rand(7, 5)
    cosines = pairwise_cosines(corr)
    assert diversity.mean_pairwise_cosine(corr).item() == pytest.approx(sum(cosines.values()) / 42)
    assert diversity.mean_pairwise_cosine(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert diversity.mean_pairwise_cosine(torch.ones(3, 2)).item() == pytest.approx(1)
    opposite = torch.tensor([[1., 0], [-1, 0]])
    assert diversity.mean_pairwise_cosine(opposite).item() == pytest.approx(-1)          # the bound -1 / (N - 1)


def test_hinged_diversity_stops_at_the_data():
    gen, real = rand(6, 4, seed=1), rand(6, 4, seed=2)
    limit = sum(pairwise_cosines(real).values()) / 30
    want = sum(max(c - limit, 0) for c in pairwise_cosines(gen).values()) / 30
    assert diversity.hinged_pairwise_cosine(gen, real).item() == pytest.approx(want)
    same = torch.eye(4, dtype=torch.double) + 0.5
    assert diversity.hinged_pairwise_cosine(same, same).item() == pytest.approx(0, abs=1e-12)
    real.requires_grad_(True)
    diversity.hinged_pairwise_cosine(gen.requires_grad_(True), real).backward()
    assert gen.grad.abs().max() > 0 and real.grad is None


def test_minimising_diversity_spreads_rows():
    """The sign: a step against the gradient lowers the mean cosine (the released form, in which squares are added,
    would raise it)."""
    x = rand(5, 3).requires_grad_(True)
    before = diversity.mean_pairwise_cosine(x)
    before.backward()
    assert diversity.mean_pairwise_cosine(x.detach() - 0.1 * x.grad) < before


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def changed(before, after):
    """Names of the parameters whose gradient differs."""
    return {name for name in after if name not in before or (after[name] - before[name]).abs().max()
            > 1e-6 * max(after[name].abs().max(), 1)}


# --kd-pd -> losses of the D step and the G step
LOSSES = {'off': (set(), set()), 'student': ({'KD/diversity_student'}, set()),
          'generator': (set(), {'KD/diversity_generator'}),
          'adapter': ({'KD/diversity_adapter', 'KD/diversity_anchor'}, set())}


@pytest.mark.parametrize('pd', diversity.READINGS)
def test_what_a_reading_trains(teacher, pd):
    """What its weight changes in the gradients of G, of D, of the head and of the adapter; never anything in the
    teacher, nor in Dreg and Greg."""
    d_names, g_names = LOSSES[pd]
    weighted, unweighted = {}, {}
    for weight, grads in [(100.0, weighted), (0.0, unweighted)]:
        for phase in ('Dmain', 'Gmain', 'Dreg', 'Greg'):
            G, D, kd, loss = setup(teacher, ('cgkd',), pd=pd, weight_pd=weight)
            names = reported_losses(lambda: step(loss, phase, G, D, kd))            # noqa: B023 - called at once
            assert names == {'Dmain': d_names | {'KD/cgkd_fake'}, 'Gmain': g_names}.get(phase, set())
            grads[phase] = {'G': gradients(G), 'D': gradients(D), 'head': gradients(kd.head),
                            'adapter': gradients(kd.methods)}
            assert size(teacher) == 0
    touched = {(phase, part) for phase, parts in weighted.items() for part in parts
               if changed(unweighted[phase][part], parts[part])}
    assert touched == {'off': set(), 'student': {('Dmain', 'D'), ('Dmain', 'head')}, 'generator': {('Gmain', 'G')},
                       'adapter': {('Dmain', 'adapter')}}[pd]
    assert not any(weighted[phase]['adapter'] for phase in ('Gmain', 'Greg', 'Dreg')) and not weighted['Gmain']['D']


def test_diversity_through_the_generator_is_all_that_distillation_adds_to_the_g_step(teacher):
    G, D, kd, loss = setup(teacher, pd='generator', weight_pd=0.0)
    step(loss, 'Gmain', G, D, kd)
    mine = gradients(G)
    step(without_kd(G, D), 'Gmain', G, D, kd)
    assert changed(mine, gradients(G)) == set()


def test_diversity_as_printed_is_logged_and_has_no_gradient(teacher):
    G, D, kd, loss = setup(teacher, ('cgkd',), pd='off')
    collector = training_stats.Collector('KD/diversity_teacher')
    step(loss, 'Dmain', G, D, kd)
    collector.update()
    assert -1 / (N - 1) <= collector.mean('KD/diversity_teacher') <= 1


@pytest.mark.parametrize('pd', diversity.READINGS)
def test_a_single_image_has_no_pairs(teacher, pd):
    G, D, kd, loss = setup(teacher, ('cgkd',), pd=pd)
    one = dict(real_img=torch.zeros(1, 3, 16, 16), real_c=torch.zeros(1, 0), gen_z=torch.zeros(1, 8),
               gen_c=torch.zeros(1, 0))
    names = [reported_losses(lambda: step(loss, phase, G, D, kd, **one))      # noqa: B023 - called at once
                 for phase in ('Dmain', 'Gmain')]
    assert names == [{'KD/cgkd_fake'}, set()]


@pytest.mark.parametrize('scale', [1, gradient_scale.GRADIENT_SCALE])
def test_the_gradient_to_g_survives_a_teacher_in_half_precision(scale, monkeypatch):
    """Where it is small. As it comes, much of it is lost."""
    monkeypatch.setattr(gradient_scale, 'GRADIENT_SCALE', scale)
    grads = []
    for dtype in (torch.float32, torch.float16):
        teacher = toy_teacher()
        teacher.encoder.to(dtype)
        teacher.dtype = dtype
        _G, _D, kd, _loss = setup(teacher, ('cgkd',), pd='generator', weight_pd=1e-5)
        gen_img = rand(6, 3, 8, 8).float().tanh().requires_grad_(True)
        losses = kd.g_main(Step(torch.full([6, 3, 8, 8], -0.5) + rand(6, 3, 8, 8, seed=1), None, None, None, None,
                                gen_img=gen_img))
        grads.append(torch.autograd.grad(losses['KD/diversity_generator'], gen_img)[0].flatten())
    error = ((grads[1] - grads[0]).norm() / grads[0].norm()).item()
    assert error < 0.01 if scale > 1 else error > 0.05


# -- the adapter

def adapter_of(weight_pd=0.1, weight_anchor=1.0, texts=None):
    torch.manual_seed(3)
    settings = PRESETS['paper']._replace(pd='adapter', weight_pd=weight_pd, weight_anchor=weight_anchor)
    return cgkd.CGKD(settings, rand(5, DIM, seed=9).float() if texts is None else texts)


def test_the_adapter_begins_as_identity():
    method, feats = adapter_of(), rand(6, DIM).float()
    assert torch.equal(method.diversity.adapt(feats), feats)
    losses = method.d_losses(Pass('fake', rand(6, DIM, seed=1).float(), feats, feats))
    plain = cgkd.CGKD(PRESETS['paper']._replace(pd='off'),
                      method.text_feats).d_losses(Pass('fake', rand(6, DIM, seed=1).float(), feats, feats))
    assert (torch.equal(losses['cgkd_fake'][0], plain['cgkd_fake'][0])
            and losses['diversity_anchor'][0].tolist() == [0] * 6)


def moved_adapter(weight_anchor, texts=None):
    """-> adapter after 60 steps on its own objective, and features that are all a little alike."""
    method, feats = adapter_of(weight_anchor=weight_anchor, texts=texts), (rand(16, DIM) + 3).float()
    opt = torch.optim.Adam(method.parameters(), lr=0.01)
    for _ in range(60):
        losses = method.d_losses(Pass('fake', feats, feats, feats))
        opt.zero_grad()
        sum(value.mean() * weight for name, (value, weight) in losses.items() if name != 'cgkd_fake').backward()
        opt.step()
    return method, feats


def test_the_adapter_parts_images_and_the_anchor_holds_it():
    shifts, cosines = [], []
    for weight_anchor in (0.01, 1, 100):
        method, feats = moved_adapter(weight_anchor)
        with torch.no_grad():
            adapted = method.diversity.adapt(feats)
            shifts.append(((adapted - feats).norm(dim=1) / feats.norm(dim=1)).mean().item())
            cosines.append(diversity.mean_pairwise_cosine(method.correlation(adapted)).item())
    before = diversity.mean_pairwise_cosine(method.correlation(feats)).item()
    assert shifts[0] > 3 * shifts[1] > 9 * shifts[2] and cosines[0] < cosines[1] < cosines[2] < before + 1e-6


def test_the_losses_of_the_adapter_equal_loops_over_the_formula():
    """C(I') by dot products, mean cosine over ordered pairs; |I' - I|^2 / |I|^2 per image; what is distilled is C(I')
    and sends nothing back."""
    method, feats = moved_adapter(1)
    method.zero_grad()
    student = rand(16, DIM, seed=5).float().requires_grad_(True)
    losses = method.d_losses(Pass('fake', student, feats, feats))
    hidden, out = method.diversity.hidden, method.diversity.out
    with torch.no_grad():
        act = feats @ (hidden.weight * hidden.weight_gain).t() + hidden.bias
        adapted = feats + (torch.where(act > 0, act,
                                       0.2 * act) * 2 ** 0.5) @ (out.weight * out.weight_gain).t() + out.bias
        rows = [[float(i @ t) for t in method.text_feats] for i in adapted]
        own = [[float(i @ t) for t in method.text_feats] for i in student]
    cosines = pairwise_cosines(torch.tensor(rows))
    assert losses['diversity_adapter'][0].item() == pytest.approx(sum(cosines.values()) / len(cosines), rel=1e-4)
    shift = [float(((a - i) ** 2).sum() / (i ** 2).sum()) for a, i in zip(adapted, feats, strict=True)]
    assert losses['diversity_anchor'][0].tolist() == pytest.approx(shift, rel=1e-4) and min(shift) > 0
    unit = lambda row: [x / sum(y * y for y in row) ** 0.5 for x in row]
    want = [sum(abs(a - b) for a, b in zip(unit(s), unit(t), strict=True)) for s, t in zip(own, rows, strict=True)]
    assert losses['cgkd_fake'][0].tolist() == pytest.approx(want, rel=1e-4)
    losses['cgkd_fake'][0].sum().backward()
    assert student.grad.abs().max() > 0 and all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_the_weight_of_the_anchor_is_that_of_the_setting():
    losses = adapter_of(weight_pd=3, weight_anchor=7).d_losses(Pass('fake',
                                                                    *[rand(4, DIM, seed=s).float() for s in range(3)]))
    assert {name: weight for name, (_value, weight) in losses.items()} == dict(cgkd_fake=10, diversity_adapter=3,
                                                                               diversity_anchor=7)


# -- centring

def test_centring_by_hand():
    """Similarities 1, 2, 6 have the mean 3: the row is (-2, -1, 3) / sqrt(14)."""
    texts = torch.tensor([[1.], [2], [6]])
    torch.testing.assert_close(cgkd.image_text_correlation(torch.tensor([[2.]]), texts, center=True),
                               torch.tensor([[-2., -1, 3]]) / 14 ** 0.5)


def test_centring_tells_nearly_parallel_rows_apart():
    """Similarities of 0.22 with a spread of 0.02, as CLIP's, have cosines of 0.99; without their mean they are
    unrelated."""
    corr = 0.22 + 0.02 * rand(50, 40)
    raw, centred = [cgkd.image_text_correlation(corr, torch.eye(40), center) for center in (False, True)]
    assert diversity.mean_pairwise_cosine(raw) > 0.98 and abs(diversity.mean_pairwise_cosine(centred)) < 0.05


@pytest.mark.parametrize('pd', diversity.READINGS)
def test_centring_reaches_distillation_and_diversity(teacher, pd):
    phase = 'Gmain' if pd == 'generator' else 'Dmain'
    values = []
    for center in (False, True):
        G, D, kd, loss = setup(teacher, ('cgkd',), pd=pd, center=center)
        collector = training_stats.Collector('.*KD/.*')
        step(loss, phase, G, D, kd)
        collector.update()
        values.append({name: collector.mean(name) for name in collector.names() if collector.num(name) > 0})
    plain, centred = values
    moved = {name for name in plain if plain[name] != pytest.approx(centred[name])}
    untouched = {'Loss/KD/diversity_anchor', 'KD/agreement_fake', 'KD/agreement_real'}         # no correlations
    assert plain.keys() == centred.keys() and moved == plain.keys() - untouched
