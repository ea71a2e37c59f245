"""Vision-aided training as its BigGAN program has it: heads, hinge and spectral norms written out, and what is
refused."""

import pytest
import torch
from conftest import parse_options
from tiny_gan import N, batch, make_loss, nets, run

import train
from dnnlib import EasyDict, UserError
from kd_plugin import vision_aided
from kd_plugin.teacher import Preprocess, Teacher
from kd_plugin.vision_aided import METHOD, VisionAided
from kd_plugin.vision_heads import BigGANHead

F = torch.nn.functional
LABELS = torch.eye(3)[[0, 2, 1, 1]]


class Encoder(torch.nn.Module):
    """A vector for each image, of any length."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3 * 8 * 8, 5)

    def image_features(self, x):
        return self.linear(x.flatten(1)) * 3


class MapEncoder(Encoder):
    """One that also offers the map whose mean the vector is."""

    def last_map(self, x):
        return torch.cat([x, x.square()], dim=1)[:, :5, :7, :7]

    def image_features(self, x):
        return self.last_map(x).mean([2, 3])


def toy(encoder):
    torch.manual_seed(3)
    return Teacher(encoder(), Preprocess(8, (0.5,) * 3, (0.5,) * 3), 5, 'toy', norm=10)


def settled(layer):
    """W / |W|, after power iterations enough."""
    for _ in range(300):
        layer.normalised(torch.float32)
    return layer.weight / torch.linalg.matrix_norm(layer.weight.flatten(1), 2)


def blurred(x):
    """The binomial filter (1, 3, 3, 1) / 8 in both directions; the side stays."""
    f = torch.tensor([1.0, 3, 3, 1]) / 8
    return F.conv2d(F.pad(x, [1, 2, 1, 2]), (f[:, None] * f).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


@pytest.mark.parametrize('side', [0, 7])
def test_head_written_out(side):
    torch.manual_seed(0)
    head = BigGANHead(5, side, c_dim=3, hidden=8)
    assert all(0.01 < layer.weight.std() < 0.03 for layer in (head.first, head.label))
    for layer in (head.first, head.out, head.label):
        torch.nn.init.normal_(layer.weight)
    x = torch.randn(4, 5, side, side) if side else torch.randn(4, 5)
    want = x
    if side:
        assert head.first.weight.shape == (8, 8 * 3 * 3)
        want = F.conv2d(blurred(x), settled(head.conv), head.conv.bias, stride=2).clamp(min=0).flatten(1)
    hidden = (want @ settled(head.first).t() + head.first.bias).clamp(min=0)
    want = hidden @ settled(head.out).t() + head.out.bias
    want = want + torch.stack([head.label.weight[i] @ h for i, h in zip([0, 2, 1, 1], hidden, strict=True)])[:, None]
    torch.testing.assert_close(head.eval()(x, LABELS), want, rtol=1e-3, atol=1e-4)
    without = BigGANHead(5, side, hidden=8)
    assert without.label is None and without(x, None).shape == (4, 1)


def setup(monkeypatch, encoder=Encoder, **settings):
    teacher = toy(encoder)
    monkeypatch.setattr(vision_aided, 'load_for_training', lambda name, device, fp32, option: teacher)
    n = nets(c_dim=3)
    term = VisionAided(['a', 'b'], **{'recipe': 'biggan', 'warmup': 0, **settings})
    loss = make_loss(n, terms=dict(vision_aided=term), gan_loss='hinge', augment_pipe=lambda img: img * 0)
    loss.start_step(0)
    return teacher, n, term, loss


@pytest.mark.parametrize('encoder', [Encoder, MapEncoder])
def test_losses_written_out(monkeypatch, encoder):
    """Hinge of each teacher, summed, on the images before D's augmentation, each under a DiffAugment of its own, on
    features as long as the encoder gives them."""
    teacher, n, term, loss = setup(monkeypatch, encoder, weight=0.5)
    for p in term.heads.parameters():
        torch.nn.init.normal_(p)
    drawn, seen = [], {}
    monkeypatch.setattr(term.augment, 'forward', lambda img: drawn.append(len(drawn)) or img.flip(3) + drawn[-1])
    original = term._term

    def record(kind, img, c, frozen):
        heads = [head.train(kind != 'fake') and head.state_dict() for (head,) in term.heads]
        heads = [{name: value.clone() for name, value in state.items()} for state in heads]
        seen[kind] = original(kind, img, c, frozen), img.detach(), heads
        return seen[kind][0]
    monkeypatch.setattr(term, '_term', record)
    for phase in ('Dmain', 'Gmain'):
        run(n, loss, phase, real_c=LABELS, gen_c=LABELS)
    assert drawn == list(range(6)) and torch.equal(seen['real'][1], batch()['real_img'])
    side = 7 if encoder is MapEncoder else 0
    for number, (kind, sign) in enumerate([('fake', 1), ('real', -1), ('generator', -1)]):
        values, img, heads = seen[kind]
        want = torch.zeros(N)
        for i, state in enumerate(heads):
            head = BigGANHead(5, side, c_dim=3)
            head.load_state_dict(state)
            x = F.avg_pool2d(img.flip(3) + 2 * number + i, 2)           # from 16 to 8, by area
            x = getattr(teacher.encoder, 'last_map' if side else 'image_features')(x)
            logits = sign * head(x, LABELS)[:, 0]
            want = want + 0.5 * (logits if kind == 'generator' else (1 + logits).clamp(min=0))
        torch.testing.assert_close(values[f'VisionAided/{kind}'], want, rtol=1e-4, atol=1e-4)


def test_one_power_iteration_in_a_step_of_d_and_one_in_a_step_of_g(monkeypatch):
    _teacher, n, term, loss = setup(monkeypatch)
    layer = term.heads[0][0].first
    unit = lambda x: x / x.norm()
    u = layer.u0[0].clone()
    for phase in ('Dmain', 'Gmain'):
        run(n, loss, phase, real_c=LABELS, gen_c=LABELS)
        v = unit(u @ layer.weight)
        u = unit(layer.weight @ v)
        torch.testing.assert_close(layer.u0[0], u.detach())


def configured(**opts):
    config = EasyDict(loss_kwargs=dict(one_pass=True), batch_size=50, D_steps=4, total_kimg=50_000,
                      device='cpu')
    given = dict(vision_aided='clip', fp32=True, vision_aided_warmup=None, vision_aided_recipe=None,
                 vision_aided_real_label=None, vision_aided_policy=None)
    return METHOD.configure(EasyDict({**given, **opts}), config, None)


def test_biggan_has_its_own_defaults(tiny_data):
    """2000 iterations of four D steps with 50 reals each; the hinge knows no label."""
    assert configured() == dict(teachers=['ViT-B/32'], recipe='biggan', warmup=400.0, fp32=True)
    assert configured(vision_aided_warmup=3.0, vision_aided_recipe='package')['recipe'] == 'package'
    args = '--outdir=x', f'--data={tiny_data}', '--device=cpu', '--vision-aided=clip', '--vision-aided-recipe=biggan'
    config, name = train.build_config(parse_options(*args))
    assert config.terms['vision_aided']['warmup'] == 100 and name == 'tiny-auto1-vision-aided-clip-recipe-biggan'
    with pytest.raises(UserError, match='--vision-aided-real-label=0.8: has no effect with '
                                        '--vision-aided-recipe=biggan, whose hinge loss knows no label; leave it out'):
        train.build_config(parse_options(*args, '--vision-aided-real-label=0.8'))
