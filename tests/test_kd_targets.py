"""What the student is pulled to: targets worked out by hand, their length, the way back, and a run's statistics."""

import math
from types import SimpleNamespace

import pytest
import torch
from kd_toys import DIM, setup, step, toy_teacher

from dnnlib import UserError
from kd_plugin import loss
from kd_plugin.distillers import agkd, cgkd, targets
from kd_plugin.distillers.distiller import Pass
from kd_plugin.distillers.settings import PRESETS
from kd_plugin.teacher import load_teacher
from training.dataset import ImageFolderDataset
from training.dataset import demo as demo_data

FEATS = torch.tensor([[1., 2], [3, 2], [1, 6], [3, 6]])         # mean (2, 4), standard deviations 1 and 2


def test_centred_by_hand():
    """Root mean square of |I - m|: sqrt(1 + 4); (1, 2) - m = (-1, -2)."""
    t = targets.Centred(FEATS, 'x')
    torch.testing.assert_close(t(FEATS[:1]), torch.tensor([[-10, -20]]) / math.sqrt(5))
    torch.testing.assert_close(t.embedding(t(FEATS)), FEATS)


def test_per_channel_by_hand():
    """No channel at the floor: (I - m) / s * 10 / sqrt(2)."""
    t = targets.PerChannel(FEATS, 'x')
    torch.testing.assert_close(t(FEATS[:1]), torch.tensor([[-10., -10]]) / math.sqrt(2))
    torch.testing.assert_close(t.embedding(t(FEATS)), FEATS)


def test_a_channel_that_hardly_changes_is_held_by_the_floor():
    """Deviations 1, 2 and 0.001: the floor is 0.1 sqrt((1 + 4 + 1e-6) / 3); the length is still 10."""
    feats = torch.cat([FEATS, torch.tensor([[0.001], [-0.001], [-0.001], [0.001]])], dim=1)
    floor = 0.1 * math.sqrt((5 + 1e-6) / 3)
    a = 10 / math.sqrt(1 + 1 + (0.001 / floor) ** 2)
    torch.testing.assert_close(targets.PerChannel(feats, 'x')(feats[:1]), torch.tensor([[-a, -a, a * 0.001 / floor]]))


@pytest.mark.parametrize('name', ['unit', 'centred', 'channel'])
def test_targets_have_the_length_that_the_weights_are_made_for(name):
    feats = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 3, 0.1, 5, 0]) + 7
    t = targets.TARGETS[name](*[feats, 'x'] if targets.TARGETS[name].has_statistics else [])
    assert t(feats).square().sum(1).mean().sqrt().item() == pytest.approx(10, rel=1e-5)
    assert torch.equal(targets.Raw()(feats), feats)


def test_images_that_are_all_the_same():
    for kind in (targets.Centred, targets.PerChannel):
        with pytest.raises(UserError, match='--kd-target-norm: for the teacher all training images are the same'):
            kind(torch.ones(4, 3), 'x')


def test_statistics_are_state_but_not_those_of_other_images():
    own, same, other = targets.Centred(FEATS, 'x'), targets.Centred(FEATS * 3, 'x'), targets.Centred(FEATS * 5, 'y')
    before = {name: value.clone() for name, value in own.state_dict().items()}
    own.load_state_dict(other.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    own.load_state_dict(same.state_dict())
    assert torch.equal(own.shift, torch.tensor([6., 12])) and own.shift is not same.shift


def test_who_is_pulled_to_what():
    """AGKD to the targets; CGKD compares the student, turned back, with texts. On target neither has a loss."""
    teacher = toy_teacher()
    feats = torch.randn(30, DIM, generator=torch.Generator().manual_seed(0)) + 3
    G, D, kd, kd_loss = setup(teacher, targets=targets.Centred(feats, 'x'), p=0.0, pd='off')
    seen = {}
    for name, method in kd.methods.items():
        method.d_losses = lambda rows, name=name: seen.setdefault((name, rows.kind), rows) and {}
    step(kd_loss, 'Dmain', G, D, kd)
    for kind in ('fake', 'real'):
        of_agkd, of_cgkd = seen['agkd', kind], seen['cgkd', kind]
        scale = (feats - feats.mean(0)).square().sum(1).mean().sqrt() / 10
        torch.testing.assert_close(of_agkd.own * scale + feats.mean(0), of_cgkd.own)
        torch.testing.assert_close(of_agkd.student * scale + feats.mean(0), of_cgkd.student)
    texts = teacher.encode_text(['a', 'bb', 'ccc'])
    own = targets.Centred(feats, 'x')(feats[:4])
    student = targets.Centred(feats, 'x').embedding(own)
    paper = PRESETS['paper']
    assert agkd.AGKD(paper._replace(p=0)).distance(own, own).abs().max() == 0
    of_cgkd = cgkd.CGKD(paper._replace(pd='off'), texts).loss(Pass('fake', student, feats[:4], feats[:4]))
    assert of_cgkd.max().item() == pytest.approx(0, abs=1e-5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path))


@pytest.mark.parametrize('view, images', [('clean', 10_000), ('augmented', 10_000), ('augmented', 40)])
def test_statistics_of_a_run(view, images, cache, monkeypatch):
    """Of all images and their mirror images, or of some spread evenly, also where the teacher sees augmented ones."""
    monkeypatch.setattr(loss, 'STATISTICS_IMAGES', images)
    data = dict(class_name='training.dataset.ImageFolderDataset', path=demo_data.demo_set(32), xflip=True)
    settings = dict(PRESETS['paper']._asdict(), view=view, target_norm='centred')
    kd = loss.Distillation.build('cpu', SimpleNamespace(feature_dim=16), ['agkd'], 'demo', [], 'none', settings, data)
    items = range(200) if images > 200 else [round(i * 199 / 39) for i in range(40)]
    dataset = ImageFolderDataset(demo_data.demo_set(32), xflip=True)
    img = torch.stack([torch.from_numpy(dataset[i][0]) for i in items]).float() / 127.5 - 1
    feats = load_teacher('demo').encode_image(img)
    torch.testing.assert_close(kd.targets.shift, feats.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kd.targets.scale, (feats - feats.mean(0)).square().sum(1).mean().sqrt() / 10)
    assert (kd.cache is None) == (view == 'augmented')


# -- the distance of directions

def test_cosine_distance_by_hand():
    """(3, 4) and (8, 6): cosine 0.96; AGKD 100 (1 - cos), half the squared distance at length 10; CGKD at length 1."""
    a, b = torch.tensor([[3., 4]]), torch.tensor([[8., 6]])
    assert agkd.cosine(a, b).item() == pytest.approx(4, rel=1e-4)
    assert agkd.cosine(a, b).item() == pytest.approx(0.5 * (2 * a - b).square().sum().item(), rel=1e-4)
    assert cgkd.cosine(a / 5, b / 10).item() == pytest.approx(0.04, rel=1e-4)
    assert agkd.AGKD(PRESETS['paper']._replace(distance='cosine')).distance is agkd.cosine
    assert cgkd.CGKD(PRESETS['paper']._replace(distance='cosine', pd='off'), torch.eye(3)).distance is cgkd.cosine


def test_cosine_distance_of_a_student_without_direction():
    student = torch.zeros(1, 3, requires_grad=True)
    agkd.cosine(torch.ones(1, 3), student).sum().backward()
    assert student.grad.isfinite().all()
