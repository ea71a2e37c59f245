"""APA: its p against the rule, the share and origin of the replaced images, in both D phases, with labels and
micro-batches."""

import copy

import pytest
import torch
from conftest import parse_options
from tiny_gan import RES, N, batch, make_loss, nets, run

import train
from dnnlib import EasyDict, UserError
from kd_plugin.distillers.settings import PRESETS
from kd_plugin.loss import Distillation
from kd_plugin.teacher import load_teacher
from torch_utils import training_stats
from training.loss_terms import Step, Term
from training.methods.apa import METHOD, AdaptivePseudoAugmentation


def record(n, value, c, round_idx=0, gen=None):
    img = torch.full([n, 3, 2, 2], float(value))
    return Step(img, torch.full([n, 2], float(c)), torch.arange(n), torch.zeros(n, 8),
                torch.full([n, 2], 10.0 + c), round_idx,
                gen_img=None if gen is None else torch.full([n, 3, 2, 2], float(gen)))


def test_share_origin_and_labels_of_the_replaced_images():
    """p = 0.3 of 20000: within four standard deviations; each image is whole, from its own micro-batch, with the fake's
    label."""
    term = AdaptivePseudoAugmentation(batch_size=4)
    term.p.fill_(0.3)
    for round_idx in (0, 1):
        term.g_main(record(10000, 0, 1, round_idx, gen=5 + round_idx))
    torch.manual_seed(0)
    for round_idx in (0, 1):
        for _phase in ('Dmain', 'Dreg'):
            step = record(10000, -1, 1, round_idx)
            term.replace_reals(step)
            assert step.pseudo.float().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 10000) ** 0.5)
            assert (step.real_img[step.pseudo] == 5 + round_idx).all() and (step.real_img[~step.pseudo] == -1).all()
            assert (step.real_c[step.pseudo] == 11).all() and (step.real_c[~step.pseudo] == 1).all()


def test_p_follows_the_rule_and_stays_within_bounds():
    """Every 4 iterations by 4 batches in 500 kimg, up while more than 80 % of the reals count as real, never below 0 or
    above 1."""
    term = AdaptivePseudoAugmentation(batch_size=50)
    term.bind(None)
    signs = lambda mean: training_stats.report('Loss/signs/real', torch.tensor([mean] * 4))
    step = 4 * 50 / 500_000
    values = []
    for i, mean in enumerate([0.0] * 4 + [1.0] * 12 + [0.5] * 4):
        signs(mean)
        term.finish_step(i)
        values.append(term.p.item())
    assert values[3] == 0 and values[7::4] == pytest.approx([step, 2 * step, 3 * step, 2 * step])
    term.p.fill_(1 - step / 2)
    for i in range(4):
        signs(1.0)
        term.finish_step(i)
    assert term.p.item() == 1


def test_several_steps_of_d_for_one_of_g():
    """As StudioGAN has it for BigGAN: p moves after four steps of G by the signs of all 16 steps of D, and by their
    number of reals. Here 12 have a mean of 0.9 and 4 of 0, 0.675 in all, above 0.6; the last four alone are below."""
    term = AdaptivePseudoAugmentation(batch_size=50, interval=16)
    term.bind(None)
    for i, mean in enumerate([0.9] * 12 + [0.0] * 4):
        training_stats.report('Loss/signs/real', torch.tensor([mean] * 50))
        term.finish_step(i)
        assert i == 15 or term.p.item() == 0
    assert term.p.item() == pytest.approx(16 * 50 / 500_000)


def test_the_fakes_of_the_d_step_itself_keep_the_labels_of_the_reals():
    """Where they are there before the reals are replaced; those of the last step of G are not shown again."""
    term = AdaptivePseudoAugmentation(batch_size=4)
    term.g_main(record(1000, 0, 1, gen=5))
    term.p.fill_(0.5)
    step = record(1000, -1, 1, gen=7)
    step.real_c = torch.arange(2000.0).unflatten(0, [1000, 2])
    labels = step.real_c.clone()
    term.replace_reals(step)
    assert 400 < step.pseudo.sum() < 600 and torch.equal(step.real_c, labels)
    assert (step.real_img[step.pseudo] == 7).all() and (step.real_img[~step.pseudo] == -1).all()
    assert (step.gen_img == 7).all()


def test_pending_signs_are_part_of_the_state():
    """Saved after 2 of 4 iterations, another one goes on as if nothing had happened."""
    first, second = AdaptivePseudoAugmentation(batch_size=50), AdaptivePseudoAugmentation(batch_size=50)
    first.bind(None)
    for i, mean in enumerate([1.0, 1.0]):
        training_stats.report('Loss/signs/real', torch.tensor([mean] * 30))
        first.finish_step(i)
    second.bind(None)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for term in (first, second):
        term.finish_step(2)
    training_stats.report('Loss/signs/real', torch.tensor([0.0] * 4))           # alone it would move p down
    for term in (first, second):
        term.finish_step(3)
    assert first.p == second.p > 0


class Watch(Term):
    """What D is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def prepare(self, step):
        self.seen.append((step.real_img.detach().clone(), step.pseudo))


@pytest.mark.parametrize('phase', ['Dmain', 'Dreg', 'Dboth'])
def test_both_d_phases_see_the_images_of_the_g_phase(phase):
    """At p = 1 R1 and the main loss equal those of a plain loss on the generated images; at p = 0 those on the real
    ones."""
    n = nets()
    watch, term = Watch(), AdaptivePseudoAugmentation(batch_size=N)
    loss = make_loss(n, terms=dict(apa=term, watch=watch), pl_weight=0)
    run(n, loss, 'Gmain', gen_z=batch(seed=9)['gen_z'])
    generated = term.bank[0][0]
    assert generated.shape == (N, 3, RES, RES) and not generated.requires_grad
    for p, images in ((1.0, generated), (0.0, batch()['real_img'])):
        term.p.fill_(p)
        torch.manual_seed(0)
        got = run(n, loss, phase)
        torch.manual_seed(0)
        torch.rand([N])                                         # APA's draw
        want = run(n, make_loss(n, pl_weight=0), phase, real_img=images)
        for name in want:
            torch.testing.assert_close(got[name], want[name])
        if phase != 'Dreg':
            assert torch.equal(watch.seen[-1][0], images) and (watch.seen[-1][1] == bool(p)).all()


def test_teacher_features_are_those_of_the_image_fed():
    """With a cache by number, distillation must not take the feature of the real image that was replaced."""
    teacher = load_teacher('demo')
    n = nets()
    real = batch()['real_img']
    kd = Distillation(teacher, n.D.feature_dim, ('agkd',), [], PRESETS['paper'], cache=teacher.encode_image(real))
    embedded = []
    kd.d_real = lambda step: embedded.append((step.kept['real'], step.real_img.detach())) or {}
    term = AdaptivePseudoAugmentation(batch_size=N)
    loss = make_loss(n, terms=dict(apa=term, kd=kd))
    term.p.fill_(0.5)
    run(n, loss, 'Gmain', gen_z=batch(seed=9)['gen_z'])
    torch.manual_seed(2)
    loss.start_step(0)
    run(n, loss, 'Dmain', real_idx=torch.arange(N))
    feats, fed = embedded[0]
    replaced = (fed != real).flatten(1).any(dim=1)
    assert 0 < replaced.sum() < N
    torch.testing.assert_close(feats, teacher.encode_image(fed))


def test_options(tiny_data):
    build = lambda *args: train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--device=cpu', *args))
    config, name = build('--apa', '--apa-target=0.5', '--batch=8', '--batch-gpu=4')
    assert config.terms == dict(apa=dict(class_name='training.methods.apa.AdaptivePseudoAugmentation', batch_size=8,
                                         target=0.5))
    one_pass = EasyDict(loss_kwargs=dict(one_pass=True), batch_size=50, D_steps=4, D_first=True, ada_interval=16)
    assert METHOD.configure(EasyDict(init_from=None), one_pass, None) == dict(batch_size=50, interval=16)
    with pytest.raises(UserError, match='--apa: shows D the fakes of the G step .* one in 4 iterations; leave it out'):
        METHOD.configure(EasyDict(init_from=None, cfg='x'), EasyDict(one_pass, loss_kwargs={}), None)
    with pytest.raises(UserError, match='--cfg=x takes it after those of D; leave it out'):
        METHOD.configure(EasyDict(init_from=None, cfg='x'), EasyDict(one_pass, loss_kwargs={}, D_steps=1, D_first=True),
                         None)
    assert build('--apa', '--init-from=x')[0].terms['apa']['kimg'] == build('--init-from=x')[0].ada_kimg == 100
    assert name == 'tiny-auto1-batch8-apa-target0.5'
