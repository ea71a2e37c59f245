"""FakeCLR: its noise, its queue, its losses; what it shares with InsGen is tested there."""

import pytest
import torch
from conftest import parse_options
from tiny_gan import N, batch, make_loss, nets, run

import train
from dnnlib import UserError
from training.methods.fakeclr import FakeCLR


def test_noise_grows_with_the_latent():
    """Standard deviation 0.1 min(|z|, 3) by component."""
    torch.manual_seed(0)
    z = torch.tensor([[0.0, 0.5, -2.0, 3.0, 10.0]]).repeat(20000, 1)
    std = (FakeCLR(queue=3, noise=0.1).similar(z) - z).std(dim=0)
    torch.testing.assert_close(std, torch.tensor([0, 0.05, 0.2, 0.3, 0.3]), rtol=0.03, atol=0)


def test_fakes_alone_and_a_queue_shorter_than_the_batch():
    """The last keys of the batch stay; the losses are those of the queue before it; reals are not looked at."""
    n, term = nets(), FakeCLR(queue=N - 1, noise=0.0)
    torch.manual_seed(1)
    loss = make_loss(n, terms=dict(fakeclr=term))
    for name, p in n.G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.zero_()
    queue = term.fake.queue.clone()
    reported = {}
    loss._terms = lambda hook, step: sum(reported.setdefault(name, value).mean()
                                         for name, value in getattr(term, hook)(step).items())
    loss.start_step(0)
    run(n, loss, 'Dmain')
    run(n, loss, 'Gmain')
    assert set(reported) == {'FakeCLR/fake', 'FakeCLR/generator'} and not hasattr(term, 'real')
    trunk = n.D(n.G(batch()['gen_z'], None), None, return_features=True)[1].trunk.mean([2, 3])
    key = torch.nn.functional.normalize(term.fake.slow_head(trunk), dim=1)
    query = torch.nn.functional.normalize(term.fake.head(trunk), dim=1)
    others = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.t()], dim=1) / 0.2
    want = -others.log_softmax(dim=1)[:, 0]
    torch.testing.assert_close(reported['FakeCLR/fake'], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reported['FakeCLR/generator'], 0.1 * want, rtol=1e-4, atol=1e-4)
    loss.finish_step(0)
    torch.testing.assert_close(term.fake.queue, key[1:].detach(), rtol=1e-4, atol=1e-5)


def test_options(tiny_data):
    config = lambda *args: train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--batch=8', *args))[0]
    images = config().training_set_kwargs['max_size']
    assert config('--fakeclr').terms['fakeclr'] == dict(class_name='training.methods.fakeclr.FakeCLR',
                                                        queue=max(images // 20, 1))
    assert config('--fakeclr', '--mirror=1', '--fakeclr-weight=2').terms['fakeclr'] == \
        dict(class_name='training.methods.fakeclr.FakeCLR', queue=max(images // 10, 1), weight=2)
    with pytest.raises(UserError, match='--fakeclr: with both weights 0 nothing of it is left; leave --fakeclr out'):
        config('--fakeclr', '--fakeclr-weight=0', '--fakeclr-weight-generator=0')
    with pytest.raises(UserError, match='--fakeclr: without augmentation'):
        config('--fakeclr', '--aug=noaug')
