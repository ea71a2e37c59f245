"""BigGAN's training step in its pieces against the public programs: gradients, Adam, average, losses, KD-DLGAN's."""

import copy
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from biggan_golden import LAYOUT, SMALL, check, check_tensors, draw, fill, filled, gradients, onehot, part, read, reals

from dnnlib import EasyDict
from kd_plugin.distillers.agkd import AGKD
from kd_plugin.distillers.cgkd import CGKD
from kd_plugin.distillers.distiller import Pass
from kd_plugin.distillers.settings import PRESETS as KD_PRESETS
from kd_plugin.loss import Distillation
from kd_plugin.teacher import Preprocess, Teacher
from training import ema
from training.augment import diffaugment
from training.config.build import add_schedule
from training.config.presets import PRESETS
from training.gan_losses import GAN_LOSSES
from training.loss_terms import Step
from training.methods.lecam import LeCam
from training.methods.ortho import Orthogonal
from training.networks import DiscriminatorFeatures
from training.training import Training

HINGE = GAN_LOSSES['hinge']
ADAM = dict(class_name='torch.optim.Adam', lr=1e-4, betas=[0, 0.999])

RELEASED = KD_PRESETS['released']
FULL = [pytest.param(net, marks=pytest.mark.soak) for net in ('cifar10', 'imagenet64')]      # half a minute


def preset_of(net):
    return PRESETS['biggan-cifar' if net.startswith('cifar') else 'biggan-imagenet64']


def adam(net, name, params):
    """By the preset whose network this is a narrow one of."""
    preset = preset_of(net)
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
    """Decay 0.9 from iteration 3 on, counted from 1 as there; a copy before."""
    training = count_of_images(net, G)
    for i in range(1, 5):
        for name, value in G.named_parameters():
            value += 0.01 * i * draw(f'ema.{i}.{name}', value.shape)
        for name, value in G.named_buffers():
            if name.endswith('stored_mean'):
                value += 0.1 * i
        while not any(phase.module is G for phase in training.step()):
            pass
        check_tensors(training.G_ema.state_dict(), part(net, f'ema_after_itr{i}'), leave_out)


def count_of_images(net, G):
    """A `Training` whose phases do nothing: what it counts, and the average by a preset, of decay 0.9 from 3 on."""
    config = EasyDict(device='cpu', num_gpus=1, random_seed=0, ada_target=None, augment_ramp_kimg=None)
    opts = EasyDict.fromkeys(['batch', 'batch_gpu', 'snap', 'kimg', 'tick', 'init_from'])
    add_schedule(config, opts, preset_of(net)._replace(ema_start=3, ema_decay=0.9))
    config.update(G_opt_kwargs=ADAM, D_opt_kwargs=ADAM)
    training = object.__new__(Training)
    training.__dict__.update(config=config, device=torch.device('cpu'), rank=0, cur_nimg=0, batch_idx=0, ada=None,
                             batch_rank=1, G=G, D=torch.nn.Linear(1, 1), G_ema=copy.deepcopy(G), loss=Mock())
    training.loss.terms.named_parameters.return_value = []
    training.reals, training.prior = Mock(), Mock()
    training.reals.batch.return_value, training.prior.sample.return_value = (), (None, None)
    training._build_optimisers()
    training.accumulate = {name: lambda *_inputs: None for name in training.accumulate}
    return training


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


class Weights(torch.nn.Module):
    """A network by its parameters alone; `shared` is the class embedding."""

    def __init__(self, **values):
        super().__init__()
        self.weights = torch.nn.ParameterDict(values)
        self.shared = torch.nn.Embedding(2, 2)

    def mapping(self):
        pass


def test_orthogonal_regularisation():
    """The gradient of the term and that of a loss, for G and for D, against the released program's sum of both."""
    shapes = dict(linear=(6, 10), conv=(5, 4, 3, 3), vector=(7,))
    term = Orthogonal(0.01)
    G, D = [Weights(**{kind: draw(f'ortho.{kind}', shape) for kind, shape in shapes.items()}) for _ in 'GD']
    term.bind(SimpleNamespace(G_mapping=G.mapping, G_synthesis=G, D=D))
    step = Step(None, None, None, None, None)
    for network, losses in ((G, term.g_main(step)), (D, term.d_real(step))):
        for kind, param in network.weights.items():
            param.grad = draw(f'ortho.grad.{kind}', param.shape)
        sum(losses.values()).backward()
        check_tensors({kind: param.grad for kind, param in network.weights.items()}, part('losses', 'ortho_modified'))
        assert network.shared.weight.grad is None


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


def lecam(golden=None):
    """As `--lecam=0.3` on BigGAN: four steps of D with 50 reals in an iteration. golden: the averages before."""
    term = LeCam(weight=0.3, decay=0.9, start=200, lead=0.2)
    if golden is not None:
        term.average.copy_(torch.tensor([*golden, 1]))
    return term


def lecam_losses(term, real, fake, iteration):
    """In a step of D of iteration number `iteration`, counted from 1 as there."""
    term.start_step((iteration - 1) * 200)
    step = Step(None, None, None, None, None, logits=fake)
    assert term.d_fake(step) == {}
    step.logits = real
    return term.d_real(step)


def test_lecam():
    """The averages in four iterations around their start, from batches of known means; then the penalty."""
    golden = read('losses')
    term = lecam()
    means = dict(zip([998, 999, 1000, 1001], [(0.5, -0.2), (0.7, -0.4), (0.1, 0.3), (0.9, -0.9)], strict=True))
    for iteration, real, fake in golden['lecam_ema'].tolist():
        values = [torch.full([3, 1], value) for value in means[iteration]]
        assert bool(lecam_losses(term, *values, iteration)) == (iteration > 1000)
        check(torch.stack(term.anchors()), torch.tensor([real, fake]))
    real, fake = [draw(f'hinge.{kind}', [8, 1]).requires_grad_() for kind in ('real', 'fake')]
    term._move = lambda: None                                       # the last row is what there is of averages
    losses = lecam_losses(term, real, fake, 1001)
    penalty = sum(value.mean() for value in losses.values()) / 0.3
    penalty.backward()
    check(penalty, golden['lecam'])
    check(real.grad, golden['lecam_grad_real'])
    check(fake.grad, golden['lecam_grad_fake'])


def test_lecam_survives_a_step_without_numbers():
    term = lecam([0.3, -0.1])
    lecam_losses(term, torch.tensor([[float('nan')]]), torch.tensor([[1.0]]), 2000)
    assert term.average.tolist() == pytest.approx([0.3, -0.1, 1])
    before = term.average.clone()
    term.finish_step(0)                                             # it has moved already
    assert torch.equal(term.average, before)


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


class StubTeacher(Teacher):
    """Nearest x7, means over fields of 28x28, a fixed linear map; texts that were drawn."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), Preprocess(224, (0.5,) * 3, (0.5,) * 3), 512, 'stub')
        self.register_buffer('matrix', draw('stub_clip', [192, 512]))
        self.encoder.image_features = lambda x: torch.nn.functional.avg_pool2d(x, 28).flatten(1) @ self.matrix
        self.encoder.text_features = lambda texts: draw('kd.texts', [10, 512])


def released_d_step(G, D, kd, term, golden, i, opt):
    """D step number i of the iteration -> {name: what the released program logs}."""
    rows = slice(4 * i, 4 * i + 4)
    img, c, c_real = reals('kd_step.x', 8, 32)[rows], onehot(golden[f'y_gen{i}'], G), onehot(golden['y'][rows], G)
    z = draw(f'kd_step.z{i}', [4, 16])
    step = Step(img, c_real, None, z, c, gan_loss=HINGE)
    step.gen_aug, (fake, real), h = d_pass(G, D, z, c, img, c_real)
    step.real_aug = img
    losses = {}
    kd.prepare(step)
    for hook, logits, epilogue in [(kd.d_fake, fake, h[0]), (kd.d_real, real, h[1])]:
        step.logits, step.features = logits, DiscriminatorFeatures(None, epilogue, None)
        losses |= {name: value.mean() for name, value in hook(step).items()}
    losses |= dict(hinge_real=HINGE.d_real(real).mean(), hinge_fake=HINGE.d_fake(fake).mean(),
                   lecam=sum(value.mean() for value in lecam_losses(term, real, fake, 1500).values()))
    opt.zero_grad()
    sum(losses.values()).backward()
    opt.step()
    return dict(losses, real=real.mean(), fake=fake.mean())


def test_an_iteration_of_the_released_distillation():
    """Two D steps with AGKD, CGKD and LeCam, one G step, the average: the metrics of the last D step, all tensors."""
    golden, no_gradient = read('kd_step'), LAYOUT['cifar10_small']['G']['zero_gradient']
    G, D = filled('cifar10_small')
    torch.nn.init.constant_(D.linear.bias, 16)
    G_ema, term = copy.deepcopy(G), lecam([0.3, -0.1])
    kd = Distillation(StubTeacher(), D.feature_dim, ('agkd', 'cgkd'), ['text'] * 10, RELEASED)
    kd.bind(SimpleNamespace(D=D))
    fill(kd.head, 'D')
    opt = adam('cifar', 'D', [*D.parameters(), *kd.parameters()])
    for i in range(2):
        logged = released_d_step(G, D, kd, term, golden, i, opt)
    D.requires_grad_(False)
    c = onehot(golden['y_gen2'], G)
    logits, features = D(G(draw('kd_step.z2', [4, 16]), c), c, return_features=True)
    assert kd.g_main(Step(None, None, None, None, None, features=features)) == {}
    loss = HINGE.g(logits).mean()
    loss.backward()
    adam('cifar', 'G', G.parameters()).step()
    ema.WeightAverage(G, G_ema, ema.half_life_kimg(0.9999, 50), start_kimg=50, buffers='average').update(1500 * 50, 50)
    metric = part('kd_step', 'metric')
    names = dict(hinge_real='D_loss_real', hinge_fake='D_loss_fake', lecam='D_loss_LC', real='D_real', fake='D_fake')
    for name, key in names.items():
        check(logged[name], metric[key])
    distilled = sum(value for name, value in logged.items() if name.startswith('KD/'))
    check(distilled, metric['D_loss_real_reg'] + metric['D_loss_fake_reg'])         # sorted in another way there
    check(torch.stack(term.anchors()), golden['lecam_after'][:2])
    check(loss, golden['metric/G_loss'])
    check_tensors({**D.state_dict(), **kd.head.state_dict()}, part('kd_step', 'D_after'))
    check_tensors(G.state_dict(), part('kd_step', 'G_after'), no_gradient)
    check_tensors(G_ema.state_dict(), part('kd_step', 'G_ema_after'), no_gradient)
