"""CHAIN: normalisation and zero-mean loss by hand, its controller, where it acts, what it leaves alone."""

import numpy as np
import pytest
import torch
from conftest import parse_options
from tiny_gan import N, batch, make_loss, nets, run

import train
from dnnlib import EasyDict, UserError
from training.methods.chain import METHOD, Chain


def numpy_normalized(x):
    """[N, C, H, W] with M = 1 everywhere."""
    psi = np.sqrt((x ** 2).mean(axis=(0, 2, 3)) + 1e-5)
    return x / psi[None, :, None, None] * psi.min()


def test_normalisation_by_hand():
    torch.manual_seed(0)
    term, x = Chain(), torch.randn(3, 5, 4, 4) * torch.tensor([0.5, 1, 2, 4, 8])[:, None, None]
    assert torch.equal(term.normalize(x), x)                            # p = 0
    term.p.fill_(1)
    want = torch.from_numpy(numpy_normalized(x.numpy()))
    torch.testing.assert_close(term.normalize(x), want)
    term.p.fill_(0.5)
    for sample, plain, normal in zip(term.normalize(x), x, want, strict=True):
        # A channel of a sample is left, or normalised as a whole
        for got, a, b in zip(sample, plain, normal, strict=True):
            assert torch.equal(got, a) or torch.allclose(got, b)


def test_the_least_psi_gives_no_gradient():
    """d/dx of sum(a y), y = x m / psi, m held: a m / psi - x (sum a x) m / (n psi^3) per channel, n the numbers of a
    channel."""
    torch.manual_seed(0)
    term, a, x = Chain(), torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2, requires_grad=True)
    term.p.fill_(1)
    got, = torch.autograd.grad((a * term.normalize(x)).sum(), x)
    psi = (x.square().mean(dim=[0, 2, 3], keepdim=True) + 1e-5).sqrt()
    m, dot = psi.min(), (a * x).sum(dim=[0, 2, 3], keepdim=True)
    torch.testing.assert_close(got, (a * m / psi - x * dot * m / (8 * psi ** 3)).detach())


def test_zero_mean_loss_and_places_by_hand():
    """One layer at a time: what follows each convolution of D's blocks before bias and activation, for fakes and for
    reals."""
    n, term = nets(), Chain(weight=2.0, base=0.25)
    term.p.fill_(0.5)
    seen = []
    loss = make_loss(n, terms=dict(chain=term))
    original = term.normalize
    term.normalize = lambda x: (seen.append((x.detach(), torch.is_grad_enabled())), original(x))[1]
    loss.start_step(0)
    reported = {}
    loss._terms = lambda hook, step: sum(reported.setdefault(name, value)
                                         for name, value in getattr(term, hook)(step).items())
    run(n, loss, 'Dmain')
    layers = 2 * 3                                                      # two blocks of conv0, conv1, skip
    assert [with_grad for _, with_grad in seen] == [True] * (2 * layers)
    for name, part in (('CHAIN/fake', seen[:layers]), ('CHAIN/real', seen[layers:])):
        want = 2.0 * 0.75 * sum(x.mean(dim=[0, 2, 3]).square().sum() for x, _ in part)
        torch.testing.assert_close(reported[name].detach(), want)
    assert {layer.normalize is not None for layer in n.D.block_convolutions()} == {True}
    assert n.D.b16.fromrgb.normalize is None and n.D.b4.conv.normalize is None and not term.means


def test_controller():
    """r = mean of signs with decay 0.9; p moves by 0.1 against the target 0.5, from `start` on, within [0, 1]."""
    term = Chain(step=0.4, start=1)
    r = p = highest = 0.0
    for i, sign in enumerate([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1]):
        cur_nimg = 200 * i
        term.start_step(cur_nimg)
        term.signs += torch.tensor([4.0 * sign, 4.0])
        term.finish_step(i)
        r = 0.9 * r + 0.1 * sign
        if cur_nimg >= 1000:
            p = min(max(p + 0.4 * np.sign(r - 0.5), 0), 1)
            highest = max(highest, p)
        assert term.r.item() == pytest.approx(r, rel=1e-5) and term.p.item() == pytest.approx(p, abs=1e-6)
    assert highest == 1 and p == 0
    term.signs += float('nan')
    term.finish_step(99)
    assert term.r.isfinite() and term.p.isfinite()


def test_signs_of_the_reals_are_counted_over_micro_batches():
    n, term = nets(), Chain()
    loss = make_loss(n, terms=dict(chain=term))
    loss.start_step(0)
    run(n, loss, 'Dmain')
    run(n, loss, 'Dmain')
    with torch.no_grad():
        want = n.D(batch()['real_img'], None).sign().sum()
    assert term.signs.tolist() == [2 * want.item(), 2 * N]


def test_every_phase_leaves_nothing_behind():
    """Second derivatives pass through the normalisation; the snapshot of D has no more entries than before."""
    n, term = nets(), Chain()
    names = set(n.D.state_dict())
    loss = make_loss(n, terms=dict(chain=term), r1_gamma=1.0)
    term.p.fill_(0.7)
    loss.start_step(0)
    for phase in ('Gmain', 'Dmain', 'Dreg', 'Dboth'):
        found = run(n, loss, phase)
        assert found and all(grad.isfinite().all() for grad in found.values())
        if phase == 'Gmain':
            assert not term.means
    loss.finish_step(0)
    assert not term.means and set(n.D.state_dict()) == names


def test_options(tiny_data, capsys):
    config = lambda *args: train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--batch=8', *args))[0]
    assert config('--chain').terms['chain'] == dict(class_name='training.methods.chain.Chain', start=40, base=0.1)
    assert config('--chain', '--chain-base=0', '--chain-start=2', '--chain-weight=5').terms['chain'] == \
        dict(class_name='training.methods.chain.Chain', start=2, base=0, weight=5)
    assert config('--chain', '--kimg=30').terms['chain']['start'] == 40         # its loss is there from the beginning
    assert 'CHAIN: normalises nothing before 40 kimg, where this run has ended; its' in capsys.readouterr().out
    with pytest.raises(UserError, match='--chain-start=40: the run ends after 30 kimg, before it takes part; use a'):
        config('--chain', '--kimg=30', '--chain-base=0')
    biggan = EasyDict(training_set_kwargs=dict(max_size=5000), batch_size=50, D_steps=4, total_kimg=50_000,
                      D_kwargs=dict(class_name='training.networks.Discriminator'))
    assert METHOD.configure(EasyDict(chain_start=None, chain_base=None), biggan, None)['start'] == 1000  # by G's steps
