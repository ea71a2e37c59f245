"""InsGen: InfoNCE by brute force, queues, keys by hand, momentum, who receives gradients, several processes."""

import copy
import math

import pytest
import torch
from conftest import parse_options
from processes import run_processes
from tiny_gan import RES, N, batch, make_loss, nets, run

import train
from dnnlib import UserError
from torch_utils import distributed
from training.methods.insgen import Contrast, InsGen


def test_info_nce_by_brute_force():
    torch.manual_seed(0)
    contrast = Contrast(16, size=6, dim=5)
    query, key = [torch.nn.functional.normalize(torch.randn(3, 5), dim=1) for _ in range(2)]
    got = contrast.loss(query, key, temperature=0.2)
    for i in range(3):
        others = [key[i].tolist(), *contrast.queue.tolist()]
        e = [math.exp(sum(a * b for a, b in zip(query[i].tolist(), other, strict=True)) / 0.2) for other in others]
        assert got[i].item() == pytest.approx(-math.log(e[0] / sum(e)), rel=1e-4)


def test_queue_is_first_in_first_out():
    contrast = Contrast(16, size=5, dim=3)
    start = contrast.queue.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    keys = torch.arange(24.0).reshape(8, 3)
    contrast.enqueue(keys[:2])
    assert torch.equal(contrast.queue, torch.cat([keys[:2], start[2:]]))
    contrast.enqueue(keys[2:6])
    assert torch.equal(contrast.queue, keys[[5, 1, 2, 3, 4]])
    broken = keys[6:8].clone()
    broken[0] = float('nan')
    contrast.enqueue(broken)                                    # an overflow leaves the old key in its place
    assert torch.equal(contrast.queue, keys[[5, 1, 7, 3, 4]])


def setup(**settings):
    n = nets()
    term = InsGen(queue=12, **settings)
    torch.manual_seed(1)
    loss = make_loss(n, terms=dict(insgen=term),
                     augment_pipe=lambda img: img * (1 + 0.2 * torch.rand([len(img), 1, 1, 1])))
    return n, term, loss


def sizes(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_heads_and_trunk_learn_in_the_d_step_and_only_there():
    n, term, loss = setup()
    loss.start_step(0)
    torch.manual_seed(3)
    with_term = run(n, loss, 'Dmain')
    assert {f'{kind}.head.{layer}.weight' for kind in ('real', 'fake') for layer in (0, 1)} <= sizes(term)
    assert not any('slow' in name for name in sizes(term)) and sizes(n.G) == set()
    heads_only = {name for name in with_term if name.startswith('b4.')}
    term.weight_real = term.weight_fake = 0.0
    torch.manual_seed(3)
    without = run(n, loss, 'Dmain')                             # the same draws
    changed = {name for name in with_term if (with_term[name] - without[name]).abs().max() > 1e-7}
    # The trunk, not what follows it
    assert {'b16.conv0.weight', 'b8.conv1.weight'} <= changed and not changed & heads_only


def test_generator_part_reaches_g_alone():
    n, term, loss = setup(weight_generator=5.0)
    loss.start_step(0)
    torch.manual_seed(3)
    with_term = run(n, loss, 'Gmain')
    assert sizes(term) == sizes(n.D) == set()
    before = copy.deepcopy(term.state_dict())
    term.weight_generator = 0
    torch.manual_seed(3)
    without = run(n, loss, 'Gmain')
    assert all((with_term[name] - without[name]).abs().max() > 1e-7
               for name in ('synthesis.b16.conv1.weight', 'mapping.fc0.weight'))
    assert all(torch.equal(value, before[name]) for name, value in term.state_dict().items())       # queue untouched


@pytest.mark.parametrize('noise', [0.0, 0.5])
def test_losses_keys_and_queues_of_a_step_by_hand(noise):
    """Without augmentation every key can be made again from D as it was: that of a query from the moved latents, those
    of the queue from the latents themselves."""
    n, term, loss = setup(noise=noise)
    latents, run_G = [], loss.run_G
    loss.run_G = lambda z, *args: latents.append(z) or run_G(z, *args)
    loss.augment_pipe = None
    for name, p in n.G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.zero_()
    for p in [*term.slow_D.parameters(), *term.real.slow_head.parameters(), *term.fake.slow_head.parameters()]:
        p.mul_(1.05)                                            # as if D had moved on
    queues = {kind: getattr(term, kind).queue.clone() for kind in ('real', 'fake')}
    seen = {}
    original = term._loss
    term._loss = lambda contrast, step, key: seen.setdefault('real' if contrast is term.real else 'fake',
                                                             original(contrast, step, key))
    loss.start_step(0)
    run(n, loss, 'Dmain')
    b = batch()
    assert torch.equal(latents[0], b['gen_z']) and len(latents) == 2
    moved = latents[1] - b['gen_z']
    assert moved.square().mean().sqrt().item() == pytest.approx(noise, abs=0.5 * noise)     # 32 numbers: 4 sigma
    keys, unit = {}, lambda x: x / x.norm(dim=1, keepdim=True)
    fake, similar_fake = [n.G(z, None) for z in latents]
    for kind, img, similar in (('real', b['real_img'], b['real_img']), ('fake', fake, similar_fake)):
        contrast = getattr(term, kind)
        q = unit(contrast.head(n.D(img, None, return_features=True)[1].trunk.mean([2, 3])))
        slow = lambda x, head=contrast.slow_head: head(term.slow_D(x, None, return_features=True)[1].trunk.mean([2, 3]))
        key, keys[kind] = unit(slow(similar)), unit(slow(img))
        positive, negative = ((q * key).sum(1) / 0.2).exp(), (q @ queues[kind].t() / 0.2).exp().sum(1)
        torch.testing.assert_close(seen[kind], -(positive / (positive + negative)).log(), rtol=1e-4, atol=1e-4)
    loss.finish_step(0)
    for kind, key in keys.items():
        queue = getattr(term, kind).queue
        torch.testing.assert_close(queue[:N], key, rtol=1e-4, atol=1e-5)
        assert torch.equal(queue[N:], queues[kind][N:])
    assert term.real.position == term.fake.position == N


def test_momentum_of_the_copies():
    n, term, loss = setup(momentum=0.75)
    slow, fast = term.slow_D.b8.conv0.weight.clone(), n.D.b8.conv0.weight
    head = term.fake.slow_head[0].weight.clone()
    fast.add_(1.0)
    term.fake.head[0].weight.data.add_(2.0)
    loss.start_step(0)
    run(n, loss, 'Dmain')
    loss.finish_step(0)
    torch.testing.assert_close(term.slow_D.b8.conv0.weight, slow + 0.25)
    torch.testing.assert_close(term.fake.slow_head[0].weight, head + 0.5)
    assert not any(p.requires_grad for p in term.slow)


def test_micro_batches_fill_the_queue_like_one_batch():
    n, term, loss = setup()
    loss.start_step(0)
    for i in range(2):
        run(n, loss, 'Dmain', round_idx=i)
    before = term.real.queue.clone()
    loss.finish_step(0)
    assert (term.real.position == 2 * N
            and (term.real.queue != before).any(dim=1).tolist() == [True] * 2 * N + [False] * (12 - 2 * N))


def build(data, *args):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', *args))


def test_options(tiny_data):
    config, name = build(tiny_data, '--insgen', '--batch=8', '--insgen-noise=0.2')
    assert config.terms == dict(insgen=dict(class_name='training.methods.insgen.InsGen', queue=32, noise=0.2))
    assert name == 'tiny-auto1-batch8-insgen-noise0.2'
    assert build(tiny_data, '--insgen', '--insgen-queue=100')[0].terms['insgen']['queue'] == 100


@pytest.mark.parametrize('args, message', [
    (['--insgen', '--aug=noaug'], '--insgen: without augmentation both views of an image are the same'),
    (['--insgen', '--aug=fixed', '--p=0'], '--insgen: without augmentation both views of an image are the same'),
    (['--insgen', '--batch=16', '--insgen-queue=8'], '--insgen-queue=8: is shorter than the batch of 16; use '
                                                     '--insgen-queue=64'),
    (['--insgen', *[f'--insgen-weight-{kind}=0' for kind in ('real', 'fake', 'generator')]],
     '--insgen: with all three weights 0 nothing'),
    (['--insgen-queue=8'], '--insgen-queue=8: has no effect without --insgen')])
def test_what_is_refused(args, message, tiny_data):
    with pytest.raises(UserError, match=message):
        build(tiny_data, *args)


def _process(rank, folder):
    n, term, loss = setup()
    distributed.broadcast_from_main(loss.terms)
    loss.start_step(0)
    run(n, loss, 'Dmain', real_img=torch.full([N, 3, RES, RES], 0.1 * rank))
    own = torch.cat(term.new_keys['real'])
    loss.finish_step(0)
    torch.testing.assert_close(term.real.queue[N * rank:][:N], own)
    torch.save(term.state_dict(), f'{folder}/{rank}.pt')


def test_two_processes_share_their_keys(tmp_path):
    """Each has its own keys at its place, and both hold the same state in the end."""
    run_processes(_process, 2, str(tmp_path))
    first, second = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    assert first['real.position'] == 2 * N and all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first['real.queue'][0], first['real.queue'][N])
