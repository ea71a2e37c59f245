"""Options of train.py -> configuration: the parts that concern data, schedule and networks.

`opts` is an EasyDict of the command line's options, None where one was not given. Nothing here writes a file.
"""

import os

import dnnlib
from dnnlib import UserError
from dnnlib.errors import refuse_idle
from torch_utils import devices, distributed

from ..dataset import demo as demo_data
from ..dataset.headers import SMALLEST_SIDE
from ..ema import half_life_kimg, start_kimg
from ..methods.method import has_one_pass
from ..networks.architectures import ARCHITECTURES, require
from ..networks.interface import DeviceFacts
from ..observers import early_stop
from ..snapshots.arguments import check_readable
from .presets import PRESETS

GRID_IMAGES = {True: 480, False: 60}        # on a GPU: those of 256x256 then make a picture of 7680x4096

MEMORIZED = 2                   # so many images or fewer can only be copied
# {argument of the loss: ability that it needs}
ABILITY_OF = dict(style_mixing_prob='style_mixing', pl_weight='path_length')


def number_of_processes(gpus):
    """--gpus, or what torchrun has started."""
    if 'WORLD_SIZE' in os.environ:
        world = int(os.environ['WORLD_SIZE'])
        if gpus not in (None, world):
            raise UserError(f'--gpus={gpus}: torchrun has started {world} processes; leave --gpus out')
        return world
    return gpus or 1


def data_path(opts):
    return demo_data.demo_set(32) if opts.data == 'demo' else opts.data


def metric_data_path(opts, dataset):
    if opts.metric_data != 'demo':
        return opts.metric_data
    if opts.data != 'demo':
        raise UserError('--metric-data=demo: these are further drawings like those of --data=demo; name real images '
                        f'like those of --data={opts.data}, or leave it out')
    return demo_data.fresh_set(dataset.resolution)


def open_dataset(kwargs, opts):
    """The training images. Raises UserError, whose remedy for labels is an option that the user has given, or can."""
    try:
        return dnnlib.util.construct_class_by_name(**kwargs)
    except UserError as err:
        if not kwargs['use_labels'] or opts.cond:
            raise
        dnnlib.util.construct_class_by_name(**dict(kwargs, use_labels=False)).close()   # raises what is not of labels
        raise UserError(f'--cfg={opts.cfg}: trains a conditional network; {err.fact}; sort the images into one folder '
                        'per class and run dataset_tool.py, or use --cond=0') from err


def check_dataset(opts, preset, dataset):
    if preset.cond if opts.cond is None else opts.cond:
        check_labels(opts, preset, dataset)
    if opts.subset is not None and opts.subset > dataset.num_images:
        rest = f' besides the {dataset.num_held_out} of --val-fraction' if dataset.num_held_out else ''
        raise UserError(f'--subset={opts.subset}: {opts.data} has {dataset.num_images} images{rest}; use '
                        f'--subset={dataset.num_images} or leave it out')
    side = dataset.resolution
    if preset.resolution not in (None, side):
        others = [name for name, row in PRESETS.items() if row.resolution == side]
        raise UserError(f'--cfg={opts.cfg}: is for images of {preset.resolution}x{preset.resolution}, those of '
                        f'{opts.data} are {side}x{side}; rebuild it with dataset_tool.py --width={preset.resolution} '
                        f'--height={preset.resolution}, or use --cfg={" or ".join(others or ["auto"])}')
    if side < SMALLEST_SIDE or side & (side - 1) != 0:
        usable = max(1 << side.bit_length() - 1, SMALLEST_SIDE)
        raise UserError(f'--data={opts.data}: images are {side}x{side}; the side must be a power of two of at least '
                        f'{SMALLEST_SIDE}: rebuild it with dataset_tool.py --width={usable} --height={usable}')


def check_labels(opts, preset, dataset):
    if not dataset.has_labels:
        where = '--cond=1: ' if opts.cond else f'--cfg={opts.cfg}: trains a conditional network; '
        raise UserError(f'{where}{opts.data} has no labels; sort the images into one folder per class and run '
                        f'dataset_tool.py, or {"leave --cond out" if opts.cond else "use --cond=0"}')
    if preset.uniform_labels and not dataset.has_onehot_labels:
        raise UserError(f'--cfg={opts.cfg}: draws classes for its fakes, and the labels of {opts.data} are vectors; '
                        'use numbers of classes in its dataset.json, or --cond=0')


def warn_of_few_images(count):
    if count <= MEMORIZED:
        images, them = ('1 image', 'it') if count == 1 else (f'{count} images', 'them')
        distributed.print0(f'Warning: the training has {images}: all that it can learn is to copy {them}; '
                           '--cfg=low-shot is for about a hundred')


def add_schedule(config, opts, preset):
    batch = opts.batch or preset.batch
    per_process = max(batch // config.num_gpus, 1)      # what cannot be divided is refused by check_micro_batch
    probe = opts.batch_gpu == 'auto'
    usual = (per_process if probe or opts.batch or preset.ref_gpus is None
             else min(batch // preset.ref_gpus, per_process))
    batch_gpu = usual if probe else opts.batch_gpu or usual
    snap = opts.snap or preset.snapshot_ticks
    config.update(batch_size=batch, batch_gpu=batch_gpu, total_kimg=as_number(opts.kimg or preset.kimg),
                  kimg_per_tick=as_number(opts.tick or preset.kimg_per_tick), image_snapshot_ticks=snap,
                  network_snapshot_ticks=snap,
                  grid_images=GRID_IMAGES[config.device == 'cuda'],
                  batch_gpu_auto=probe)                 # until the probe has run, batch_gpu is the largest candidate
    lazy = preset.lazy_regularization
    config.update(G_reg_interval=4 if lazy else None, D_reg_interval=16 if lazy else None,      # StyleGAN2, appendix B
                  D_steps=preset.D_steps, D_first=preset.D_first, uniform_labels=preset.uniform_labels)
    per_G_step = batch * preset.D_steps                 # images
    decay = preset.ema_decay
    config.update(ema_kimg=preset.ema_kimg if decay is None else half_life_kimg(decay, per_G_step),
                  ema_rampup=None if opts.init_from else preset.ema_rampup,
                  ema_start_kimg=preset.ema_start_kimg + start_kimg(preset.ema_start, per_G_step),
                  ema_buffers=preset.ema_buffers)


def as_number(value):
    """2.0 -> 2, for names and JSON."""
    return int(value) if value == int(value) else value


def half_suits(opts, device):
    """Whether to use half precision where it is supported: as --fp32 says, by default where it is fast."""
    return not opts['fp32'] if opts['fp32'] is not None else device != 'cpu' or devices.cpu_has_bfloat16()


def add_networks(config, opts, preset):
    on_cpu, side = config.device == 'cpu', config.training_set_kwargs['resolution']
    row = ARCHITECTURES[preset.architecture]
    if row.precision_of is None and opts.fp32 is False:
        raise UserError(f'--fp32=0: the networks of --cfg={opts.cfg} compute in float32; leave it out')
    has_half = row.precision_of is not None and (preset.half_precision or opts.fp32 is not None)
    half = has_half and half_suits(opts, config.device)
    config.fp32_auto = opts.fp32 is None and on_cpu     # a run keeps the precision of the processor that it began on
    if opts.nhwc and not (on_cpu or half):
        refuse_idle('in float32 on a GPU, which convolves in the contiguous format there', nhwc=True)
    channels_last = on_cpu or half if opts.nhwc is None else opts.nhwc
    config.update(channels_last=channels_last, fp32=not half)
    if opts.freezed:
        require(row.abilities, 'freezing', f'--freezed={opts.freezed}', 'leave it out')
        if not (opts.init_from or opts.fork_from):
            raise UserError(f'--freezed={opts.freezed}: without --init-from it would keep random layers; add '
                            '--init-from=FILE, or leave it out')
    if opts.bn_sync:
        require(row.abilities, 'batch_norm', '--bn-sync=1', 'leave it out')
    elif 'batch_norm' in row.abilities and config.num_gpus > 1:
        distributed.print0(f'Batch norm: each process has the statistics of its own {config.batch_gpu} images; '
                           f'--bn-sync=1 makes them those of all {config.batch_size}.')
    G_kwargs, D_kwargs = row.configure(preset, opts, DeviceFacts(on_cpu, half, channels_last, side))
    config.G_kwargs, config.D_kwargs = dict(class_name=row.G, **G_kwargs), dict(class_name=row.D, **D_kwargs)
    check_readable(dict(G=config.G_kwargs, D=config.D_kwargs))
    adam = dict(class_name='torch.optim.Adam', lr=preset.lr, betas=[0, 0.99], eps=1e-8)
    config.G_opt_kwargs, config.D_opt_kwargs = {**adam, **preset.G_opt}, {**adam, **preset.D_opt}
    off = {name: 0 for name, ability in ABILITY_OF.items() if ability not in row.abilities}
    gamma = preset.gamma if opts.gamma is None else opts.gamma
    if has_one_pass(preset):
        check_one_pass(opts, preset, gamma)
    config.loss_kwargs = dict(class_name='training.loss.StyleGAN2Loss', r1_gamma=gamma, **{**off, **preset.loss_kwargs})
    if config.device != 'cuda':
        check_without_cuda(opts)
    # 'auto', True (insist) or False. The results are the same, so a run may continue with another value.
    config.update(compile=opts.compile, cuda_graphs=opts.cuda_graphs if config.device == 'cuda' else False)
    config.update(init_from=opts.init_from, allow_tf32=bool(opts.allow_tf32), cudnn_benchmark=not opts.nobench)
    # torch's default. It pays: the small maps that stay in float32 are a fifth of the work of a step.
    config.conv_tf32 = not on_cpu and opts.allow_tf32 is not False


def check_without_cuda(opts):
    """Raises UserError for options that ask for what only a GPU has."""
    if opts.cuda_graphs is True:
        raise UserError('--cuda-graphs=1: there are none without a CUDA device; leave it out')
    refuse_idle('without a CUDA device', allow_tf32=opts.allow_tf32 or None, nobench=opts.nobench or None)


def check_one_pass(opts, preset, gamma):
    """Raises UserError for what fakes and reals in one pass of D leave no room for."""
    if gamma > 0:
        raise UserError(f'--gamma={gamma:g}: R1 needs a pass of D over reals alone, and --cfg={opts.cfg} has one over '
                        'fakes and reals; leave it out')
    if preset.lazy_regularization:
        raise UserError(f'--cfg={opts.cfg}: has lazy regularisation, whose phases of D would be empty, as fakes and '
                        'reals are one pass; give its row lazy_regularization=False')


def add_observers(config, opts):
    """Entries of the observers; needs `config.metrics`."""
    config.observers = {}
    if opts.val_fraction is not None:
        config.observers['validation'] = dict(class_name='training.observers.validation.Validation')
    if opts.health > 0:
        config.observers['near_copies'] = dict(class_name='training.observers.near_copies.NearCopies',
                                               num_fakes=opts.health)
    if opts.early_stop is not None:
        config.observers['early_stop'] = dict(
            class_name='training.observers.early_stop.EarlyStop', **early_stop.parse(opts.early_stop, config.metrics))
