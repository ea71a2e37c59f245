import math
from types import SimpleNamespace

import pytest
import torch
from tiny_gan import RES, N, batch, gradients, make_loss, nets, run

from torch_utils import training_stats
from training.loss import StyleGAN2Loss
from training.loss_terms import Term
from training.methods.apa import AdaptivePseudoAugmentation
from training.methods.insgen import InsGen


def close(got, want, **tolerance):
    assert got.keys() == want.keys()
    for name in got:
        torch.testing.assert_close(got[name], want[name], **tolerance)


def test_two_pass_d_step_equals_one_pass():
    """log(1 + exp(D(fake))) + log(1 + exp(-D(real))), written out and differentiated at once."""
    n = nets()
    for name, p in n.G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.zero_()                      # the two passes need not draw the same noise
    got = run(n, make_loss(n), 'Dmain')
    b = batch()
    n.D.requires_grad_(True)
    for p in n.D.parameters():
        p.grad = None
    fake, real = n.D(n.G(b['gen_z'], None), None), n.D(b['real_img'], None)
    (torch.log1p(fake.exp()).mean() + torch.log1p((-real).exp()).mean()).backward()
    close(got, gradients(n.D))


def test_a_phase_of_regularisation_alone_has_no_main_loss():
    """Of a loss that has fakes and reals in one pass, too."""
    n = nets()
    for settings in (dict(), dict(one_pass=True)):
        assert not any(grad.any() for grad in run(n, make_loss(n, r1_gamma=0, **settings), 'Dreg').values())
        assert any(grad.any() for grad in run(n, make_loss(n, r1_gamma=0, **settings), 'Dmain').values())


def test_one_pass_has_nothing_to_regularise():
    """Without R1 a lazy phase does nothing, as without `one_pass`; terms are not asked for reals, nor G for fakes."""
    n = nets()
    loss = make_loss(n, r1_gamma=0, one_pass=True, terms=dict(apa=AdaptivePseudoAugmentation(batch_size=N)))
    loss.run_G = loss.run_D = lambda *args: pytest.fail('a network is run')
    assert run(n, loss, 'Dreg') == {}


def test_average_w_survives_latents_that_are_no_numbers():
    mapping, b = nets().G.mapping, batch()
    mapping(b['gen_z'], None)
    before = mapping.w_avg.clone()
    mapping(b['gen_z'] * float('nan'), None)
    assert torch.equal(mapping.w_avg, before) and before.abs().max() > 0


def test_merged_phase_is_the_sum_of_its_parts():
    n = nets()
    main, reg, both = [run(n, make_loss(n, pl_weight=0), phase) for phase in ('Dmain', 'Dreg', 'Dboth')]
    close(both, {name: main[name] + reg.get(name, 0) for name in main}, rtol=1e-4, atol=1e-6)


def test_r1_of_a_linear_critic():
    """D(x) = <a, x> has gradient a everywhere: the penalty is gamma / 2 * |a|^2 and its gradient gamma * a."""
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.randn(3, RES, RES))

        def forward(self, img, c):
            return (img * self.a).sum([1, 2, 3])[:, None]
    n = SimpleNamespace(G=nets().G, D=Linear())
    grads = run(n, make_loss(n, r1_gamma=5), 'Dreg', gain=16)
    torch.testing.assert_close(grads['a'], 16 * 5 * n.D.a.detach())


def test_r1_goes_through_the_augmentation_to_the_clean_image():
    """An augmentation that doubles the image doubles the gradient: four times the penalty."""
    n = nets()
    collector = training_stats.Collector('Loss/r1_penalty')
    values = []
    for pipe in (None, lambda img: img, lambda img: img.roll(3, 3)):
        run(n, make_loss(n, augment_pipe=pipe), 'Dreg', real_img=torch.zeros(N, 3, RES, RES))
        collector.update()
        values.append(collector.mean('Loss/r1_penalty'))
    assert values[1] == pytest.approx(values[0]) == pytest.approx(values[2], rel=0.5)
    run(n, make_loss(n, augment_pipe=lambda img: img * 2), 'Dreg', real_img=torch.zeros(N, 3, RES, RES))
    collector.update()
    assert collector.mean('Loss/r1_penalty') == pytest.approx(4 * values[0], rel=1e-4)


def test_path_length_of_a_linear_synthesis():
    """img = sum over layers of ws @ A: the Jacobian is A for each layer, so the length is |noise @ A^T| / sqrt(pixels)
    whatever ws is."""
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(torch.randn(8, 3 * RES * RES))

        def forward(self, ws):
            return (ws.sum(1) @ self.A).reshape(-1, 3, RES, RES)
    n = nets()
    n.G.mapping.requires_grad_(True)
    synthesis = Linear()
    loss = StyleGAN2Loss('cpu', n.G.mapping, synthesis, n.D, style_mixing_prob=0, pl_weight=2, pl_decay=0.25)
    collector = training_stats.Collector('Loss/pl_penalty')
    torch.manual_seed(3)
    noise = torch.randn(N // 2, 3, RES, RES)
    torch.manual_seed(3)
    loss.accumulate_gradients(phase='Greg', gain=1, **batch())
    lengths = (noise.flatten(1) / RES @ synthesis.A.detach().t()).norm(dim=1)
    collector.update()
    assert loss.pl_mean.item() == pytest.approx(0.25 * lengths.mean().item(), rel=1e-4)
    assert collector.mean('Loss/pl_penalty') == pytest.approx((lengths - loss.pl_mean).square().mean().item(), rel=1e-4)
    assert synthesis.A.grad.abs().max() > 0


def test_generator_loss_and_who_receives_gradients():
    n = nets()
    collector = training_stats.Collector('Loss/.*')
    grads = run(n, make_loss(n), 'Gmain')
    collector.update()
    assert all(g.isfinite().all() for g in grads.values()) and grads
    assert all(p.grad is None for p in n.D.parameters())
    logit = collector.mean('Loss/scores/fake')
    # Jensen: equal up to the spread
    assert collector.mean('Loss/G/loss') == pytest.approx(math.log1p(math.exp(-logit)), rel=0.05)
    run(n, make_loss(n), 'Dmain')
    assert all(p.grad is None or name in grads for name, p in n.G.named_parameters())


@pytest.mark.parametrize('phase, kwargs', [('Greg', dict(pl_weight=0)), ('Dreg', dict(r1_gamma=0))])
def test_a_regularisation_without_weight_does_nothing(phase, kwargs):
    n = nets()
    assert run(n, make_loss(n, **kwargs), phase) == {}


def test_the_average_of_w_counts_each_latent_of_a_batch_once():
    """Not those that style mixing draws in addition."""
    n = nets()
    mean = n.G.mapping(batch()['gen_z'], None, skip_w_avg_update=True)[:, 0].mean(dim=0)
    run(n, make_loss(n, style_mixing_prob=1.0), 'Gmain')
    torch.testing.assert_close(n.G.mapping.w_avg, mean * (1 - n.G.mapping.w_avg_beta))


def test_what_is_reported_of_d_is_its_whole_loss():
    """log(1 + exp(D(fake))) + log(1 + exp(-D(real))), image by image."""
    n = nets()
    for name, p in n.G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.zero_()
    collector = training_stats.Collector('Loss/D/loss')
    run(n, make_loss(n), 'Dmain', gain=3)
    collector.update()
    b = batch()
    fake, real = n.D(n.G(b['gen_z'], None), None), n.D(b['real_img'], None)
    want = torch.log1p(fake.exp()) + torch.log1p((-real).exp())
    assert collector.num('Loss/D/loss') == N
    assert collector.mean('Loss/D/loss') == pytest.approx(want.mean().item(), rel=1e-4)
    assert collector.std('Loss/D/loss') == pytest.approx(want.std(correction=0).item(), rel=1e-3)


def test_style_mixing_swaps_the_tail_of_the_latents():
    n = nets()
    loss = make_loss(n, style_mixing_prob=1.0)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        _img, ws = loss.run_G(batch()['gen_z'], torch.zeros(N, 0))
        plain = n.G.mapping(batch()['gen_z'], None, skip_w_avg_update=True)
        same = (ws == plain).all(dim=2).all(dim=0).tolist()
        cutoff = same.index(False)
        assert not any(same[cutoff:])
        seen.add(cutoff)
    assert seen == set(range(1, n.G.num_ws))


def names_of(rows):
    """Something to recognise images or latents [N, ...] by."""
    return [tuple(row.flatten()[:8].tolist()) for row in rows.detach()]


@pytest.mark.parametrize('methods', [{}, dict(apa=AdaptivePseudoAugmentation), dict(insgen=InsGen)], ids='-'.join)
def test_every_image_is_made_and_judged_under_its_own_label(methods):
    """In all phases, by D and by copies of it; the labels of reals and of fakes differ, from row to row, too."""
    n, label_of, judged = nets(c_dim=3), {}, []
    arguments = dict(apa=dict(batch_size=N), insgen=dict(queue=12))
    loss = make_loss(n, style_mixing_prob=1.0, terms={name: term(**arguments[name]) for name, term in methods.items()})
    args = dict(batch(), real_c=torch.eye(3)[[0, 1, 2, 0]], gen_c=torch.eye(3)[[1, 2, 0, 2]])
    gen_c = args['gen_c'].tolist()
    remember = lambda rows, c: label_of.update(zip(names_of(rows), c.tolist(), strict=True))
    remember(args['real_img'], args['real_c'])
    remember(args['gen_z'], args['gen_c'])
    run_G, mapping = loss.run_G, n.G.mapping.forward

    def make(z, c, *synthesis):
        img, ws = run_G(z, c, *synthesis)
        remember(img, c)
        return img, ws

    def map_latents(z, c, **kwargs):
        assert c.tolist() == gen_c[:len(z)]
        assert all(label_of.get(name, label) == label for name, label in zip(names_of(z), c.tolist(), strict=True))
        return mapping(z, c, **kwargs)

    def judging(forward):
        def judge(img, c, **kwargs):
            judged.append([label_of[name] for name in names_of(img)])
            assert judged[-1] == c.tolist()
            return forward(img, c, **kwargs)
        return judge
    loss.run_G, n.G.mapping.forward = make, map_latents
    for D in [n.D, *[term.slow_D for term in loss.terms.values() if hasattr(term, 'slow_D')]]:
        D.forward = judging(D.forward)
    if 'apa' in loss.terms:
        loss.terms['apa'].p.fill_(0.5)
    for phase in ('Gmain', 'Greg', 'Dmain', 'Dreg', 'Gboth', 'Dboth'):
        loss.start_step(0)
        if phase[0] == 'D':
            run(n, loss, 'Gmain', **args)               # APA's images
        run(n, loss, phase, **args)
    plain = gen_c, args['real_c'].tolist()
    assert len(judged) > 8 and any(labels not in plain for labels in judged) == ('apa' in methods)


def test_lines_to_print_are_of_one_term():
    with pytest.raises(AttributeError):
        Term().notes.append('of all terms')


class Recorder(Term):
    """A term with a parameter that notes which hooks saw what."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones([]))
        self.calls = []

    def start_step(self, cur_nimg):
        self.calls.append(('start', cur_nimg))

    def prepare(self, step):
        assert step.gen_aug is not None and step.real_aug is not None and not step.gen_img.requires_grad
        step.kept['mean'] = step.gen_img.mean()
        self.calls.append('prepare')

    def d_fake(self, step):
        self.calls.append('d_fake')
        return {'recorder_fake': self.scale * step.features.epilogue.square().mean(1)}

    def d_real(self, step):
        self.calls.append('d_real')
        return {'recorder_real': self.scale * step.features.epilogue.square().mean(1) + step.kept['mean']}

    def g_main(self, step):
        assert step.gen_img.requires_grad
        self.calls.append('g_main')
        return {}


@pytest.mark.parametrize('phase, calls', [('Gmain', ['g_main']), ('Greg', []),
                                          ('Dmain', ['prepare', 'd_fake', 'd_real']), ('Dreg', []),
                                          ('Dboth', ['prepare', 'd_fake', 'd_real'])])
def test_terms_act_in_main_phases_only(phase, calls):
    n = nets()
    term = Recorder()
    loss = make_loss(n, terms=dict(recorder=term))
    loss.start_step(77)
    run(n, loss, phase)
    assert term.calls == [('start', 77), *calls]
    assert (term.scale.grad is not None) == ('d_fake' in calls)


def test_what_a_term_returns_is_added_and_reported():
    n = nets()
    collector = training_stats.Collector('Loss/recorder.*')
    with_term, without = [run(n, make_loss(n, terms=terms), 'Dmain', gain=2)
                          for terms in (dict(recorder=Recorder()), None)]
    collector.update()
    assert collector.num('Loss/recorder_fake') == collector.num('Loss/recorder_real') == N
    assert not torch.allclose(with_term['b4.fc.weight'], without['b4.fc.weight'])
    # The readout does not see the term
    torch.testing.assert_close(with_term['b4.out.weight'], without['b4.out.weight'])


def test_state_holds_pl_mean_and_terms():
    n = nets()
    loss, other = [make_loss(n, terms=dict(recorder=Recorder())) for _ in range(2)]
    run(n, loss, 'Greg')
    loss.terms['recorder'].scale.data.fill_(5)
    other.load_state_dict({name: value.clone() for name, value in loss.state_dict().items()})
    assert other.pl_mean == loss.pl_mean != 0
    assert other.terms['recorder'].scale == 5


def test_unknown_phase():
    with pytest.raises(ValueError, match="phase is 'Gextra', it must be one of Gmain"):
        make_loss(nets()).accumulate_gradients('Gextra', gain=1, **batch())
