"""Held-out images, copies, and the observers of a run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from health_runs import config_of
from resuming import make_run
from small_runs import finished, make_config, trained

from dnnlib import EasyDict, UserError
from inference.neighbors import open_training_images
from inference.trained_on import real_images
from metrics import metric_main, metric_utils
from torch_utils import checkpoint, training_stats
from training.dataset import DatasetError, ImageFolderDataset
from training.observers.near_copies import NearCopies
from training.observers.validation import Validation, overfitting
from training.prior import Prior
from training.run.files import STATE_FILE
from training.training_loop import Run


@pytest.fixture(autouse=True)
def fresh_statistics(monkeypatch):
    monkeypatch.setattr(training_stats, '_moments', {})


def reported(name):
    """Count and mean of a statistic."""
    count, total, _ = training_stats.running_moments(name, 'cpu').tolist()
    return count, total / max(count, 1)


# -- images that are held out

def served(data, **kwargs):
    return ImageFolderDataset(data, **kwargs)._raw_idx.tolist()


def test_what_is_held_out_is_trained_on_by_nobody(tiny_data):
    held_out = served(tiny_data, val_fraction=0.25, part='validation')
    assert len(held_out) == 3 and sorted(held_out + served(tiny_data, val_fraction=0.25)) == list(range(12))
    for seed in range(20):
        held_out = served(tiny_data, val_fraction=0.25, random_seed=seed, part='validation')
        subset = served(tiny_data, val_fraction=0.25, random_seed=seed, max_size=5)
        assert len(set(subset)) == 5 and not set(subset) & set(held_out)
    assert len({tuple(served(tiny_data, val_fraction=0.25, random_seed=seed, part='validation'))
                for seed in range(20)}) > 10
    assert served(tiny_data, random_seed=3) == list(range(12))
    order = np.arange(12)
    np.random.RandomState(3).shuffle(order)                                 # as it has always been
    assert served(tiny_data, random_seed=3, max_size=5) == sorted(order[:5])


@pytest.mark.parametrize('share', [0.01, 0.999, -1, float('nan'), 2])
def test_a_share_of_no_image_or_of_all(share, tiny_data):
    with pytest.raises(DatasetError, match='of its 12 images cannot be held out for validation; .* use 0.083 or more'):
        ImageFolderDataset(tiny_data, val_fraction=share)


def test_neither_teacher_nor_metrics_see_them(tiny_data):
    config = config_of(tiny_data, '--val-fraction=0.25', '--kd=agkd', '--kd-teacher=demo', '--seed=5')
    kwargs = config.training_set_kwargs
    assert kwargs['max_size'] == 9 and config.terms['kd']['training_set_kwargs'] == kwargs
    with pytest.raises(UserError, match='--subset=10: .* has 9 images'):
        config_of(tiny_data, '--val-fraction=0.25', '--subset=10')
    subset = config_of(tiny_data, '--val-fraction=0.25', '--subset=4', '--seed=5').training_set_kwargs
    info = dict(networks=dict(G_ema=dict(img_resolution=16)), training=dict(options=dict(training_set_kwargs=subset)))
    held_out = set(served(tiny_data, val_fraction=0.25, random_seed=5, part='validation'))
    for given in (kwargs, subset, real_images(None, '--ref', 'x', info)):
        reference = metric_utils.open_reference(given)
        assert set(reference._raw_idx.tolist()) == set(range(12)) - held_out and reference.num_held_out == 3
    assert len(metric_utils.open_reference(real_images(tiny_data, '--ref', 'x', info))) == 12
    record = metric_main._reference(SimpleNamespace(reference=reference))
    assert record['held_out'] == 3 and record['images'] == 9
    G = SimpleNamespace(img_channels=3, img_resolution=16)
    searched = open_training_images(None, None, SimpleNamespace(G_ema=G, info=info), 'x')
    assert len(searched) == 4 and set(searched._raw_idx.tolist()) < set(range(12)) - held_out
    assert reference.facts()['held_out'] == 3 and 'held_out' not in ImageFolderDataset(tiny_data).facts()
    assert reference.content_hash() != ImageFolderDataset(tiny_data).content_hash()


# -- D on held-out images

def test_labels_of_the_watched_images(tiny_data, tmp_path):
    """Each image is made and judged under its own label: blue and red ones, and fakes, with labels of held-out ones."""
    config = config_of(tiny_data, '--cond=1', '--val-fraction=0.5', '--aug=noaug')
    job = Run(config, str(tmp_path), torch.device('cpu'))
    made, judged = [], []
    mapping, D = job.training.G.mapping.forward, job.training.D.forward
    job.training.G.mapping.forward = lambda z, c, **kwargs: made.append(c) or mapping(z, c, **kwargs)
    job.training.D.forward = lambda img, c: judged.append((img, c)) or D(img, c)
    job.observers['validation'].start(job.training)
    job.observers['validation'].report(job.training)
    (held_out, c), (trained, trained_c), (_fakes, fakes_c) = judged
    for img, label in ((held_out, c), (trained, trained_c)):
        red = img[:, 0].mean(dim=[1, 2]) > img[:, 2].mean(dim=[1, 2])
        assert torch.equal(label, torch.nn.functional.one_hot(red.long(), 2).float()) and label.mean(dim=0).min() > 0
    assert len(made) == 1 and torch.equal(made[0], fakes_c) and not torch.equal(fakes_c, trained_c)


def test_the_heuristic_of_the_paper():
    r_v = lambda *means: overfitting(*(torch.tensor(mean) for mean in means)).item()
    assert r_v(2.0, 2.0, -1.0) == 0 and r_v(-1.0, 2.0, -1.0) == 1 and r_v(0.5, 2.0, -1.0) == pytest.approx(0.5)
    assert r_v(-9.0, 2.0, -1.0) == 2 and r_v(0.1, 0.0, 0.0) == -1             # cut


class MeanInEvalMode(torch.nn.Module):
    """A D whose passes would leave a trace in training mode, as those of batch and spectral norms do."""

    def forward(self, img, c):
        assert not self.training
        return img.mean(dim=[1, 2, 3])[:, None]


def validation_training(data, rank=0, num_ranks=1):
    """D is the mean of the pixels, fakes are black (-1), images are augmented by adding 0.5."""
    config = EasyDict(batch_gpu=4, batch_size=4 * num_ranks, random_seed=0, data_loader_kwargs=dict(num_workers=0),
                      training_set_kwargs=dict(class_name='training.dataset.ImageFolderDataset', path=data,
                                               val_fraction=0.5, xflip=True))
    G, D = torch.nn.Module(), MeanInEvalMode()
    G.z_dim, G.mapping = 2, lambda z, c, skip_w_avg_update: z
    G.synthesis = lambda ws: -torch.ones(len(ws), 3, 16, 16) / (not G.training)
    loss = SimpleNamespace(augment=lambda img: img + 0.5 * torch.rand([]).ceil())
    reals = SimpleNamespace(in_memory=True, batch=lambda nimg: SimpleNamespace(img=torch.full([4, 3, 16, 16], 0.25),
                                                                               c=torch.zeros(4, 0)))
    return SimpleNamespace(config=config, device=torch.device('cpu'), rank=rank, num_ranks=num_ranks, cur_nimg=40, G=G,
                           D=D, loss=loss, reals=reals)


@pytest.mark.parametrize('num_ranks', [1, 2, 4])
def test_every_held_out_image_counts_once(num_ranks, tiny_data):
    """Six images in batches of four, whatever the number of processes; the random numbers of the training go on as
    before."""
    held_out = ImageFolderDataset(tiny_data, val_fraction=0.5, part='validation')
    expected = np.mean([held_out[i][0].astype(np.float64) / 127.5 - 1 for i in range(6)]) + 0.5
    before = torch.get_rng_state()
    for rank in range(num_ranks):
        training = validation_training(tiny_data, rank, num_ranks)
        observer = Validation()
        observer.start(training)
        observer.report(training)
        assert training.G.training and training.D.training
    assert torch.equal(torch.get_rng_state(), before)
    for kind, mean in dict(validation=expected, training=0.75, fake=-0.5).items():
        assert reported(f'Health/scores/{kind}') == (6, pytest.approx(mean, abs=1e-5))
        assert reported(f'Health/signs/{kind}') == (6, np.sign(mean))
    if num_ranks == 1:
        assert reported('Health/overfitting') == (1, pytest.approx((0.75 - expected) / 1.25, abs=1e-5))


def test_the_stream_of_the_training_is_left_alone(tiny_data, tmp_path):
    """It has read ahead; the values are those of images kept in memory."""
    found = []
    for limit in (None, 0):
        config = make_config(tiny_data, '--cfg=demo', '--batch=4', '--aug=noaug', '--val-fraction=0.25', '--fp32=1')
        config.data_loader_kwargs['memory_limit_gb'] = limit
        job = make_run(config, tmp_path)
        job.training.step()
        stream, observer = (job.training.reals._stream, job.training.reals._stream_nimg), job.observers['validation']
        observer.start(job.training)
        collector = training_stats.Collector('Health/.*')
        observer.report(job.training)
        collector.update()
        found.append(collector.as_dict())
        reals = job.training.reals
        assert ((reals._stream, reals._stream_nimg) == stream
                and (stream[0] is None) == reals.in_memory == (limit is None))
    assert found[0] == found[1] and found[0]['Health/scores/training']['num'] == 3


# -- copies

REALS = torch.randn([40, 3, 8, 8], generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def share_of(fakes, xflip=False, features=None, reals=REALS):
    """`Health/copies` and `Health/repeats` of a generator that makes these images."""
    item = lambda i: (((reals[i] + 1) * 127.5).round().to(torch.uint8).numpy(), None)
    dataset = type('Data', (), dict(num_images=len(reals), xflip=xflip, __getitem__=lambda self, i: item(i)))()
    term = SimpleNamespace(image_features=features)
    made = lambda z, c, noise_mode: fakes[z[:, 0].to(torch.int64)]
    training = SimpleNamespace(config=EasyDict(random_seed=0, batch_gpu=7), dataset=dataset, rank=0, num_ranks=1,
                               device=torch.device('cpu'),
                               loss=SimpleNamespace(terms=dict(a=SimpleNamespace(image_features=None), b=term)),
                               prior=Prior(1, torch.zeros(40, 0), 'cpu'), G_ema=made)
    observer = NearCopies(len(fakes))
    observer.start(training)
    observer.z = torch.arange(len(fakes))[:, None]
    observer.report(training)
    return tuple(reported(f'Health/{name}')[1] for name in ('copies', 'repeats'))


def test_copies_and_repeats_are_found():
    """White noise: all images are about equally far from each other, so new ones are hardly ever near."""
    new = torch.randn([40, 3, 8, 8], generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    copies, repeats = share_of(new)
    assert copies <= 0.2 and repeats <= 0.2
    training_stats._moments.clear()
    assert share_of(torch.cat([REALS[:20] + 0.01, new[:20]]))[0] == pytest.approx(0.5, abs=0.1)
    training_stats._moments.clear()
    assert share_of(new[:1].expand(40, -1, -1, -1))[1] == 1


@pytest.mark.parametrize('xflip, share', [(False, 0.0), (True, 1.0)])
def test_mirrored_copies_count_where_the_training_mirrors(xflip, share):
    assert share_of(REALS[:30].flip(3), xflip)[0] == pytest.approx(share, abs=0.15)


def test_near_is_what_5_percent_of_the_training_images_are():
    """Brute force, in the space that a method offers: there everything but the first two pixels is ignored."""
    features = lambda img: img[:, 0, 0, :2].to(torch.float64)
    new = torch.randn([40, 3, 8, 8], generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    unit = lambda x: features(x) / features(x).norm(dim=1, keepdim=True)
    rounded = ((REALS + 1) * 127.5).round() / 127.5 - 1
    real, gen = unit(rounded), unit(new)
    nearest = lambda a, b, skip: np.array([min(float((x - y).norm()) for j, y in enumerate(b) if not (skip and i == j))
                                           for i, x in enumerate(a)])
    between = nearest(real, real, True)
    limit = np.quantile(between[between > 1e-6], 0.05)
    expected = (nearest(gen, real, False) < limit).mean(), (nearest(gen, gen, True) < limit).mean()
    assert share_of(new, features=features) == pytest.approx(expected) and expected[0] > 0


def test_training_images_that_are_all_the_same():
    assert share_of(torch.zeros(5, 3, 8, 8), reals=torch.zeros(6, 3, 8, 8)) == (0, 0)


# -- a run with all of it

def test_observers_change_nothing_in_the_training(tiny_data, tmp_path, capsys):
    """Bit for bit the same state; and what they report is in stats.jsonl and in the line of the tick."""
    options = ['--val-fraction=0.25', '--aug=ada', '--kd=agkd,cgkd', '--kd-teacher=demo', '--kimg=0.016',
               '--tick=0.008', '--snap=1']
    watched = finished(config_of(tiny_data, *options, '--health=10'), tmp_path / 'watched')
    tensors, _ = checkpoint.load(str(tmp_path / 'watched' / STATE_FILE), 'training-state')
    titles = next(line for line in capsys.readouterr().out.splitlines() if ' r_t ' in line).split()
    assert {'r_t', 'r_v', 'agree', 'copies', 'repeats'} <= set(titles)
    others, _ = trained(config_of(tiny_data, *options, observers={}), tmp_path / 'alone')
    assert (tensors.keys() == others.keys()
            and [name for name in tensors if not torch.equal(tensors[name], others[name])] == [])
    stats = [json.loads(line) for line in (tmp_path / 'watched' / 'stats.jsonl').read_text().splitlines()]
    assert {'Health/scores/validation', 'Health/overfitting', 'Health/copies', 'Health/repeats', 'KD/agreement_real',
            'KD/agreement_fake'} <= set(stats[0])
    assert stats[0]['Health/signs/validation']['num'] == 3 and stats[0]['Health/copies']['num'] == 8
    assert all(-1 <= stats[0][f'KD/agreement_{kind}']['mean'] <= 1 for kind in ('real', 'fake'))
    assert watched.observers['near_copies'].offered is not None


def test_ada_begins_without_augmentation(tiny_data, tmp_path):
    assert Run(config_of(tiny_data, '--aug=ada'), str(tmp_path),
               torch.device('cpu')).training.augment_pipe.p.item() == 0
    assert Run(config_of(tiny_data, '--aug=fixed', '--p=0.25'), str(tmp_path),
               torch.device('cpu')).training.augment_pipe.p.item() == 0.25
