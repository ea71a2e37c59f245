"""ADA's controller, the weight average, phases, snapshots and image grids."""

import json
import math

import numpy as np
import pytest
import torch

from dnnlib import UserError
from torch_utils import checkpoint, devices, image_grid, training_stats
from torch_utils.images import to_uint8
from training import networks
from training.augment.ada import AdaptiveProbability, set_probability
from training.ema import WeightAverage
from training.phases import make_phases
from training.run import sample_grid
from training.snapshots import files as snapshots


@pytest.fixture(autouse=True)
def fresh_statistics(monkeypatch):
    monkeypatch.setattr(training_stats, '_moments', {})


# -- ADA

def controller(**kwargs):
    p = torch.zeros([])
    return p, AdaptiveProbability(p, **{**dict(target=0.6, interval=4, kimg=1, batch_size=10), **kwargs})


def test_p_moves_one_step_per_interval_towards_the_target():
    """Step = batch * interval / (kimg * 1000) = 0.04; r is the mean over the whole interval."""
    p, ada = controller()
    for i in range(4):
        training_stats.report('Loss/signs/real', [1.0, 1.0] if i < 3 else [1.0, -1.0])       # r = 0.75
        ada.update(i)
        assert p.item() == (0 if i < 3 else pytest.approx(0.04))
    for i in range(4, 8):
        training_stats.report('Loss/signs/real', [-1.0])
        ada.update(i)
    assert p.item() == pytest.approx(0)
    # Nothing reported: nothing moves
    ada.update(11)
    assert p.item() == pytest.approx(0)


@pytest.mark.parametrize('sign, start, end', [(1.0, 0.9, 1.0), (-1.0, 0.1, 0.0)])
def test_p_stays_between_0_and_1(sign, start, end):
    p, ada = controller(interval=1, kimg=0.03)
    p.fill_(start)
    for i in range(5):
        training_stats.report('Loss/signs/real', sign)
        ada.update(i)
        assert 0 <= p.item() <= 1
    assert p.item() == end


def test_a_warning_above_08_once():
    p, ada = controller()
    assert ada.warning() is None
    p.fill_(0.85)
    assert 'augmentation probability is above 0.8' in ada.warning()
    assert ada.warning() is None


def test_pending_signs_survive_a_resume():
    p, ada = controller()
    for i in range(2):
        training_stats.report('Loss/signs/real', [-1.0, -1.0])
        ada.update(i)
    state = {name: value.clone() for name, value in ada.state_dict().items()}
    assert state['pending'].tolist() == [4, -4, 4]
    training_stats.report('Loss/signs/real', [1.0] * 50)                # of another process's life
    q, other = controller()
    q.fill_(0.5)
    other.load_state_dict(state)
    for i in range(2, 4):
        training_stats.report('Loss/signs/real', [1.0])
        other.update(i)
    assert q.item() == pytest.approx(0.46)                              # mean of -1 x4, 1 x2 is below the target


def test_set_probability():
    pipe = torch.nn.Module()
    pipe.register_buffer('p', torch.ones([]))
    set_probability(pipe, 0.3)
    assert pipe.p.item() == pytest.approx(0.3)


# -- weight average

def test_half_life():
    source, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    source.weight.data.fill_(1)
    average.weight.data.fill_(0)
    ema = WeightAverage(source, average, half_life_kimg=0.1)
    for i in range(10):
        ema.update(i * 10, 10)
    assert average.weight.item() == pytest.approx(0.5)                  # after 100 images


def test_rampup_and_start_and_buffers():
    source, average = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    source.running_mean.fill_(3)
    source.weight.data.fill_(2)
    ema = WeightAverage(source, average, half_life_kimg=1, rampup=0.05)
    ema.update(200, 10)                                                 # half-life 200 * 0.05 = 10 images
    assert average.weight.item() == pytest.approx(1.5) and average.running_mean.item() == 3
    late = WeightAverage(source, average, half_life_kimg=1, start_kimg=1)
    late.update(999, 10)
    assert average.weight.item() == 2
    source.weight.data.fill_(100)
    late.update(1000, 10)
    assert average.weight.item() == pytest.approx(2 + 98 * (1 - 0.5 ** 0.01), rel=1e-5)


# -- phases

ADAM = dict(class_name='torch.optim.Adam', lr=0.1, betas=[0, 0.99], eps=1e-8)


class OneWeight(torch.nn.Linear):
    """A network, with a running average as generators may have it."""

    def __init__(self):
        super().__init__(1, 1)
        self.register_buffer('mean', torch.zeros(1))

    def running_averages(self):
        return [self.mean]


def phases_of(G_interval=4, D_interval=16, D_steps=1):
    G, D, extra = OneWeight(), torch.nn.Linear(1, 1), torch.nn.Parameter(torch.zeros(1))
    phases = make_phases(G, D, {'extra': extra}, ADAM, ADAM, G_interval, D_interval, torch.device('cpu'), D_steps)
    return phases, G, D, extra


def test_lazy_regularisation_rescales_the_optimiser():
    phases, *_ = phases_of()
    assert [(p.name, p.interval, p.gain) for p in phases] == [('Gmain', 1, 1), ('Greg', 4, 4), ('Dmain', 1, 1),
                                                              ('Dreg', 16, 16)]
    assert phases[0].opt is phases[1].opt and phases[0].opt is not phases[2].opt
    group = phases[2].opt.param_groups[0]
    assert group['lr'] == pytest.approx(0.1 * 16 / 17) and list(group['betas']) == [0, pytest.approx(0.99 ** (16 / 17))]


def test_without_lazy_regularisation_there_are_two_phases():
    phases, *_ = phases_of(None, None)
    assert [(p.name, p.interval) for p in phases] == [('Gboth', 1), ('Dboth', 1)]
    assert phases[0].opt.param_groups[0]['lr'] == 0.1


def test_several_steps_of_d_for_one_of_g():
    """G regularises in each fourth of its own steps, and stands for those alone; its optimiser is adjusted for
    those."""
    phases, G, *_ = phases_of(D_steps=5)
    assert [(p.name, p.interval, p.gain) for p in phases] == [('Gmain', 5, 1), ('Greg', 20, 4), ('Dmain', 1, 1),
                                                              ('Dreg', 16, 16)]
    assert phases[0].opt.param_groups[0]['lr'] == pytest.approx(0.1 * 4 / 5)
    assert all(len(p.averages) == 1 and p.averages[0] is G.mean for p in phases)
    assert [(p.name, p.interval, p.gain) for p in phases_of(None, None, 5)[0]] == [('Gboth', 5, 1), ('Dboth', 1, 1)]


def test_parameters_of_terms_train_with_d():
    phases, _G, D, extra = phases_of()
    assert any(p is extra for p in phases[2].params) and not any(p is extra for p in phases[0].params)
    phases[2].begin()
    assert extra.requires_grad
    (extra.sum() * 3).backward()
    phases[2].end()
    assert extra.item() == pytest.approx(-0.1 * 16 / 17) and not extra.requires_grad


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_step_with_a_gradient_that_is_not_finite_is_left_out_and_counted(bad):
    phases, G, *_ = phases_of()
    before = G.weight.item()
    collector = training_stats.Collector('Progress/.*')
    for value in (bad, 1.0):
        phases[0].begin()
        (G.weight * value + G.bias).sum().backward()
        phases[0].end()
        if value is bad:
            assert G.weight.item() == before and G.bias.isfinite().all()
    assert G.weight.item() != before
    collector.update()
    assert collector.num('Progress/skipped_steps/Gmain') == 2 and collector.mean('Progress/skipped_steps/Gmain') == 0.5


def test_timers_count_phases():
    phases, G, *_ = phases_of()
    for _ in range(3):
        phases[0].begin()
        phases[0].end()
    sec, count = phases[0].timer.take()
    assert count == 3 and 0 <= sec < 5
    assert phases[0].timer.take() == (0, 0)


# -- snapshots

G_KWARGS = dict(class_name='training.networks.Generator', z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=3,
                mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=32, channel_max=4))


def make_snapshot(path, kwargs=G_KWARGS):
    G = networks.Generator(**{k: v for k, v in kwargs.items() if k != 'class_name'}).eval()
    snapshots.save_networks(str(path), dict(G_ema=G), dict(G_ema=kwargs), dict(cur_nimg=7))
    return G


def test_snapshot_gives_back_the_same_generator(tmp_path):
    path = tmp_path / 'net.safetensors'
    G = make_snapshot(path)
    snapshot = snapshots.load_networks(str(path))
    z = torch.randn(2, 4)
    assert torch.equal(snapshot.G_ema(z, None, noise_mode='const'), G(z, None, noise_mode='const'))
    assert snapshot.info['training'] == dict(cur_nimg=7) and not snapshot.G_ema.training
    assert not any(p.requires_grad for p in snapshot.G_ema.parameters())


def test_a_snapshot_cannot_name_any_class(tmp_path):
    """A file from somebody else must not choose what is called."""
    path = tmp_path / 'net.safetensors'
    checkpoint.save(str(path), 'network', {}, dict(networks=dict(G_ema=dict(class_name='os.system', command='true')),
                                                   training={}))
    with pytest.raises(UserError, match="it asks for the class 'os.system'; only training.networks.Generator and"):
        snapshots.load_networks(str(path))


@pytest.mark.parametrize('half_dtype, device, num', [('float16', 'cpu', 0), ('bfloat16', 'cpu', 2),
                                                     ('float16', 'cuda', 2), ('bfloat16', 'mps', 0)])
def test_precision_suits_the_device(half_dtype, device, num, monkeypatch):
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: True)
    kwargs = dict(G_KWARGS, synthesis_kwargs=dict(num_fp16_res=2, half_dtype=half_dtype))
    assert snapshots.for_inference(kwargs, device)['synthesis_kwargs']['num_fp16_res'] == num
    assert kwargs['synthesis_kwargs']['num_fp16_res'] == 2
    D = dict(class_name='training.networks.Discriminator', num_fp16_res=2, block_kwargs=dict(half_dtype=half_dtype))
    assert snapshots.for_inference(D, device)['num_fp16_res'] == num
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: False)
    assert snapshots.for_inference(D, device)['num_fp16_res'] == (num if device == 'cuda' else 0)


# -- grids

def test_quantisation_rounds_and_clips():
    x = torch.tensor([-2.0, -1.0, -1 + 0.6 / 127.5, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 6)
    assert to_uint8(x).flatten().tolist() == [0, 0, 1, 128, 255, 255]        # (x + 1) * 127.5 + 0.5, cut


def test_grid_layout():
    imgs = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    grid = np.asarray(image_grid.to_grid(imgs, 3))
    assert grid.shape == (4, 6, 3)
    assert grid[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 0]]


@pytest.mark.parametrize('size, limit, expected', [(256, 1024, (30, 16)), (1024, 1024, (7, 4)), (32, 1024, (32, 32)),
                                                   (32, 60, (10, 6)), (64, 4, (2, 2))])
def test_grid_size(size, limit, expected):
    columns, rows = sample_grid.grid_size(size, size, limit)
    assert (columns, rows) == expected and columns * rows <= limit


def test_labelled_grid_enlarges_small_images_and_leaves_room_for_text():
    imgs = torch.full([3, 3, 16, 16], 200, dtype=torch.uint8)
    sheet = np.asarray(image_grid.to_labelled_grid(imgs, 2, ['seed 1', 'seed 2', 'seed 3']))
    assert sheet.shape[1] == 128 and sheet.shape[0] > 128
    assert (sheet[:64, :128] == 200).all()
    assert sheet[64:76, :64].min() < 128                                # dark letters below


def test_labels_that_are_wider_than_the_image_have_room():
    imgs = torch.zeros([2, 3, 16, 16], dtype=torch.uint8)
    short, long, longest = [np.asarray(image_grid.to_labelled_grid(imgs, 2, [text, text]))
                            for text in ('a', 'triangle, seed 12', 'w' * 500)]
    assert short.shape[1] == 2 * 64 < long.shape[1] < longest.shape[1] == 2 * 3 * 64
    side = long.shape[1] // 2
    assert (long[:64, 64:side] == 255).all() and long[66:, 64:side].min() < 128         # text goes on beside the image


def test_one_class_per_row(tiny_data):
    from training.dataset import ImageFolderDataset
    dataset = ImageFolderDataset(tiny_data, use_labels=True)
    items = sample_grid.choose_reals(dataset, columns=4, rows=4, seed=0)
    classes = np.array([dataset.get_label(i).argmax() for i in items]).reshape(4, 4)
    assert (classes == classes[:, :1]).all() and classes[:, 0].tolist() == [0, 1, 0, 1]
    assert json.dumps(items)                                            # plain integers
