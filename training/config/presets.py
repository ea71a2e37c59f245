"""The base configurations (--cfg): one row each, with its source and what to expect of it."""

from typing import NamedTuple

from ..networks.biggan_row import PUBLISHED


class Preset(NamedTuple):
    """Defaults of a training configuration. From `batch` to `ema_kimg`, `None` is computed from resolution and GPUs."""
    source: str
    expect: str
    mapping_layers: int
    ref_gpus: int | None = None     # the micro-batch is batch / ref_gpus for any number of GPUs
    kimg: int | None = None
    batch: int | None = None
    mbstd_group: int | None = None
    channel_base: int | None = None
    lr: float | None = None
    gamma: float | None = None      # R1 weight
    ema_kimg: float | None = None
    ema_rampup: float | None = None # at most this share of the images seen so far; None = no ramp
    ema_start_kimg: float = 0       # until then G_ema is a copy of G
    lazy_regularization: bool = True
    loss_kwargs: dict = {}          # further arguments of `StyleGAN2Loss`
    architecture: str = 'stylegan2' # a row of `networks.architectures`
    resolution: int | None = None   # the only one that it is for
    G_kwargs: dict = {}             # further arguments of the networks, as `Architecture.configure` takes them
    D_kwargs: dict = {}
    G_opt: dict = {}                # of Adam, where they differ from lr, betas (0, 0.99) and eps 1e-8
    D_opt: dict = {}
    D_steps: int = 1                # of D for each step of G, each with images and latents of its own
    D_first: bool = False           # G's step comes after them
    ema_decay: float | None = None  # per step of G, in the place of ema_kimg
    ema_start: int = 0              # step of G, counted from 1, with which averaging begins; before it G_ema is a copy
    ema_buffers: str = 'copy'       # as in `WeightAverage`
    cond: bool = False
    uniform_labels: bool = False    # of fakes: all classes as often as each other, not as in the data
    aug: str = 'ada'
    diffaug_policy: str = 'color,translation,cutout'
    batch_norm: str = 'running'     # statistics with which the metrics sample, see `metrics.sampling`
    mirror: bool = False
    half_precision: bool = True
    z_dim: int = 512
    channel_max: int = 512
    kimg_per_tick: float = 4
    snapshot_ticks: int = 50
    metrics: str = 'fid50k_full'


# What both nets of BigGAN have in common: hinge, fakes and reals in one pass of D after D's steps G's, no penalty.
BIGGAN = dict(gamma=0, mapping_layers=0, lazy_regularization=False, loss_kwargs=dict(gan_loss='hinge', one_pass=True),
              architecture='biggan', D_first=True, ema_decay=0.9999, ema_buffers='average', cond=True,
              uniform_labels=True, mirror=True, half_precision=False)
PRESETS = {
    'auto': Preset(
        'StyleGAN2-ADA', 'a reasonable start for any data; tune --gamma', kimg=25000, ema_rampup=0.05,
        mapping_layers=2),
    'stylegan2': Preset(
        'StyleGAN2 config F', 'as the paper at 1024 pixels', ref_gpus=8, kimg=25000, batch=32, mbstd_group=4,
        channel_base=32768, lr=0.002, gamma=10, ema_kimg=10, mapping_layers=8),
    'paper256': Preset(
        'StyleGAN2-ADA, FFHQ and LSUN at 256', 'as the paper', ref_gpus=8, kimg=25000, batch=64, mbstd_group=8,
        channel_base=16384, lr=0.0025, gamma=1, ema_kimg=20, mapping_layers=8),
    'paper512': Preset(
        'StyleGAN2-ADA, AFHQ at 512', 'as the paper', ref_gpus=8, kimg=25000, batch=64, mbstd_group=8,
        channel_base=32768, lr=0.0025, gamma=0.5, ema_kimg=20, mapping_layers=8),
    'paper1024': Preset(
        'StyleGAN2-ADA, MetFaces at 1024', 'as the paper', ref_gpus=8, kimg=25000, batch=32, mbstd_group=4,
        channel_base=32768, lr=0.002, gamma=2, ema_kimg=10, mapping_layers=8),
    'cifar': Preset(
        'StyleGAN2-ADA, CIFAR-10 at 32', 'as the paper', ref_gpus=2, kimg=100000, batch=64, mbstd_group=32,
        channel_base=32768, lr=0.0025, gamma=0.01, ema_kimg=500, ema_rampup=0.05, mapping_layers=2,
        loss_kwargs=dict(pl_weight=0, style_mixing_prob=0), D_kwargs=dict(architecture='orig')),
    'low-shot': Preset(
        'DiffAugment, StyleGAN2 in TensorFlow, 100-shot (the baseline rows of KD-DLGAN, table 1)',
        '300 kimg for 100 images, 500 kimg for more', ref_gpus=1, batch=16, mbstd_group=4, channel_base=32768, lr=0.002,
        gamma=10, ema_kimg=10, ema_start_kimg=10, mapping_layers=8, lazy_regularization=False,
        loss_kwargs=dict(pl_weight=0), mirror=True, half_precision=False, snapshot_ticks=25, metrics='fid5k_full'),
    'demo': Preset(
        'ours', 'with --data=demo --init-from=demo: drawn faces after 3 to 7 minutes on two CPU cores', ref_gpus=1,
        kimg=16, batch=32, mbstd_group=4, lr=0.007, gamma=0.05, ema_kimg=4, ema_rampup=0.05, mapping_layers=2, z_dim=64,
        channel_max=64, loss_kwargs=dict(pl_weight=0, style_mixing_prob=0), kimg_per_tick=2, snapshot_ticks=4,
        metrics='featfid1k_full'),
    'biggan-cifar': Preset(
        'DiffAugment, LeCam and KD-DLGAN, CIFAR-10 and CIFAR-100 (rows "BigGAN + DiffAugment" of tables 2 to 8)',
        'the length for all of CIFAR-10 and for a fifth of either; all of CIFAR-100 twice that, a tenth half of it',
        **BIGGAN, ref_gpus=1, kimg=50_000, batch=50, channel_base=64, lr=2e-4, D_steps=4, ema_start=1000, z_dim=128,
        resolution=32, G_kwargs=PUBLISHED[32], D_kwargs=PUBLISHED[32], G_opt=dict(betas=[0, 0.999]),
        D_opt=dict(betas=[0, 0.999]), aug='diffaug', diffaug_policy='translation,cutout', batch_norm='batch',
        kimg_per_tick=8, snapshot_ticks=100, metrics='fid10k_full'),
    'biggan-imagenet64': Preset(
        'IC-GAN, its BigGAN for ImageNet at 64 pixels (table 3)',
        'there the run ends when the FID has not improved for 50 epochs: the length is ours',
        **BIGGAN, ref_gpus=1, kimg=128_000, batch=256, channel_base=64, lr=1e-4, ema_start=20_000, z_dim=120,
        resolution=64, G_kwargs=dict(PUBLISHED[64], shared_dim=128, hier=True, attention=32),
        D_kwargs=dict(PUBLISHED[64], attention=32), G_opt=dict(betas=[0, 0.999], eps=1e-6),
        D_opt=dict(betas=[0, 0.999], eps=1e-6), aug='noaug', diffaug_policy='translation',
        kimg_per_tick=25.6, snapshot_ticks=100, metrics='fid50k_full,is50k'),
}


def auto_values(resolution, gpus):
    """What `auto` computes: batch, mbstd_group, channel_base, lr, gamma, ema_kimg. The batch is at most 64, or an image
    per process, and always whole groups: any number of processes will do."""
    per_process = max(min(4096 // resolution, 32, 64 // gpus), 1)
    group = min(per_process, 4)
    batch = gpus * (per_process - per_process % group)
    return dict(batch=batch, mbstd_group=group, channel_base=32768 if resolution >= 512 else 16384,
                lr=0.002 if resolution >= 1024 else 0.0025, gamma=0.0002 * resolution ** 2 / batch,
                ema_kimg=batch * 10 / 32)


def resolve(name, resolution, gpus, num_images, channel_base=None):
    """The row `name` with everything computed that it leaves open. channel_base: in the place of its own, if given."""
    preset = PRESETS[name]
    if preset.batch is None:
        preset = preset._replace(**auto_values(resolution, gpus))
    if channel_base is not None or preset.channel_base is None:
        preset = preset._replace(channel_base=channel_base or 16 * resolution)      # 16 channels in the last layers
    if preset.kimg is None:
        preset = preset._replace(kimg=300 if num_images <= 100 else 500)
    return preset
