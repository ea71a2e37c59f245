"""BigGAN's training step in its pieces against the public programs: gradients, Adam, average, losses, KD-DLGAN's."""

import copy

import pytest
import torch
from biggan_golden import LAYOUT, SMALL, check, check_tensors, draw, fill, filled, gradients, onehot, part, read, reals

from kd_plugin.distillers.agkd import AGKD
from kd_plugin.distillers.cgkd import CGKD
from kd_plugin.distillers.distiller import Pass
from kd_plugin.distillers.settings import PRESETS as KD_PRESETS
from training import ema
from training.augment import diffaugment
from training.config.presets import PRESETS
from training.gan_losses import GAN_LOSSES
from training.methods.lecam_anchors import Anchors
from training.networks.biggan_layers import SNLinear
from training.orthogonal import add_orthogonal_gradients

HINGE = GAN_LOSSES['hinge']

RELEASED = KD_PRESETS['released']
FULL = [pytest.param(net, marks=pytest.mark.soak) for net in ('cifar10', 'imagenet64')]      # half a minute


def adam(net, name, params):
    """By the preset whose network this is a narrow one of."""
    preset = PRESETS['biggan-cifar' if net.startswith('cifar') else 'biggan-imagenet64']
    settings = {**dict(lr=preset.lr, eps=1e-8), **(preset.G_opt if name == 'G' else preset.D_opt)}
    return torch.optim.Adam(params, **dict(settings, betas=[float(beta) for beta in settings['betas']]))


def d_pass(G, D, z, c, img, c_real):
    """One pass of D over fakes and reals -> their logits, their features h."""
    with torch.no_grad():
        fakes = G(z, c)
    logits, features = D(torch.cat([fakes, img]), torch.cat([c, c_real]), return_features=True)
    return fakes, logits.split([len(fakes), len(img)]), features.epilogue.split([len(fakes), len(img)])


@pytest.mark.parametrize('net', [*SMALL, *FULL])
def test_a_step_of_d_and_one_of_g(net):
    """Gradients, the parameters after Adam, and four updates of the average of parameters and buffers."""
    golden, no_gradient = read(net), LAYOUT[net]['G']['zero_gradient']
    G, D = filled(net)
    img, c_real = reals(f'{net}.x', len(golden['y']), G.img_resolution), onehot(golden['y_real'], G)
    _fakes, (fake, real), _features = d_pass(G, D, golden['z'], onehot(golden['y'], G), img, c_real)
    losses = torch.stack([HINGE.d_real(real).mean(), HINGE.d_fake(fake).mean()])
    losses.sum().backward()
    check(fake, golden['D_step_fake_logits'])
    check(real, golden['D_step_real_logits'])
    check(losses, golden['D_step_losses'])
    check_tensors(gradients(D), part(net, 'D_grad'))
    if net in SMALL:
        adam(net, 'D', D.parameters()).step()
        check_tensors(dict(D.named_parameters()), part(net, 'D_after_adam'))
    D.requires_grad_(False)
    logits = D(G(golden['z2'], onehot(golden['y2'], G)), onehot(golden['y2'], G))
    loss = HINGE.g(logits).mean()
    loss.backward()
    check(logits, golden['G_step_fake_logits'])
    check(loss, golden['G_step_loss'])
    check_tensors(gradients(G), part(net, 'G_grad'), no_gradient)
    if net in SMALL:
        adam(net, 'G', G.parameters()).step()
        check_tensors(dict(G.named_parameters()), part(net, 'G_after_adam'), no_gradient)
        check_average(net, G, no_gradient)


@torch.no_grad()
def check_average(net, G, leave_out):
    """Decay 0.9 from iteration 3 on, a copy until then; of batches of 50."""
    G_ema = copy.deepcopy(G)
    average = ema.WeightAverage(G, G_ema, ema.half_life_kimg(0.9, 50), start_kimg=3 * 50 / 1000, buffers='average')
    for i in range(1, 5):
        for name, value in G.named_parameters():
            value += 0.01 * i * draw(f'ema.{i}.{name}', value.shape)
        for name, value in G.named_buffers():
            if name.endswith('stored_mean'):
                value += 0.1 * i
        average.update(i * 50, 50)
        check_tensors(G_ema.state_dict(), part(net, f'ema_after_itr{i}'), leave_out)


def test_average_that_copies_buffers():
    """The default: parameters are drawn near, buffers equal; whole numbers are copied by either."""
    module = torch.nn.BatchNorm1d(2)
    target = copy.deepcopy(module)
    with torch.no_grad():
        module.weight.fill_(3)
        module.running_mean.fill_(5)
        module.num_batches_tracked.fill_(7)
    for buffers, mean in (('copy', 5), ('average', 1.25)):
        moved = copy.deepcopy(target)
        ema.WeightAverage(module, moved, ema.half_life_kimg(0.75, 10), buffers=buffers).update(100, 10)
        torch.testing.assert_close(moved.weight, torch.full([2], 1.5))
        torch.testing.assert_close(moved.running_mean, torch.full([2], float(mean)))
        assert moved.num_batches_tracked == 7
    with pytest.raises(ValueError, match="buffers is 'none'"):
        ema.WeightAverage(module, target, 1, buffers='none')


def test_hinge():
    golden = read('losses')
    real, fake = [draw(f'hinge.{kind}', [8, 1]).requires_grad_() for kind in ('real', 'fake')]
    check(HINGE.d_real(real).mean(), golden['hinge_real'])
    check(HINGE.d_fake(fake).mean(), golden['hinge_fake'])
    check(HINGE.g(fake).mean(), golden['hinge_generator'])
    (HINGE.d_real(real).mean() + HINGE.d_fake(fake).mean()).backward()
    check(real.grad, golden['hinge_grad_real'])
    check(fake.grad, golden['hinge_grad_fake'])


@pytest.mark.parametrize('form', ['modified', 'default'])
def test_orthogonal_regularisation(form):
    shapes = dict(linear=(6, 10), conv=(5, 4, 3, 3), vector=(7,))
    params = {kind: torch.nn.Parameter(draw(f'ortho.{kind}', shape)) for kind, shape in shapes.items()}
    left_out, frozen = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    left_out.grad = torch.zeros(2, 2)
    for kind, param in params.items():
        param.grad = draw(f'ortho.grad.{kind}', param.shape)
    add_orthogonal_gradients([*params.values(), left_out, frozen], 0.01, form, leave_out=[left_out])
    check_tensors({kind: param.grad for kind, param in params.items()}, part('losses', f'ortho_{form}'))
    assert (left_out.grad == 0).all() and frozen.grad is None
    with pytest.raises(ValueError, match="form is 'none'"):
        add_orthogonal_gradients([], 1, 'none')


@pytest.mark.parametrize('policy, size', [
    ('translation,cutout', 32), ('color,translation,cutout', 32), ('translation', 64)])
def test_diffaugment(policy, size, monkeypatch):
    """With the random numbers of the released program, in the order in which it draws them."""
    entries = part('diffaugment', f'{policy}@{size}')
    want = entries.pop('output')
    draws = [(name.rpartition(':')[2], values[:, None]) for name, values in sorted(entries.items())]

    def integers(_x, low, _high):
        kind, values = draws.pop(0)
        return values - int(kind.removeprefix('randint[').split(',')[0]) + low

    def uniform(_x):
        kind, values = draws.pop(0)
        assert kind == 'rand'
        return values[:, None, None]

    monkeypatch.setattr(diffaugment, '_integers', integers)
    monkeypatch.setattr(diffaugment, '_uniform', uniform)
    check(diffaugment.DiffAugment(policy)(reals(f'diffaugment.{size}', len(want), size)), want)
    assert draws == []


def test_lecam():
    """The averages in four iterations around their start, from batches of known means; then the penalty."""
    golden = read('losses')
    anchors = Anchors()
    means = dict(zip([998, 999, 1000, 1001], [(0.5, -0.2), (0.7, -0.4), (0.1, 0.3), (0.9, -0.9)], strict=True))
    for iteration, real, fake in golden['lecam_ema'].tolist():
        anchors.move(*[torch.full([3, 1], value) for value in means[iteration]], iteration)
        check(anchors.average, torch.tensor([real, fake]))
    assert not anchors.active(1000) and anchors.active(1001)
    real, fake = [draw(f'hinge.{kind}', [8, 1]).requires_grad_() for kind in ('real', 'fake')]
    penalty = anchors.penalty(real, fake)
    penalty.backward()
    check(penalty, golden['lecam'])
    check(real.grad, golden['lecam_grad_real'])
    check(fake.grad, golden['lecam_grad_fake'])
    anchors.move(torch.tensor([[float('nan')]]), fake, 2000)
    assert anchors.average.isfinite().all()


def distillation(students, teachers, text_feats):
    """{name: weighted loss of a pass} of the released setting."""
    losses = {}
    for method in (AGKD(RELEASED), CGKD(RELEASED, text_feats)):
        for kind, other in (('fake', 'real'), ('real', 'fake')):
            rows = Pass(kind, students[kind], teachers[kind], teachers[other])
            losses |= {name: loss.mean() * weight for name, (loss, weight) in method.d_losses(rows).items()}
    return losses


def test_distillation_losses():
    golden = read('losses')
    students = {kind: draw(f'kd.student_{kind}', [6, 512]).requires_grad_() for kind in ('fake', 'real')}
    teachers = {kind: draw(f'kd.teacher_{kind}', [6, 512]) for kind in ('fake', 'real')}
    losses = distillation(students, teachers, draw('kd.texts', [10, 512]))
    total = sum(losses.values())
    total.backward()
    check(total, golden['kd_total'])
    check(losses['agkd_fake'] + losses['agkd_real'], 10 * (golden['kd_agkd_fake'] + golden['kd_agkd_real']))
    for kind in ('fake', 'real'):
        check(losses[f'cgkd_{kind}'], 10 * golden[f'kd_cgkd_{kind}'])
        check(students[kind].grad, golden[f'kd_grad_student_{kind}'])


class Head(torch.nn.Module):
    """The distillation head of the released code, by its names."""

    def __init__(self, in_features, dim=512, hidden=1024):
        super().__init__()
        self.linear_cls_1, self.linear_cls_2 = SNLinear(in_features, hidden), SNLinear(hidden, dim)

    def forward(self, x):
        return self.linear_cls_2(self.linear_cls_1(x))


def stub_teacher(img):
    """[N, 3, 32, 32] -> [N, 512]: nearest x7, means over fields of 28x28, a fixed linear map."""
    large = torch.nn.functional.interpolate(img, scale_factor=7, mode='nearest')
    return torch.nn.functional.avg_pool2d(large, 28).flatten(1) @ draw('stub_clip', [192, 512])


def released_d_step(G, D, head, anchors, golden, i, opt):
    """D step number i of the iteration -> {name: what the released program logs}."""
    rows, texts = slice(4 * i, 4 * i + 4), draw('kd.texts', [10, 512])
    img, c = reals('kd_step.x', 8, 32)[rows], onehot(golden[f'y_gen{i}'], G)
    fakes, (fake, real), h = d_pass(G, D, draw(f'kd_step.z{i}', [4, 16]), c, img, onehot(golden['y'][rows], G))
    student = dict(zip(('fake', 'real'), head(torch.cat(h)).split(4), strict=True))
    losses = distillation(student, dict(fake=stub_teacher(fakes), real=stub_teacher(img)), texts)
    anchors.move(real, fake, 1500)
    losses |= dict(hinge_real=HINGE.d_real(real).mean(), hinge_fake=HINGE.d_fake(fake).mean(),
                   lecam=0.3 * anchors.penalty(real, fake))
    opt.zero_grad()
    sum(losses.values()).backward()
    opt.step()
    return dict(losses, real=real.mean(), fake=fake.mean())


def test_an_iteration_of_the_released_distillation():
    """Two D steps with AGKD, CGKD and LeCam, one G step, the average: the metrics of the last D step, all tensors."""
    golden, no_gradient = read('kd_step'), LAYOUT['cifar10_small']['G']['zero_gradient']
    G, D = filled('cifar10_small')
    torch.nn.init.constant_(D.linear.bias, 16)
    G_ema, head, anchors = copy.deepcopy(G), Head(D.feature_dim), Anchors()
    fill(head, 'D')
    anchors.average.copy_(torch.tensor([0.3, -0.1]))
    opt = adam('cifar', 'D', [*D.parameters(), *head.parameters()])
    for i in range(2):
        logged = released_d_step(G, D, head, anchors, golden, i, opt)
    D.requires_grad_(False)
    c = onehot(golden['y_gen2'], G)
    logits, features = D(G(draw('kd_step.z2', [4, 16]), c), c, return_features=True)
    head(features.epilogue)                                                 # a part of D there: its u moves here, too
    loss = HINGE.g(logits).mean()
    loss.backward()
    adam('cifar', 'G', G.parameters()).step()
    ema.WeightAverage(G, G_ema, ema.half_life_kimg(0.9999, 50), start_kimg=50, buffers='average').update(1500 * 50, 50)
    metric = part('kd_step', 'metric')
    names = dict(hinge_real='D_loss_real', hinge_fake='D_loss_fake', lecam='D_loss_LC', real='D_real', fake='D_fake')
    for name, key in names.items():
        check(logged[name], metric[key])
    distilled = sum(value for name, value in logged.items() if 'kd_' in name)
    check(distilled, metric['D_loss_real_reg'] + metric['D_loss_fake_reg'])         # sorted in another way there
    check(anchors.average, golden['lecam_after'][:2])
    check(loss, golden['metric/G_loss'])
    check_tensors({**D.state_dict(), **head.state_dict()}, part('kd_step', 'D_after'))
    check_tensors(G.state_dict(), part('kd_step', 'G_after'), no_gradient)
    check_tensors(G_ema.state_dict(), part('kd_step', 'G_ema_after'), no_gradient)
