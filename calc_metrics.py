"""Measure a trained generator: python calc_metrics.py --network=FILE --metrics=fid5k_full; python calc_metrics.py
compare RUN RUN"""

import os

import click

from dnnlib import UserError, files
from dnnlib.commands import SETTINGS, PlainOrCommand, batch_option, device_option, refused_option
from dnnlib.util import split_names, user_errors
from inference import latents as sampling
from inference.options import network_option
from inference.trained_on import data_has_vectors, labels_are_vectors, measured_with, real_images, training_set
from kd_plugin.options import DEFAULT_TEACHER
from metrics import compare, metric_main, metric_utils
from torch_utils import cpu_threads, distributed
from torch_utils.devices import keep_freed_memory, torch_device
from training import model_files
from training.networks.architectures import abilities_of, require


def parse_metrics(text):
    """'fid5k_full,featfid5k_full' -> list of names. Raises UserError for one that is unknown, and for none."""
    names = split_names(text)
    for name in names or [text]:
        metric_main.find_metric(name)
    return names


def warn_of_other_data(names, data_kwargs, info, network):
    """Warns that copies can only be found among the training images."""
    trained_on, given = training_set(network, info).get('path'), data_kwargs['path']
    other = isinstance(trained_on, str) and os.path.realpath(trained_on) != os.path.realpath(given)
    if other and any(metric_main.find_metric(name)[0].seeks_copies for name in names):
        distributed.print0(f'Warning: memorization is measured against --ref={given}, the network was trained on '
                           f'{trained_on}; copies of images that are only in the latter are not found.')


def choose_outdir(outdir, network):
    """Where the results go: --outdir, else the snapshot's folder, or the current one. Raises UserError if it cannot be
    written."""
    outdir = outdir or (os.path.dirname(os.path.abspath(network)) if model_files.is_local(network) else '.')
    files.make_dir(outdir)
    if not os.access(outdir, os.W_OK | os.X_OK):
        raise UserError(f'--outdir={outdir}: no permission to write there; choose another folder')
    return outdir


def choose_sampling(bn, labels, G, info, names):
    """--bn and --labels, or what the training measured with -> batch_norm, uniform_labels of `calc_metrics`.

    Raises UserError for what the network does not have.
    """
    batch_norm, uniform = measured_with(info)
    known = metric_main.sampling.MODES if 'batch_norm' in abilities_of(G) else ()
    if bn is None and batch_norm not in (None, *known):                             # files come from strangers
        raise UserError('--network', f'its training measured with batch norm by {batch_norm[:50]!r}, which this '
                        'network does not have', 'the file is damaged, or made by another program')
    if bn is not None:
        require(abilities_of(G), 'batch_norm', f'--bn={bn}', 'leave it out')
    if labels is not None and G.c_dim == 0:
        raise UserError(f'--labels={labels}: this generator is unconditional; leave --labels out')
    metric_main.sampling.check(names, bn or batch_norm, f'--bn={bn or batch_norm}')
    return bn or batch_norm, uniform if labels is None else labels == 'uniform'


def check_uniform(network, info, c_dim):
    """Raises UserError where labels of uniform classes are none that the network was trained with."""
    if c_dim > 0 and (labels_are_vectors(info) or data_has_vectors(network, info)):
        raise UserError('--labels=uniform', 'draws classes, and the labels that the network was trained with are '
                        'vectors', 'use --labels=data')


def calculate(network, metrics, data, detector, vgg16, alexnet, lpips_heads, teacher, device, batch, workers, seed,
              trunc, bn, labels, bootstrap, outdir):
    """What the command does; options as of the command. Everything that can be wrong is found out before the work
    begins."""
    names = parse_metrics(metrics)
    others = dict(vgg16=vgg16, alexnet=alexnet, lpips_heads=lpips_heads)
    metric_main.check_used(names, detector=detector, teacher=teacher, **others)
    device = cpu_threads.settle(distributed.init(torch_device(device)))
    with distributed.main_process_first():
        model_files.locate(network)
    snapshot = model_files.load_snapshot(network, device)
    G, info = snapshot.G_ema, snapshot.info
    sampling.check_trunc(trunc, G)
    for name in names:
        for ability in metric_main.find_metric(name)[0].abilities:
            require(abilities_of(G), ability, f'--metrics={name}', 'leave it out of --metrics')
    batch_norm, uniform_labels = choose_sampling(bn, labels, G, info, names)
    if uniform_labels:
        check_uniform(network, info, G.c_dim)
    data_kwargs = None
    if metric_main.needs_data(names, G.c_dim, uniform_labels):
        data_kwargs = real_images(data, '--ref', network, info, measured=True)
        metric_utils.check_reference(data_kwargs, f'--ref={data_kwargs["path"]}', G.img_channels, G.img_resolution,
                                     0 if uniform_labels else G.c_dim)
        warn_of_other_data(names, data_kwargs, info, network)
    elif data is not None:
        distributed.print0(f'Warning: --ref={data} is not looked at: {metrics} is of generated images alone.')
    outdir = choose_outdir(outdir, network)
    teacher_kwargs = dict(func_name='kd_plugin.teacher.load_teacher', name=teacher or DEFAULT_TEACHER,
                          option='--teacher')
    detectors = metric_main.load_detectors(names, device, detector, teacher_kwargs, **others)
    if device.type == 'cpu':
        keep_freed_memory()
    metric_main.calc_and_report(outdir, model_files.address_of(network), info['training'].get('cur_nimg'),
                                metrics=names, G=G, dataset_kwargs=data_kwargs, device=device, detector=detectors,
                                seed=seed, batch_size=batch, num_workers=workers, truncation_psi=trunc,
                                batch_norm=batch_norm, uniform_labels=uniform_labels, bootstrap=bootstrap)


@click.group(cls=PlainOrCommand, invoke_without_command=True, subcommand_metavar='',
             context_settings=dict(SETTINGS, allow_extra_args=False))
@network_option
@click.option('--metrics', help=f'Comma-separated list of {", ".join(metric_main.forms())}; <N> images such as '
                                '500 or 5k',
              default='fid50k_full', show_default=True, metavar='LIST')
@click.option('--ref', '--data', 'data', help='Real images, folder or zip from dataset_tool.py, or demo; for '
                                              'memorization, those of the training  '
              '[default: those that the training measured against]', metavar='PATH|demo')
@click.option('--detector', help='Inception network of fid, kid, is and memorization, if it cannot be downloaded',
              metavar='FILE')
@click.option('--vgg16', help='VGG16 network of pr and ppl, if it cannot be downloaded', metavar='FILE')
@click.option('--alexnet', help='AlexNet of lpips_diversity, if it cannot be downloaded', metavar='FILE')
@click.option('--lpips-heads', help='Linear heads of lpips_diversity, if they cannot be downloaded', metavar='FILE')
@click.option('--teacher', '--kd-teacher', 'teacher', metavar='NAME',
              help='Teacher whose features the feat... metrics compare; clip... is their older name  '
                   f'[default: {DEFAULT_TEACHER}]')
@device_option()
@batch_option(64)
@click.option('--workers', help='Processes that read the real images', type=click.IntRange(min=0), default=2,
              show_default=True, metavar='INT')
@click.option('--seed', help='Random seed of the generated images', type=click.IntRange(0, 2 ** 32 - 1), default=0,
              show_default=True, metavar='INT')
@click.option('--trunc', help='Truncation psi; 1 = none, as published values have it', type=float, default=1,
              show_default=True, metavar='FLOAT')
@click.option('--bn', help='Statistics of batch norm (BigGAN): running averages, of each batch of 50, or standing  '
                           '[default: as the training measured, else running]',
              type=click.Choice(list(metric_main.sampling.MODES)))
@click.option('--labels', help='Classes of generated images: as frequent as in the data set, or uniform  [default: as '
                               'the training measured, else data]', type=click.Choice(['data', 'uniform']))
@click.option('--bootstrap', help='Resamples of the generated images for 95 % intervals; 0 = no intervals',
              type=click.IntRange(0, 1000), default=100, show_default=True, metavar='INT')
@click.option('--outdir', help="Where to append metric-NAME.jsonl  [default: the snapshot's folder]", metavar='DIR')
@refused_option('--gpus', 'several GPUs: torchrun --nproc-per-node=N calc_metrics.py ...')
@refused_option('--mirror', 'the reference statistics are always of the images as they are; leave it out')
def main(**opts):
    """Measure a trained generator against real images.

    \b
    calc_metrics.py --network=NETWORK --metrics=fid5k_full,kid5k_full,pr5k3_full
    calc_metrics.py compare runs/00000-cats runs/00001-cats             what is on record there, side by side

    The real images are all images of the data set, never mirrored, even where the training used a part of it or
    mirrored it; but without --ref they are those of the training's --metric-data, if it had one, and those that it held
    out by --val-fraction are left out. Their statistics are kept for the next time. Several GPUs: torchrun
    --nproc-per-node=N calc_metrics.py ...
    """
    with user_errors():
        try:
            with distributed.one_message():
                calculate(**opts)
        finally:
            distributed.leave()


@main.command('compare', context_settings=SETTINGS, short_help='Compare recorded values of several runs.')
@click.argument('paths', nargs=-1, required=True, metavar='RUN|FILE ...')
def compare_records(paths):
    """Show values on record side by side: of run folders, or of metric-NAME.jsonl files.

    \b
    calc_metrics.py compare runs/00000-cats runs/00001-cats
    calc_metrics.py compare old/metric-fid5k_full.jsonl new/metric-fid5k_full.jsonl

    For each metric the last and the best value of each, and a warning where they were measured by different protocols.
    """
    with user_errors():
        print('\n'.join(compare.describe(list(paths))))


if __name__ == '__main__':
    main()
