"""A run with a snapshot, statistics and measurements, each value of its own, for model cards."""

import json
import os

from training.dataset import ImageFolderDataset
from training.networks import Generator
from training.snapshots import files as snapshots

KWARGS = dict(class_name='training.networks.Generator', z_dim=4, c_dim=0, w_dim=4, img_resolution=16, img_channels=3,
              mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=8, num_fp16_res=4))
KD = dict(class_name='kd_plugin.loss.Distillation', methods=['agkd'], teacher='/somewhere/teacher.safetensors',
          settings=dict(weight_agkd=0.44, texts='auto'))


def make_run(folder, data, c_dim=0, **changes):
    """A run of 24 kimg with a snapshot, statistics and measurements; the options are what a card shows, each with a
    value of its own."""
    folder.mkdir(parents=True)
    options = dict(training_set_kwargs=data, batch_size=17, ema_kimg=2.5,
                   G_kwargs=dict(synthesis_kwargs=KWARGS['synthesis_kwargs']),
                   G_opt_kwargs=dict(lr=0.0031), loss_kwargs=dict(r1_gamma=0.77), terms=dict(kd=KD), ada_target=0.61,
                   augment_kwargs=dict(class_name='training.augment.AugmentPipe', scale=1, hue=1),
                   init_from='/somewhere/start.safetensors', random_seed=99, num_gpus=2, device='cuda',
                   metrics=['fid7_full', 'fid9_full'])
    kwargs = dict(KWARGS, c_dim=c_dim)
    G = Generator(**{key: value for key, value in kwargs.items() if key != 'class_name'})
    facts = ImageFolderDataset(**{key: value for key, value in data.items()
                                  if key != 'class_name'}).facts() if os.path.exists(data['path']) else None
    training = dict(options={**options, **changes}, cur_nimg=24000, class_names=None, dataset=facts)
    snapshots.save_networks(str(folder / 'network-snapshot-000024.safetensors'), dict(G_ema=G),
                            dict(G_ema=kwargs), training)
    stats = [{'Progress/kimg': dict(mean=k), 'Progress/augment': dict(mean=k / 100),
              'Timing/total_sec': dict(mean=k * 60)} for k in (12., 24., 36.)]
    (folder / 'stats.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in stats))
    (folder / 'fakes000024.png').write_bytes(b'png')
    (folder / 'fakes000036.png').write_bytes(b'png')
    return str(folder / 'network-snapshot-000024.safetensors')


def measured(folder, value, kimg, seed=0, metric='fid7_full', snapshot=None):
    """Adds a record as metrics/metric_main.py writes it."""
    record = dict(metric=metric, value=value,
                  detector=dict(name='toy', identity='sha256:12ab', num_features=4,
                                resize='inside the detector', input=''),
                  reference=dict(dataset='photos', content_hash='c0ffee' * 8, images=12, mirrored=False),
                  generated=dict(images=7, truncation_psi=1, noise_mode='random', labels='none', seed=seed,
                                 batch_size=kimg),
                  device='cpu', torch='2.13.0', date='2026-01-02T03:04:05+00:00', seconds=1.0,
                  snapshot=snapshot or f'network-snapshot-{kimg:06d}.safetensors', cur_nimg=kimg * 1000)
    with open(folder / f'metric-{metric}.jsonl', 'a') as f:
        f.write(json.dumps(record) + '\n')
