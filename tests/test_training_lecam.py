"""LeCam: values by hand, averages over micro-batches, the start, what is refused."""

import pytest
import torch
from conftest import parse_options
from tiny_gan import batch, make_loss, nets, run

import train
from dnnlib import EasyDict, UserError
from torch_utils import distributed, training_stats
from training.loss_terms import Step
from training.methods.lecam import METHOD, LeCam


def step_with(logits):
    return Step(None, None, None, None, None, logits=torch.tensor(logits)[:, None])


def play(term, reals, fakes, cur_nimg=0):
    """One step of micro-batches. -> losses for fakes and reals of the last one."""
    term.start_step(cur_nimg)
    for real, fake in zip(reals, fakes, strict=True):
        losses = {**term.d_fake(step_with(fake)), **term.d_real(step_with(real))}
    term.finish_step(0)
    return losses


def test_by_hand():
    term = LeCam(weight=2.0, decay=0.9)
    first = play(term, [[1.0, 3.0]], [[-1.0, -2.0]])
    assert all((value == 0).all() for value in first.values())              # nothing is known of the averages yet
    assert [x.item() for x in term.anchors()] == pytest.approx([2.0, -1.5])             # rid of the start at zero
    second = play(term, [[-2.0, 4.0]], [[0.5, 3.0]])
    assert second['LeCam/fake'].tolist() == pytest.approx([2 * 1.5 ** 2, 0])            # relu(2 - D)^2
    assert second['LeCam/real'].tolist() == pytest.approx([0, 2 * 5.5 ** 2])            # relu(D + 1.5)^2
    real, fake = [x.item() for x in term.anchors()]
    assert real == pytest.approx((0.9 * 2 + 1 * 1) / 1.9) and fake == pytest.approx((0.9 * -1.5 + 1 * 1.75) / 1.9)


def test_micro_batches_are_one_step():
    whole, parts = LeCam(weight=1.0), LeCam(weight=1.0)
    for shift in (0.0, 1.0):
        play(whole, [[1.0 + shift, 2.0, 3.0, 6.0]], [[0.0, 0.0, -1.0, -1.0 - shift]])
        play(parts, [[1.0 + shift, 2.0], [3.0, 6.0]], [[0.0, 0.0], [-1.0, -1.0 - shift]])
    torch.testing.assert_close(whole.average, parts.average)


def test_averages_are_those_of_all_processes(monkeypatch):
    """Here two logits of each kind; on another process two reals of sum 10 and four fakes of sum -6."""
    monkeypatch.setattr(distributed, 'all_reduce_sum', lambda sums: sums + torch.tensor([10.0, 2, -6, 4]))
    term = LeCam(weight=1.0)
    play(term, [[1.0, 3.0]], [[-1.0, -2.0]])
    assert [x.item() for x in term.anchors()] == pytest.approx([14 / 4, -9 / 6])


def test_biggan_moves_them_first_and_for_all_processes(monkeypatch):
    """The same numbers; until one iteration of 0.2 kimg before the start they are those of the last step."""
    monkeypatch.setattr(distributed, 'all_reduce_sum', lambda sums: sums + torch.tensor([10.0, 2, -6, 4]))
    term = LeCam(weight=2.0, decay=0.9, start=1.0, lead=0.2)
    real, fake = 14 / 4, -9 / 6

    def play(cur_nimg, reals, fakes):
        term.start_step(cur_nimg)
        step = step_with(fakes)
        assert term.d_fake(step) == {}
        step.logits = torch.tensor(reals)[:, None]
        losses = term.d_real(step)
        term.finish_step(0)
        return losses

    for cur_nimg in (0, 750):
        assert play(cur_nimg, [1.0, 3.0], [-1.0, -2.0]) == {}
        assert [x.item() for x in term.anchors()] == pytest.approx([real, fake])
    assert play(800, [5.0, 7.0], [-1.0, -2.0]) == {}
    real = 0.9 * real + 0.1 * 22 / 4
    assert [x.item() for x in term.anchors()] == pytest.approx([real, fake])
    losses = play(1000, [1.0, -3.0], [-1.0, -2.0])
    real = 0.9 * real + 0.1 * 8 / 4                                         # they have moved, and are used then
    assert losses['LeCam/fake'].tolist() == pytest.approx([2 * (real + 1) ** 2, 2 * (real + 2) ** 2])
    assert losses['LeCam/real'].tolist() == pytest.approx([2 * (1 - fake) ** 2, 0])
    assert set(term.state_dict()) == {'average'}
    assert term.recording_key('Dboth') == (True, 0.9)
    monkeypatch.setattr(distributed, 'get_world_size', lambda: 2)
    assert term.recording_key('Dboth') is None and term.recording_key('Gboth') == ()        # no exchange in a graph


def test_biggan_has_no_micro_batches():
    """The averages would move once for each; refused before anything has moved."""
    term = LeCam(weight=1.0, lead=0.2)
    term.start_step(0)
    step = step_with([1.0])
    step.round_idx = 1
    with pytest.raises(ValueError, match='micro-batch 1: with `lead` .* batch_gpu'):
        term.d_fake(step)
    assert term.sums.tolist() == [0] * 4


def test_start_and_overflow():
    term = LeCam(weight=1.0, start=0.5)
    assert play(term, [[1.0]], [[0.0]], cur_nimg=499) == {}
    # They move before the start, too
    assert [x.item() for x in term.anchors()] == pytest.approx([1.0, 0.0])
    assert set(play(term, [[1.0]], [[0.0]], cur_nimg=500)) == {'LeCam/fake', 'LeCam/real'}
    before = term.average.clone()
    play(term, [[float('inf')]], [[0.0]], cur_nimg=500)
    assert torch.equal(term.average, before)


def test_gradient_in_the_d_step_is_that_of_the_formula():
    """Written out and differentiated at once; G's and the regularising steps are as without it."""
    n = nets()
    for name, p in n.G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.zero_()                          # the two passes need not draw the same noise
    term = LeCam(weight=0.7)
    loss = make_loss(n, terms=dict(lecam=term))
    term.average.copy_(torch.tensor([1.0, -3.0, 2.0]))
    loss.start_step(0)
    got = run(n, loss, 'Dmain')
    b = batch()
    n.D.requires_grad_(True).zero_grad()
    fake, real = n.D(n.G(b['gen_z'], None), None), n.D(b['real_img'], None)
    total = torch.log1p(fake.exp()).mean() + torch.log1p((-real).exp()).mean()
    total = total + 0.7 * ((real + 1.5).clamp(min=0).square().mean() + (0.5 - fake).clamp(min=0).square().mean())
    total.backward()
    for name, p in n.D.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-6)
    n.D.requires_grad_(False)
    for phase in ('Gmain', 'Dreg'):
        torch.manual_seed(5)
        with_term = run(n, loss, phase)
        torch.manual_seed(5)
        assert all(torch.equal(g, with_term[name]) for name, g in run(n, make_loss(n), phase).items())


def test_options(tiny_data):
    build = lambda *args: train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--device=cpu', *args))
    config, name = build('--lecam=1e-6', '--lecam-decay=0.9', '--lecam-start=2')
    assert config.terms == dict(lecam=dict(class_name='training.methods.lecam.LeCam', weight=1e-6,
                                           decay=0.9, start=2.0))
    assert name == 'tiny-auto1-lecam1e-06-decay0.9-start2'
    assert build()[0].terms == {}
    biggan = EasyDict(loss_kwargs=dict(one_pass=True), batch_size=50, D_steps=4, total_kimg=50_000)
    assert METHOD.configure(EasyDict(lecam=0.3, lecam_start=None), biggan, None) == dict(weight=0.3, decay=0.9,
                                                                                         start=200.0, lead=0.2)
    with pytest.raises(UserError, match='--lecam-decay=0.9: has no effect without --lecam; add that, or leave '
                                        'this out'):
        build('--lecam-decay=0.9')
    with pytest.raises(UserError, match='--lecam-start=30: the run ends after 30 kimg, before it takes part; use a '
                                        'smaller one, such as 10'):
        build('--lecam=1e-6', '--lecam-start=30', '--kimg=30')


def test_averages_are_reported():
    collector = training_stats.Collector('LeCam/.*')
    play(LeCam(weight=1.0), [[1.0, 3.0]], [[-1.0, -2.0]])
    collector.update()
    assert (collector.mean('LeCam/average_real'), collector.mean('LeCam/average_fake')) == (2.0, -1.5)
