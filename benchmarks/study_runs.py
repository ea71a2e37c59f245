"""The runs of the study: what train.py makes of an arm, training it, measuring it, and its line in the results."""

import contextlib
import dataclasses
import json
import os
import time

import click
import torch
from study_table import ARMS, DATA

import train
from dnnlib import EasyDict, UserError, files, metric_records
from metrics import distances, metric_main, metric_utils
from training import launch, model_files
from training.run import changes
from training.run import files as run_files
from training.run.find import progress_of, read_options

METRICS = 'featkid2k_full,featfid2k_full,featpr2k3_full'
FAKES, NEARNESS_FILE = 2000, 'nearness.jsonl'
# Column -> where it is recorded.
FIGURES = {'kid': ('featkid2k_full', 'value'), 'fd': ('featfid2k_full', 'value'),
           'precision': ('featpr2k3_full', 'precision'), 'recall': ('featpr2k3_full', 'recall')}
PROTOCOL = 'detector', 'reference', 'generated'
ABOUT_FILE = 'study.json'
# (device, whether all is in float32) -> name
ARITHMETIC = {('cpu', False): 'bfloat16 on a CPU', ('cpu', True): 'float32 on a CPU',
              ('cuda', False): 'float16 on a GPU', ('cuda', True): 'float32 on a GPU'}


def run_name(data, arm, seed):
    return f'{data}-{"".join(ch if ch.isalnum() or ch == "." else "-" for ch in arm.lower())}-seed{seed}'


def configuration(folder, data, arm, seed, kimg, device):
    """The run's configuration: that of train.py, narrowed; the images are the same with every seed.

    Raises UserError for what would fail later, such as a teacher that is not there.
    """
    row = DATA[data]
    options = list(ARMS[arm])
    if (any(option.startswith('--kd=') for option in options)
            and not any(option.startswith('--kd-teacher') for option in options)):
        options.append(f'--kd-teacher={row.teacher}')
    of_data = [f'--data={os.path.join(folder, row.train)}', f'--metric-data={os.path.join(folder, row.test)}',
               *row.options]
    of_run = [f'--outdir={folder}', f'--metrics={METRICS}', f'--metric-teacher={row.judge}', f'--kimg={kimg:g}',
              f'--tick={row.tick}', f'--snap={row.ticks}', f'--seed={seed}', f'--device={device}',
              '--snapshot-keep=best=1,last=1']
    command = [option.replace('DIR/', folder + os.sep) for option in (*of_run, *of_data, *options)]
    opts = EasyDict(train.main.make_context('train.py', command).params)
    config, _name = train.build_config(opts)
    train.check_names(config, opts)
    if config.training_set_kwargs.get('random_seed') is not None:
        config.training_set_kwargs['random_seed'] = 0
        if 'kd' in config.terms:
            config.terms['kd']['training_set_kwargs']['random_seed'] = 0
    resize(config, row.networks)
    config.G_opt_kwargs['lr'] = config.D_opt_kwargs['lr'] = row.lr
    config.ema_kimg = 5
    return config


def resize(config, networks):
    for kwargs in (config.G_kwargs['synthesis_kwargs'], config.D_kwargs):
        kwargs['channel_base'] = networks.channel_base
    if networks.z_dim is not None:
        config.G_kwargs.update(z_dim=networks.z_dim, w_dim=networks.z_dim)
    if networks.mbstd_group is not None:
        config.D_kwargs['epilogue_kwargs']['mbstd_group_size'] = networks.mbstd_group


def train_run(folder, data, arm, seed, kimg, device):
    """Trains and measures a run, or continues it, in a process of its own. -> its name, seconds that this took."""
    began, run_dir = time.monotonic(), os.path.join(folder, 'runs', run_name(data, arm, seed))
    config = configuration(folder, data, arm, seed, kimg, device)
    check_same(run_dir, config)
    files.make_dir(run_dir)
    files.write_text(os.path.join(run_dir, ABOUT_FILE), json.dumps(dict(data=data, arm=arm, seed=seed,
                                                                        options=ARMS[arm])))
    with open(os.path.join(run_dir, 'output.txt'), 'a', encoding='utf-8') as out, contextlib.redirect_stdout(out):
        launch.launch(config, run_dir)
        if not run_files.is_complete(run_dir, progress_of(run_dir), config):
            raise click.Abort                       # Ctrl-C: the run is saved
        measure_nearness(run_dir, config, device)
    return run_name(data, arm, seed), time.monotonic() - began


def check_same(run_dir, config):
    """Raises UserError where a run was begun with other options, since it would go on with those of its state."""
    saved = read_options(run_dir)
    if saved is not None and (lines := changes.differences(saved, config)):
        raise UserError(run_dir, f'was begun with {"; ".join(lines[:changes.MOST])}',
                        'the table has changed: move the folder away, or give the arm another name')


def measure_nearness(run_dir, config, device):
    """Adds a line, once for a snapshot: how many of `FAKES` images of the last one have a training image as their
    nearest, among as many training images as images that nobody trained on: about half, unless G repeats what it was
    trained on. In the judge's features whatever the teacher; the copies that a run reports while it trains are in its
    teacher's."""
    nimg, path = progress_of(run_dir)['cur_nimg'], os.path.join(run_dir, NEARNESS_FILE)
    if any(record['kimg'] == nimg / 1000 for record in metric_records.read_lines(path)):
        return
    found = model_files.load_snapshot(run_files.snapshot_path(run_dir, nimg, config['kimg_per_tick']), device)
    detector = metric_main.load_detector(METRICS.partition(',')[0], device,
                                         teacher_kwargs=config['metric_kwargs']['teacher_kwargs'])
    opts = metric_utils.MetricOptions(found.G_ema, config['training_set_kwargs'], detector, torch.device(device),
                                      subset=True, progress=False)
    fakes = metric_utils.compute_feature_stats_for_generator(opts, FAKES, capture_all=True).get_all()
    trained_on = metric_utils.compute_feature_stats_for_dataset(opts, capture_all=True).get_all()
    opts = dataclasses.replace(opts, dataset_kwargs=config['metric_set_kwargs'], opened={})
    unseen = metric_utils.compute_feature_stats_for_dataset(opts, capture_all=True).get_all()
    value, control, images = share_nearer(fakes, trained_on, unseen)
    record = dict(kimg=nimg / 1000, value=value, control=control, images_of_each=images, fakes=FAKES,
                  detector=detector.identity)
    with open(path, 'a', encoding='utf-8') as f:
        f.write(json.dumps(record) + '\n')


def share_nearer(fakes, trained_on, unseen):
    """Features [N, F], [M, F], [K, F] -> the share of fakes whose nearest image is one of `trained_on`; the same share
    of unseen images that were not drawn, which no G has made, or None where all were drawn; how many there are of each,
    drawn from the larger set."""
    trained_on, unseen, fakes = distances.centred(trained_on, unseen, fakes)
    number, random = min(len(trained_on), len(unseen)), torch.Generator().manual_seed(0)
    order_trained_on, order_unseen = [torch.randperm(len(features), generator=random)
                                      for features in (trained_on, unseen)]
    drawn = trained_on[order_trained_on[:number]], unseen[order_unseen[:number]]

    def share(images):
        to_trained_on, to_unseen = [distances.nearest(images, features)[0] for features in drawn]
        return (to_trained_on < to_unseen).to(torch.float64).mean().item()
    rest = unseen[order_unseen[number:number + len(fakes)]]
    return share(fakes), share(rest) if len(rest) else None, number


def read_run(run_dir):
    """The line of a run in the results, or None where nothing is measured."""
    try:
        with open(os.path.join(run_dir, ABOUT_FILE), encoding='utf-8') as f:
            line = json.load(f)
    except FileNotFoundError:
        return None
    curves, protocol = {}, {}
    for column, (metric, figure) in FIGURES.items():
        for record in metric_records.read_metric(run_dir, metric):
            curves.setdefault(record['cur_nimg'] / 1000, {})[column] = record.get(figure)     # none of NaN
            protocol[metric] = {key: record[key] for key in PROTOCOL if key in record}
    if not curves:
        return None
    stats = metric_records.read_lines(os.path.join(run_dir, run_files.STATS_FILE))
    last = lambda name: next((record[name]['mean'] for record in reversed(stats) if name in record), None)
    curve = lambda name: [[record['Progress/kimg']['mean'], record[name]['mean']] for record in stats if name in record]
    kimgs, options = sorted(curves), read_options(run_dir) or {}
    line.update(arithmetic=ARITHMETIC.get((options.get('device'), options.get('fp32')), 'not recorded'),
                protocol=protocol, kimg=kimgs,
                **{column: [curves[kimg].get(column) for kimg in kimgs] for column in FIGURES},
                nearness=metric_records.read_lines(os.path.join(run_dir, NEARNESS_FILE)),
                r_t=curve('Loss/signs/real'), gradient_share=curve('KD/gradient_share'),
                weight_factor=curve('KD/weight_factor'),
                hours=(last('Timing/total_sec') or 0) / 3600)
    return line
