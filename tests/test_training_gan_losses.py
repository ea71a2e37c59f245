"""The adversarial losses against numbers worked out by hand, alone and in the phases of the loss."""

import math

import pytest
import torch
from tiny_gan import batch, make_loss, nets, run

from kd_plugin.gradient_share import GradientShare
from training.gan_losses import GAN_LOSSES
from training.loss import StyleGAN2Loss
from training.loss_terms import Step
from training.networks import DiscriminatorFeatures

LOGITS = [-2.0, 0.0, 0.5, 3.0]
HINGE = dict(d_fake=[0.0, 1.0, 1.5, 4.0], d_real=[3.0, 1.0, 0.5, 0.0], g=[2.0, 0.0, -0.5, -3.0])
MINUS_LOG = dict(d_fake=lambda x: -math.log(1 - sigmoid(x)), d_real=lambda x: -math.log(sigmoid(x)),
                 g=lambda x: -math.log(sigmoid(x)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize('part', HINGE)
def test_losses_of_single_images(part):
    logits = torch.tensor(LOGITS)[:, None]
    assert getattr(GAN_LOSSES['hinge'], part)(logits).flatten().tolist() == HINGE[part]
    want = torch.tensor([MINUS_LOG[part](x) for x in LOGITS])[:, None]
    torch.testing.assert_close(getattr(GAN_LOSSES['logistic'], part)(logits), want)


def scaled(n):
    """Networks whose logits lie on both sides of the bends of the hinge, images apart from each other."""
    n.D.b4.mbstd.group_size = 1
    n.D.b4.out.weight.data.mul_(30)
    return n


@pytest.mark.parametrize('phase', ['Dmain', 'Gmain'])
def test_phases_train_the_hinge(phase):
    n = scaled(nets())
    torch.manual_seed(5)
    grads = run(n, make_loss(n, gan_loss='hinge', r1_gamma=0), phase)
    trained = n.G if phase[0] == 'G' else n.D
    trained.requires_grad_(True)
    for p in trained.parameters():
        p.grad = None
    torch.manual_seed(5)                    # of the noise
    real, z = batch()['real_img'], batch()['gen_z']
    fake = n.D(n.G.synthesis(n.G.mapping(z, None)), None)
    if phase[0] == 'G':
        loss = -fake.mean()
    else:
        real = n.D(real, None)
        assert 0 < ((fake > -1).sum() + (real < 1).sum()) < 8           # the hinge bends here
        loss = (1 + fake).clamp(min=0).mean() + (1 - real).clamp(min=0).mean()
    loss.backward()
    for name, p in trained.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6)


def test_an_unknown_loss():
    with pytest.raises(ValueError, match=f"gan_loss is 'wgan', it must be one of {', '.join(GAN_LOSSES)}"):
        StyleGAN2Loss('cpu', None, None, None, gan_loss='wgan')


def test_the_share_of_distillation_is_relative_to_the_loss_that_is_trained():
    """Logits -2 and 3 of fakes: only the second has a gradient under the hinge, w / 2 (the mean of two)."""
    hidden = torch.tensor([[-2.0], [3.0]], requires_grad=True)
    features = DiscriminatorFeatures(None, hidden, None)
    step = Step(None, None, None, None, None, features=features, gan_loss=GAN_LOSSES['hinge'])
    share = GradientShare()
    share.watch(step, 'fake', lambda features: features.epilogue * 4).sum().backward()
    kd, adversarial = share.norms().tolist()
    assert kd == pytest.approx(math.sqrt(2)) and step.logits is None
    assert adversarial == pytest.approx(4 / 2)
