"""StyleGAN2 as a row of the architectures (Karras et al., CVPR 2020; with ADA, NeurIPS 2020)."""

from dnnlib import UserError
from torch_utils.ops.bias_act import activation_funcs

from .checks import IMAGE, flag, number, one_of, optional, whole, width
from .interface import Architecture

GENERATOR, DISCRIMINATOR = 'training.networks.Generator', 'training.networks.Discriminator'


def taps(value):
    """Of a filter, such as [1, 3, 3, 1]."""
    return type(value) is list and 1 <= len(value) <= 64 and all(map(number(-1e6, 1e6), value)) and sum(value) != 0


activation = one_of(*activation_funcs)
LAYERS = dict(channel_base=whole(1, 1 << 24), channel_max=whole(1, 1 << 14), num_fp16_res=whole(0, 16),
              conv_clamp=optional(number(0, 1e9)), architecture=one_of('orig', 'skip', 'resnet'))
BLOCK = dict(resample_filter=optional(taps), activation=activation, half_dtype=one_of('float16', 'bfloat16'),
             fp16_channels_last=flag)
MAPPING = dict(num_layers=whole(0, 64), embed_features=optional(width), layer_features=optional(width),
               activation=activation, lr_multiplier=number(1e-9, 1e9))
EPILOGUE = dict(mbstd_group_size=optional(whole(1, 1 << 16)), mbstd_num_channels=whole(0, 64), activation=activation)
ARGUMENTS = {
    GENERATOR: dict(IMAGE, z_dim=width, w_dim=whole(1, 1 << 14),
                    mapping_kwargs=dict(MAPPING, w_avg_beta=optional(number(0, 1))),
                    synthesis_kwargs=dict(LAYERS, **BLOCK, kernel_size=one_of(1, 3, 5, 7), use_noise=flag)),
    DISCRIMINATOR: dict(IMAGE, **LAYERS, cmap_dim=optional(width), mapping_kwargs=MAPPING,
                        block_kwargs=dict(BLOCK, freeze_layers=whole(0, 1000)), epilogue_kwargs=EPILOGUE),
}


def configure(preset, opts, device):
    if preset.channel_base < device.resolution:
        raise UserError(f'--cbase={preset.channel_base}: leaves no channel at {device.resolution} pixels; use '
                        f'--cbase={device.resolution} or more')
    # On a CPU that has bfloat16 it pays at every resolution; it has the range of float32 and needs no clamp.
    precision = dict(num_fp16_res=0 if not device.half else 16 if device.on_cpu else 4,
                     conv_clamp=256 if device.half and not device.on_cpu else None)
    channels = dict(channel_base=preset.channel_base, channel_max=preset.channel_max)
    block_kwargs = {**(dict(half_dtype='bfloat16') if device.half and device.on_cpu else {}),
                    **(dict(fp16_channels_last=True) if device.channels_last else {})}
    G = dict(z_dim=preset.z_dim, w_dim=preset.z_dim, mapping_kwargs=dict(num_layers=preset.mapping_layers),
             synthesis_kwargs=dict(channels, **precision, **block_kwargs), **preset.G_kwargs)
    D = dict(block_kwargs=dict(block_kwargs), mapping_kwargs={},
             epilogue_kwargs=dict(mbstd_group_size=preset.mbstd_group), **channels, **precision, **preset.D_kwargs)
    if opts.freezed:
        most = freezable_layers(D.get('architecture', 'resnet'), device.resolution)
        if opts.freezed > most:
            raise UserError(f'--freezed={opts.freezed}: the discriminator of --cfg={opts.cfg} has {most} such layers '
                            f'at {device.resolution} pixels; use --freezed={most} or less')
        D['block_kwargs']['freeze_layers'] = opts.freezed
    return G, D


def freezable_layers(architecture, resolution):
    """Number of the discriminator's layers at 8 pixels and above, which `freeze_layers` counts."""
    blocks = resolution.bit_length() - 3
    return {'orig': 2 * blocks + 1, 'skip': 3 * blocks, 'resnet': 3 * blocks + 1}[architecture]


def precision_of(kwargs):
    if kwargs['class_name'] == GENERATOR:
        table = kwargs.setdefault('synthesis_kwargs', {})
        return table, table
    return kwargs, kwargs.setdefault('block_kwargs', {})


def batch_multiple(D_kwargs, batch_gpu, per_process):
    """The group of the minibatch standard deviation; a smaller micro-batch is one group."""
    epilogue = D_kwargs.get('epilogue_kwargs') or {}
    if epilogue.get('mbstd_num_channels') == 0:
        return 1
    group = epilogue.get('mbstd_group_size', 4)
    return batch_gpu if group is None else min(group, batch_gpu)


def missing(G):
    return frozenset() if G.mapping.w_avg_beta is not None else frozenset({'truncation'})


ARCHITECTURE = Architecture(
    'StyleGAN2-ADA', 'stylegan2-ada', GENERATOR, DISCRIMINATOR, configure, ARGUMENTS, precision_of, batch_multiple,
    frozenset({'w', 'truncation', 'style_mixing', 'noise', 'projection', 'path_length', 'pickle', 'freezing',
               'chain'}), missing)
