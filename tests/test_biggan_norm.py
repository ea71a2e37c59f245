"""BigGAN's spectral and batch norms: whose statistics are used, what moves, several processes."""

import copy

import pytest
import torch
from biggan_golden import check, check_tensors, draw, fill, filled, onehot, part, read
from processes import run_processes

from torch_utils import distributed
from training.networks import biggan as networks_biggan
from training.networks.biggan_layers import SNConv2d, SNLinear, Table
from training.networks.biggan_norm import (
    ConditionalNorm,
    PlainNorm,
    batch_statistics,
    norms,
    running_values,
    standing_statistics,
)


def test_spectral_norm():
    """Three passes in training mode, one in eval mode, which is differentiated."""
    golden, layer, x = read('losses'), SNLinear(7, 5), draw('sn.x', [3, 7])
    fill(layer, 'sn')
    check(torch.stack([layer(x) for _ in range(3)]), golden['sn_train_outputs'])
    y = layer.eval()(x)
    check(y, golden['sn_eval_output'])
    check_tensors(dict(layer.named_buffers()), dict(u0=golden['sn_u_after'], sv0=golden['sn_sv_after']))
    y.square().sum().backward()
    check(layer.weight.grad, golden['sn_weight_grad_of_sum_square_eval'])


def test_spectral_norm_of_a_convolution():
    """After many passes sigma is the largest singular value of the weight as [out, rest], in either memory format."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = SNConv2d(3, 6, 3)
        layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)
        for _ in range(200):
            weight = layer.normalised(torch.float32)
        assert abs(torch.linalg.matrix_norm(weight.flatten(1), 2) - 1) < 1e-5
        torch.testing.assert_close(layer.sv0[0], torch.linalg.matrix_norm(layer.weight.flatten(1), 2))


@pytest.mark.parametrize('kind, unbiased', [('torch', True), ('own', False)])
def test_batch_norm(kind, unbiased):
    norm, x = PlainNorm(5, unbiased=unbiased), draw('bn.x', [4, 5, 3, 3])
    check(norm(x), read('batchnorm')[f'bn_{kind}_output'])
    check_tensors(dict(norm.named_buffers()), part('batchnorm', f'bn_{kind}_after'))


def test_class_conditional_batch_norm():
    norm = ConditionalNorm(5, lambda: Table(3, 5))
    fill(norm, 'ccbn')
    y = torch.nn.functional.one_hot(read('batchnorm')['ccbn_y'], 3)
    check(norm(draw('bn.x', [4, 5, 3, 3]), y), read('batchnorm')['ccbn_output'])


def test_standing_statistics():
    """Sums over three batches / 3, in the own norm's form, and an image with them; the mode is as before."""
    golden = read('batchnorm')
    G, _ = filled('cifar10_small')
    G.eval()
    standing_statistics(G, [(draw(f'standing.z{i}', [4, 16]), onehot(golden[f'y{i}'], G)) for i in range(3)])
    sums = {name.replace('.bn.', '.'): value for name, value in part('batchnorm', 'standing_sums').items()}
    assert len(sums) == len(running_values(G)) == 14 and not G.training
    check_tensors({name: value * 3 for name, value in G.named_buffers()}, sums)
    check(G(draw('standing.test_z', [3, 16]), onehot(golden['test_y'], G)), golden['standing_G_eval'])
    with pytest.raises(ValueError, match='there are no batches'):
        standing_statistics(G, [])


def test_batch_statistics_leave_no_trace():
    """The image of a pass in training mode, and a state as before; afterwards the running values hold again."""
    golden = read('cifar10_small')
    G, _ = filled('cifar10_small')
    z, c = golden['z'], onehot(golden['y'], G)
    G.eval()
    before, running = copy.deepcopy(G.state_dict()), G(z, c)
    with batch_statistics(G):
        check(G(z, c), golden['G_train'])
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert torch.equal(G(z, c), running) and all(norm.use is None for norm in norms(G))
    check(running, golden['G_eval'])


def test_running_values_and_their_use():
    """By hand: momentum 0.1, unbiased; in eval mode (x - mean) / sqrt(var + eps) with them, in half precision, too."""
    norm, x = PlainNorm(1, eps=0.5), torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(2, 1, 1, 2)
    norm(x)
    mean, var = 0.1 * 4, 0.9 + 0.1 * 20 / 3
    torch.testing.assert_close(torch.cat(running_values(norm)), torch.tensor([mean, var]))
    want = (x - mean) / (var + 0.5) ** 0.5
    torch.testing.assert_close(norm.eval()(x), want)
    for dtype in (torch.bfloat16, torch.float16):
        got = norm(x.to(dtype))
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), want, rtol=0.01, atol=0)


def test_running_values_survive_a_batch_without_numbers():
    """Of its channel, mean and variance both; the other channel moves. 1e30 has a finite mean and no variance."""
    for bad in (float('nan'), float('inf'), 1e30):
        norm, x = PlainNorm(2), torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).repeat(1, 2, 1, 1)
        x[0, 1] = bad
        norm(x)
        torch.testing.assert_close(norm.stored_mean, torch.tensor([0.1 * 2, 0]))
        torch.testing.assert_close(norm.stored_var, torch.tensor([0.9 + 0.1 * 2, 1]))


def test_spectral_norm_survives_a_weight_without_numbers():
    for bad in (float('nan'), float('inf')):
        layer = SNLinear(3, 2)
        before = copy.deepcopy(layer.state_dict())
        good = layer.weight[0, 0].item()
        with torch.no_grad():
            layer.weight[0, 0] = bad
            layer(torch.ones(1, 3))
            layer.weight[0, 0] = good
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
        layer(torch.ones(1, 3))
        assert not torch.equal(layer.u0, before['u0']) and layer.u0.isfinite().all()


def part_of_batch(rank, world):
    """Values, labels and a target for this process, of 6 in all."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, 3, generator=rng, dtype=torch.float64) + 5
    target = torch.randn(6, 4, 3, 3, generator=rng, dtype=torch.float64)
    return x[rank::world], torch.eye(3, dtype=torch.float64)[torch.arange(6) % 3][rank::world], target[rank::world]


def one_step(rank, folder):
    for sync in (True, False):
        results = pass_through(rank, distributed.get_world_size(), sync)
        if rank == 0:
            torch.save(results, f'{folder}/{distributed.get_world_size()}-{sync}.pt')


def pass_through(rank, world, sync):
    """-> values and their gradients, of all processes; means over them: gradients of the tables, running values."""
    torch.manual_seed(1)
    norm = ConditionalNorm(4, lambda: Table(3, 4), sync=sync).double()
    x, c, target = part_of_batch(rank, world)
    x.requires_grad_()
    y = norm(x, c)
    (y - target).square().mean().backward()
    grads = [p.grad for p in norm.parameters()]
    distributed.average([*grads, *running_values(norm)])
    results = distributed.all_gather_rows(torch.stack([y.detach(), x.grad / world]).transpose(0, 1).contiguous())
    order = torch.arange(6).reshape(6 // world, world).t().flatten().argsort()      # process r had rows r, r + N, ...
    return [results[order], *grads, *running_values(norm)]


def test_synchronised_statistics_are_those_of_one_process(tmp_path):
    """2 processes x 3 = 1 process x 6 in float64: values, gradients to the input and to the tables, running values."""
    one_step(0, str(tmp_path))
    run_processes(one_step, 2, str(tmp_path))
    one, two, own = [torch.load(tmp_path / f'{name}.pt') for name in ('1-True', '2-True', '2-False')]
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)
    assert (own[0] - one[0]).abs().max() > 1e-3                         # each by its own batch
    torch.testing.assert_close(own[-2], one[-2])                        # the mean of the means is the mean


def test_generator_names_what_processes_average():
    G = networks_biggan.Generator(4, 2, 32, 3, channels=1, bn_sync=True)
    assert all(norm.sync for norm in norms(G)) and len(norms(G)) == 7
    assert [value.data_ptr() for value in G.running_averages()] == [
        value.data_ptr() for name, value in G.named_buffers() if name.endswith(('stored_mean', 'stored_var'))]


def test_a_pass_that_is_not_finite_does_not_stay_in_the_running_values():
    """In one channel of two; the other one moves, by a tenth of mean 2 and unbiased variance 4 / 3."""
    norm = PlainNorm(2).train()
    x = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    x[0, 0, 0, 0] = float('nan')
    norm(x)
    assert norm.stored_mean.tolist() == [0, pytest.approx(0.2)]
    assert norm.stored_var.tolist() == [1, pytest.approx(0.9 + 0.1 * 4 / 3)]
