"""BigGAN as a row of the architectures (Brock et al., ICLR 2019): the two nets of KD-DLGAN's tables."""

from dnnlib import UserError

from .checks import IMAGE, flag, number, one_of, whole, width
from .interface import Architecture

GENERATOR, DISCRIMINATOR = 'training.networks.biggan.Generator', 'training.networks.biggan.Discriminator'
# Of the published settings, by resolution.
PUBLISHED = {32: dict(init='normal', sn_eps=1e-8), 64: dict(init='orthogonal', sn_eps=1e-6)}
COMMON = dict(IMAGE, img_resolution=one_of(32, 64), channels=whole(1, 1 << 10), attention=one_of(0, 8, 16, 32, 64),
              init=one_of('normal', 'orthogonal'), sn_eps=number(0, 1), num_fp16_res=whole(0, 16),
              half_dtype=one_of('float16', 'bfloat16'), fp16_channels_last=flag)
ARGUMENTS = {
    GENERATOR: dict(COMMON, z_dim=width, shared_dim=width, hier=flag, bn_eps=number(0, 1), bn_unbiased=flag,
                    bn_sync=flag),
    DISCRIMINATOR: COMMON,
}
ATTENTION_CHANNELS = 8          # of the unit of the widths: attention has an eighth of D's first width


def configure(preset, opts, device):
    if preset.D_kwargs.get('attention') and preset.channel_base < ATTENTION_CHANNELS:
        raise UserError(f'--cbase={preset.channel_base}: the attention of --cfg={opts.cfg} needs at least '
                        f'--cbase={ATTENTION_CHANNELS}')
    # bfloat16 on a GPU, too: it has the range of float32, and nothing here limits the activations to that of float16.
    common = dict(channels=preset.channel_base, num_fp16_res=0 if not device.half else 16 if device.on_cpu else 4,
                  **(dict(half_dtype='bfloat16') if device.half else {}),
                  **(dict(fp16_channels_last=True) if device.channels_last else {}))
    sync = dict(bn_sync=True) if opts.bn_sync else {}
    return dict(common, z_dim=preset.z_dim, **sync, **preset.G_kwargs), dict(common, **preset.D_kwargs)


ARCHITECTURE = Architecture(
    'BigGAN', 'biggan', GENERATOR, DISCRIMINATOR, configure, ARGUMENTS, precision_of=lambda kwargs: (kwargs, kwargs),
    batch_multiple=lambda D_kwargs, batch_gpu, per_process: per_process,        # batch norm needs the batch whole
    abilities=frozenset({'batch_norm', 'chain'}))
