"""The share of distillation in D's gradient against brute force, and what scales its weights."""

import copy
import math

import pytest
import torch
from kd_toys import RES, N, setup, step, toy_teacher
from resuming import differences, run
from small_runs import KD, make_config

from kd_plugin import loss as loss_module
from kd_plugin import weighting
from kd_plugin.distillers.heads import HEADS
from kd_plugin.distillers.settings import PRESETS, Preset
from torch_utils import training_stats
from training.networks import DiscriminatorFeatures
from training.speed.compiling import compile_main_phases


@pytest.fixture(scope='module')
def teacher():
    return toy_teacher()


# -- the share

def reals(classes=0):
    rng = torch.Generator().manual_seed(5)
    real, z = torch.rand(N, 3, RES, RES, generator=rng) * 2 - 1, torch.randn(N, 8, generator=rng)
    return real, z, torch.eye(N)[:, :classes]


def brute_force(G, D, kd, classes):
    """Through all of D: AGKD with the exchanged pairs plus CGKD on fakes, and the logistic loss."""
    real, z, c = reals(classes)
    torch.manual_seed(11)
    with torch.no_grad():
        fake = G(z, c)
        i_real, i_fake = kd.teacher.encode_image(real), kd.teacher.encode_image(fake)
    texts = kd.methods['cgkd'].text_feats
    rows = lambda feats: (feats @ texts.t()) / (feats @ texts.t()).norm(dim=1, keepdim=True)
    squares = [0, 0]
    for img, sign, own, other, correlate in [(fake, 1, i_fake, i_real, 10), (real, -1, i_real, i_fake, 0)]:
        logits, features = D(img.requires_grad_(True), c, return_features=True)
        student = kd.head(features.epilogue)
        distil = 0.44 * ((student - own).abs().sum() + (student - other).abs().sum()) / N
        distil = distil + correlate * (rows(own) - rows(student)).abs().sum() / N
        for i, loss in enumerate([distil, torch.log1p((sign * logits).exp()).sum() / N]):
            grad, = torch.autograd.grad(loss, features.epilogue, retain_graph=True)
            squares[i] += grad.square().sum().item()
    return math.sqrt(squares[0] / squares[1])


def reported(name, act):
    """Mean of a statistic while `act()` runs."""
    collector = training_stats.Collector(name, keep_previous=False)
    act()
    collector.update()
    return collector.mean(name)


def measured(loss, G, D, kd, classes=0, rounds=1, phase='Dmain'):
    """The statistic of a step in so many micro-batches."""
    def act():
        real, z, c = reals(classes)
        D.requires_grad_(True)
        kd.requires_grad_(True)
        loss.start_step(0)
        for part in zip(*[x.split(N // rounds) for x in (real, c, z, c)], strict=True):
            torch.manual_seed(11)
            loss.accumulate_gradients(phase, *part, gain=1 / rounds)
        loss.finish_step(0)
        D.requires_grad_(False)
    return reported('KD/gradient_share', act)


@pytest.mark.parametrize('classes', [0, 3])
def test_the_share_equals_brute_force(teacher, classes):
    """Also with labels, on which the logit is projected, and with R1 in the same pass."""
    G, D, kd, loss = setup(teacher, p=1.0, pd='off', c_dim=classes)
    want = brute_force(G, D, kd, classes)
    assert want > 1
    for phase in ('Dmain', 'Dboth'):
        assert measured(loss, G, D, kd, classes, phase=phase) == pytest.approx(want, rel=1e-5)


def test_the_share_does_not_depend_on_micro_batches_or_on_the_compiler(teacher, monkeypatch):
    """Samples do not see each other here: without minibatch statistics, and with the mean over the batch."""
    G, D, kd, loss = setup(teacher, ('agkd',), p=1.0)
    monkeypatch.setattr(D.b4.mbstd, 'group_size', 1)
    whole = measured(loss, G, D, kd)
    assert measured(loss, G, D, kd, rounds=2) == pytest.approx(whole, rel=1e-5)
    monkeypatch.setattr(torch, 'compile', lambda network, dynamic: compiled(network))
    compile_main_phases(loss, N, pytest.fail)
    assert measured(loss, G, D, kd) == pytest.approx(whole, rel=1e-5)


def compiled(network):
    """As a compiled network does, hides what its results have in common."""
    class OneNode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, run, x, *params):
            ctx.inputs = [t.detach().requires_grad_(t.requires_grad) for t in (x, *params)]
            with torch.enable_grad():
                ctx.results = run(ctx.inputs[0])
            return tuple(result.detach() for result in ctx.results)

        @staticmethod
        def backward(ctx, *grads):
            needed = [t for t in ctx.inputs if t.requires_grad]
            found = iter(torch.autograd.grad(ctx.results, needed, grads, allow_unused=True))
            return None, *[next(found) if t.requires_grad else None for t in ctx.inputs]

    def call(img, c=None, return_features=False):
        if not return_features:
            return network(img)

        def run(x):
            logits, features = network(x, c, return_features=True)
            return logits, features.trunk, features.epilogue
        logits, trunk, epilogue = OneNode.apply(run, img, *network.parameters())
        return logits, DiscriminatorFeatures(trunk, epilogue, None)
    return call


# -- the factors

def test_schedule_by_hand():
    settings = PRESETS['paper']._replace(warmup=2, decay=10, decay_to=0.25)
    values = [weighting.schedule(t, settings) for t in (0, 1, 2, 7, 9.5, 30)]
    assert values == pytest.approx([0, 0.5, 1, 0.5, 0.25, 0.25])
    assert [weighting.schedule(t, settings._replace(decay_to=0)) for t in (7, 12, 30)] == pytest.approx([0.5, 0, 0])
    assert [weighting.schedule(t, PRESETS['paper']) for t in (0, 100)] == [1, 1]


def test_calibration_by_hand():
    """Norms at factor 1 of 8 and 2 to 1 and 1, 600 images each: after both share * 2 / 10, for good."""
    calibration = weighting.Calibration(0.5, 600, 'x')
    assert calibration.factor().item() == pytest.approx(0.001)
    note = lambda kd, adv, factor: calibration.note(torch.tensor([kd, adv]), torch.tensor(factor))
    note(0.008, 1, 0.001)
    assert calibration.factor().item() == pytest.approx(0.5 * 1 / 8)
    note(0.0, 1, 0.0)                                   # the first step of a warm-up
    note(math.nan, 1, 1.0)
    note(1, math.inf, 1.0)
    assert calibration.factor().item() == pytest.approx(0.5 * 1 / 8)
    note(0.125, 1, 0.0625)
    assert calibration.factor().item() == pytest.approx(0.5 * 2 / 10)
    note(100, 1, 0.1)
    assert calibration.factor().item() == pytest.approx(0.1)
    assert weighting.Calibration(1e9, 1, 'x').factor() == pytest.approx(0.001)


@pytest.mark.parametrize('changed, keeps', [
    ({}, True), (dict(warmup=5.0, share=0.5, adapt=0.6), True), (dict(weight_cgkd=1.0), False),
    (dict(target_norm='unit'), False), (dict(methods=('agkd',)), False), (dict(teacher='other'), False)])
def test_a_fork_measures_anew_what_it_distils_otherwise(teacher, changed, keeps):
    settings = {**dict(batch_size=N, share=0.1), **changed}
    of_fork = toy_teacher()
    of_fork.identity += settings.pop('teacher', '')
    old, new = setup(teacher, batch_size=N, share=0.1)[2].weighting, setup(of_fork, **settings)[2].weighting
    old.calibration.sums.copy_(torch.tensor([1.0, 2.0, 3.0]))
    new.load_state_dict({**new.state_dict(), **old.state_dict()})
    assert new.calibration.sums.tolist() == ([1, 2, 3] if keeps else [0, 0, 0])
    new.calibration.sums += 1
    saved = copy.deepcopy(new.state_dict())
    new.calibration.sums += 1
    new.load_state_dict(saved)                                              # its own state, as a continued run has it
    assert new.calibration.sums.tolist() == ([2, 3, 4] if keeps else [1, 1, 1])


def test_a_weight_is_the_same_however_it_is_spelled():
    """A preset has 10 where an option gives 10.0."""
    calibrated = lambda settings: repr(loss_module._as_calibrated(settings))
    paper = PRESETS['paper']
    assert calibrated(paper._replace(weight_cgkd=10.0, p=0.7)) == calibrated(paper)
    assert calibrated(paper._replace(weight_cgkd=10.5)) != calibrated(paper)


def test_a_calibration_of_before_goes_on(teacher, monkeypatch):
    """In a state without a source, and after a setting was added to the table, which is off."""
    weights = lambda: setup(teacher, batch_size=N, share=0.1)[2].weighting
    old = weights()
    old.calibration.sums.copy_(torch.tensor([1.0, 2.0, 3.0]))
    saved = old.state_dict()
    monkeypatch.setattr(loss_module.Preset, '_asdict', lambda self, usual=Preset._asdict: dict(usual(self), later=0))
    monkeypatch.setattr(loss_module.Preset, '_field_defaults', dict(Preset._field_defaults, later=0))
    for state in (saved, {name: value for name, value in saved.items() if not name.endswith('source')}):
        new = weights()
        new.load_state_dict(state)
        assert new.calibration.sums.tolist() == [1, 2, 3]
        assert new.calibration.source == weights().calibration.source


def test_calibration_has_limits():
    for adv, want in ((1e-6, 1e-3), (1e6, 1e3)):
        calibration = weighting.Calibration(0.5, 600, 'x')
        calibration.note(torch.tensor([1, adv]), torch.tensor(1.0))
        assert calibration.factor().item() == pytest.approx(want)


def test_need_by_hand():
    """Steps of 1000 images: not before 20 kimg; then every fourth moves e by 4 / 500, within [-1, 1]."""
    need = weighting.Need(target=0.6, batch_size=1000)
    need.bind()
    values = []
    for i, signs in enumerate([[1.0] * 5] * 20 + [[1.0] * 5] * 8 + [[1.0, 1, 1, -1, -1]] * 4):        # r = 1, then 0.2
        training_stats.report('Loss/signs/real', torch.tensor(signs))
        need.update(i, 1000 * i)
        values.append(need.factor().item())
    assert values[:20] == [1] * 20
    assert values[23::4] == pytest.approx([10 ** 0.008, 10 ** 0.016, 10 ** 0.008], rel=1e-4)
    for p, want in ((0.0, 0.1), (1.0, 10.0)):
        need.p.fill_(p)
        assert need.factor().item() == pytest.approx(want)


def test_the_share_is_held_and_the_ratio_of_the_terms_kept(teacher):
    """After a first step at a thousandth the gradient is 0.3 of the adversarial one, term by term in proportion."""
    G, D, kd, loss = setup(teacher, p=1.0, share=0.3, batch_size=N)
    at_one = setup(teacher, p=1.0)
    want = reported('Loss/KD/agkd_fake', lambda: measured(at_one[3], *at_one[:3])), measured(at_one[3], *at_one[:3])
    assert measured(loss, G, D, kd) == pytest.approx(want[1] / 1000, rel=1e-4)
    assert measured(loss, G, D, kd) == pytest.approx(0.3, rel=1e-4)
    assert reported('KD/weight_factor', lambda: measured(loss, G, D, kd)) == pytest.approx(0.3 / want[1], rel=1e-4)
    of_agkd = reported('Loss/KD/agkd_fake', lambda: measured(loss, G, D, kd))
    assert of_agkd == pytest.approx(want[0] * 0.3 / want[1], rel=1e-4)


def test_the_g_step_follows_the_schedule_alone(teacher):
    """--kd-share is about D: diversity through the generator keeps its weight."""
    loss_of = lambda nimg, **settings: reported('Loss/KD/diversity_generator', lambda: (lambda G, D, kd, loss: step(
        loss, 'Gmain', G, D, kd, cur_nimg=nimg))(*setup(teacher, ('cgkd',), pd='generator', **settings)))
    plain = loss_of(0)
    assert plain > 0
    assert loss_of(0, share=0.1, adapt=0.6, batch_size=N) == pytest.approx(plain)
    assert loss_of(5000, decay=20.0) == pytest.approx(0.75 * plain)


@pytest.mark.parametrize('settings, names', [
    ({}, set()), (dict(share=0.1), {'calibration.sums', 'calibration.source'}),
    (dict(adapt=0.6), {'need.p', 'need._extra_state'})])
def test_what_is_off_leaves_nothing_in_the_state(teacher, settings, names):
    """States of before can be continued."""
    _G, _D, kd, _loss = setup(teacher, batch_size=N, **settings)
    assert {name for name in kd.state_dict() if 'head' not in name} == {f'weighting.{name}' for name in names}


def test_learning_rate_of_the_head(teacher):
    """The same function of the same draw, moved by a step of Adam as far as lr times the factor."""
    moved = []
    for factor in (1, 4):
        torch.manual_seed(0)
        head = HEADS['linear'](16, 24, lr_multiplier=factor)
        opt = torch.optim.Adam(head.parameters(), lr=0.01, betas=(0.0, 0.99))
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
        before = head(x)
        head(x).square().sum().backward()
        opt.step()
        moved.append((before.detach(), (head(x) - before).detach()))
    torch.testing.assert_close(moved[1][0], moved[0][0])
    torch.testing.assert_close(moved[1][1], 4 * moved[0][1], rtol=1e-3, atol=1e-4)
    assert setup(teacher, head_lr=4.0)[2].head.bias_gain == 4


# -- whole runs

def test_a_run_in_parts_is_the_whole_run(tiny_data, tmp_path, monkeypatch):
    """Cut off within the calibration, with signs that wait for --kd-adapt."""
    monkeypatch.setattr(weighting, 'CALIBRATION_NIMG', 30)
    monkeypatch.setattr(weighting, 'ADAPT_START_NIMG', 8)
    options = ['--batch=8', *KD, '--kd-share=0.2', '--kd-adapt=0.6', '--kd-target-norm=channel', '--kd-decay=1',
               '--kd-head-lr=2']
    config = make_config(tiny_data, *options, total_kimg=0.04, kimg_per_tick=0.016)
    last = run(config, tmp_path / 'whole')
    run(config, tmp_path / 'parts', save_at=3, die_at=4)
    run(config, tmp_path / 'parts')
    assert differences(tmp_path / 'whole', tmp_path / 'parts') == []
    kd = last.training.loss.terms['kd'].weighting
    assert kd.calibration.sums[2] == 32 and kd.need.p != 0.5 and 1e-3 < kd.calibration.factor() < 1e3
