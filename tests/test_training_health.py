"""Observers of a run: held-out images, copies, early stopping; and what they must not change."""

import json
import os
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from resuming import make_run
from small_runs import finished, make_config, trained

from dnnlib import EasyDict, UserError
from inference.neighbors import open_training_images
from inference.trained_on import real_images
from metrics import metric_main, metric_utils
from torch_utils import checkpoint, training_stats
from training.dataset import DatasetError, ImageFolderDataset
from training.launch import launch
from training.observers import early_stop
from training.observers.near_copies import NearCopies
from training.observers.validation import Validation, overfitting
from training.prior import Prior
from training.run import keep as snapshot_keep
from training.run.files import STATE_FILE
from training.run.find import find_run
from training.training_loop import Run


@pytest.fixture(autouse=True)
def fresh_statistics(monkeypatch):
    monkeypatch.setattr(training_stats, '_moments', {})


def reported(name):
    """Count and mean of a statistic."""
    count, total, _ = training_stats.running_moments(name, 'cpu').tolist()
    return count, total / max(count, 1)


def config_of(data, *args, **changes):
    return make_config(data, '--batch=8', *args, **changes)


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
    assert set(searched._raw_idx.tolist()) == set(range(12)) - held_out
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


# -- early stopping

@pytest.mark.parametrize('values, min_delta, waited', [
    ([], 0, 0), ([5], 0, 0), ([5, 4, 3], 0, 0), ([5, 4, 4], 0, 1), ([5, 6, None, 7], 0, 3), ([None, None], 0, 2),
    ([None, 5], 0, 0),
    ([5, 4.9, 4.8, 4.7], 0.25, 0), ([5, 4.9, 4.8], 0.25, 2), ([5, 6, 4, 7, 8], 0, 2)])
def test_evaluations_without_improvement(values, min_delta, waited):
    assert early_stop.evaluations_since_best([dict(value=value) for value in values], min_delta) == waited
    mirrored = [dict(value=value and -value, better='higher') for value in values]
    assert early_stop.evaluations_since_best(mirrored, min_delta) == waited


def test_the_history_of_a_run(tmp_path):
    """Later values, other protocols, and earlier values of the same snapshot do not count."""
    record = lambda nimg, value, seed=0: json.dumps(dict(metric='m', value=value, cur_nimg=nimg, snapshot=f's{nimg}',
                                                         generated=dict(seed=seed)))
    lines = [record(1000, 9), record(1000, 5), record(2000, 1, seed=7), record(2000, 6), record(4000, 0),
             record(3000, 7),
             record(1000, 3, seed=7), 'cut']
    (tmp_path / 'metric-m.jsonl').write_text('\n'.join(lines))
    assert [r['value'] for r in early_stop.history(str(tmp_path), 'm', 3000)] == [5, 6, 7]
    assert early_stop.history(str(tmp_path), 'm', 3500) == [] and early_stop.history(str(tmp_path), 'n', 3000) == []
    why = 'm has not got better in 2 evaluations; the best is 5.0000 of s1000'
    assert early_stop.EarlyStop('m', 2).verdict(str(tmp_path), 3000) == why
    assert early_stop.EarlyStop('m', 3).verdict(str(tmp_path), 3000) is None


@pytest.mark.parametrize('rule, message', [
    ('fid5k_full', 'must be like metric=fid5k_full,patience=5'), ('metric=a,patience=2,x=1', 'must be like'),
    ('patience=3', 'must be like'),
    ('metric=kid5k_full,patience=3', 'kid5k_full is not measured in this run .--metrics=fid5k_full.; add it there'),
    ('metric=fid5k_full,patience=0', 'patience must be at least 1'),
    ('metric=fid5k_full,patience=many', 'patience=many is no whole number'),
    ('metric=fid5k_full,patience=2,min-delta=nan', 'min-delta=nan is no number'),
    ('metric=fid5k_full,patience=2,min-delta=-1', 'min-delta=-1 is no')])
def test_rules_that_are_refused(rule, message):
    with pytest.raises(UserError, match=f'--early-stop=.*{message}'):
        early_stop.parse(rule, ['fid5k_full'])
    assert early_stop.parse('patience=2, metric=a,min-delta=0.5', ['a']) == dict(metric='a', patience=2, min_delta=0.5)
    other_name = early_stop.parse('patience=2,metric=featfid8_full', ['clipfid8_full'])
    assert other_name == dict(metric='featfid8_full', patience=2)


def test_the_best_snapshot_of_early_stopping_is_kept(tmp_path):
    for kimg, values in {1: (3, 9), 2: (1, 8), 3: (4, 5), 4: (2, 7), 5: (5, 6)}.items():
        name = f'network-snapshot-{kimg:06d}.safetensors'
        (tmp_path / name).touch()
        for metric, value in zip('mn', values, strict=True):
            with open(tmp_path / f'metric-{metric}.jsonl', 'a') as f:
                f.write(json.dumps(dict(metric=metric, snapshot=name, value=value)) + '\n')
    keep = snapshot_keep.parse('last=1,best=1', ['m', 'n'], stop_metric='n')
    snapshot_keep.prune(str(tmp_path), keep, ['m', 'n'])
    assert sorted(int(p.name[17:23]) for p in tmp_path.glob('*.safetensors')) == [2, 3, 5]
    snapshot_keep.prune(str(tmp_path), snapshot_keep.parse('last=1', ['m', 'n'], stop_metric='m'), ['m', 'n'])
    assert sorted(int(p.name[17:23]) for p in tmp_path.glob('*.safetensors')) == [2, 5]
    assert snapshot_keep.parse('all', ['m'], stop_metric='m') is None


def measured(metrics, run_dir, snapshot, cur_nimg, **_others):
    """Stands in for the metrics: the value grows, so the first snapshot is the best."""
    for metric in metrics:
        with open(os.path.join(run_dir, f'metric-{metric}.jsonl'), 'a') as f:
            f.write(json.dumps(dict(metric=metric, value=cur_nimg, cur_nimg=cur_nimg,
                                    snapshot=os.path.basename(snapshot))) + '\n')


def stopping_config(data, patience=2, kimg=0.08):
    config = config_of(data, f'--kimg={kimg}', '--tick=0.008', '--snap=1', '--health=0', '--metrics=clipfid8_full',
                       '--snapshot-keep=last=1',
                       f'--early-stop=metric=clipfid8_full,patience={patience}')
    config.metric_kwargs = dict(func_name='test_training_health.measured')
    return config


def kimg_of(run_dir):
    return [json.loads(line)['Progress/kimg']['mean']
            for line in pathlib.Path(run_dir, 'stats.jsonl').read_text().splitlines()]


def test_a_run_ends_by_a_verdict(tiny_data, tmp_path, capsys):
    """After the third of ten ticks; it is complete until the rule or the length changes."""
    find = lambda **kwargs: find_run(str(tmp_path), stopping_config(tiny_data, **kwargs), 'run', new_run=False)
    run_dir, _ = find()
    launch(stopping_config(tiny_data), run_dir)
    assert ('Ended at 0.024 kimg by early_stop: clipfid8_full has not got better in 2 evaluations; the best is '
            '8.0000' in capsys.readouterr().out)
    assert (kimg_of(run_dir) == pytest.approx([0.008, 0.016, 0.024])
            and os.path.isfile(os.path.join(run_dir, 'model_card.md')))
    assert sorted(p.name for p in pathlib.Path(run_dir).glob('network*')) == [f'network-snapshot-000000.{n}.safetensors'
                                                                              for n in ('008', '024')]
    assert find() == (run_dir, 'complete')
    assert find(patience=3) == (run_dir, 'continue') and find(kimg=0.16) == (run_dir, 'continue')
    os.remove(os.path.join(run_dir, 'model_card.md'))
    # A crash before the card: nothing is trained any more
    assert find() == (run_dir, 'continue')
    launch(stopping_config(tiny_data), run_dir)
    assert len(kimg_of(run_dir)) == 3 and find() == (run_dir, 'complete')
    launch(stopping_config(tiny_data, patience=4), run_dir)
    assert len(kimg_of(run_dir)) == 5 and find(patience=4) == (run_dir, 'complete')


def test_a_crash_before_the_verdict_is_made_up_for(tiny_data, tmp_path, monkeypatch):
    crash = lambda job, saved=True: (_ for _ in ()).throw(OSError('crash')) if job.cur_nimg == 24 else None
    monkeypatch.setattr(Run, '_ask_observers', crash)
    with pytest.raises(OSError, match='crash'):
        finished(stopping_config(tiny_data), tmp_path)
    monkeypatch.undo()
    job = finished(stopping_config(tiny_data), tmp_path)
    assert job.cur_nimg == 24 and job.state.ended['by'] == 'early_stop' and len(kimg_of(tmp_path)) == 3


def test_an_observer_may_end_a_run_between_snapshots(tiny_data, tmp_path, monkeypatch):
    config = stopping_config(tiny_data)
    config.network_snapshot_ticks = 5
    monkeypatch.setattr(early_stop.EarlyStop, 'verdict',
                        lambda self, run_dir, cur_nimg: 'enough' if cur_nimg == 16 else None)
    job = finished(config, tmp_path)
    assert job.cur_nimg == 16 and (tmp_path / 'network-snapshot-000000.016.safetensors').is_file()
    assert json.loads((tmp_path / 'metric-clipfid8_full.jsonl').read_text())['cur_nimg'] == 16
