"""What a file may say of BigGAN's networks: constructor arguments and their values, as `training.snapshots.arguments`
checks them."""

from .checks import IMAGE, flag, number, one_of, whole, width

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
