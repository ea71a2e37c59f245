"""The base configurations (--cfg) and augmentation presets: one row each, with its source and what to expect of it."""

from typing import NamedTuple


class Preset(NamedTuple):
    """Defaults of a training configuration; `None` in the first part = computed from resolution and number of GPUs."""
    source: str
    expect: str
    ref_gpus: int | None            # the micro-batch is batch / ref_gpus for any number of GPUs
    kimg: int | None
    batch: int | None
    mbstd_group: int | None
    channel_base: int | None
    lr: float | None
    gamma: float | None             # R1 weight
    ema_kimg: float | None
    ema_rampup: float | None
    mapping_layers: int
    ema_start_kimg: float = 0       # until then G_ema is a copy of G
    lazy_regularization: bool = True
    loss_kwargs: dict = {}          # further arguments of `StyleGAN2Loss`
    architecture: str = 'stylegan2' # a row of `networks.architectures`
    G_kwargs: dict = {}             # further arguments of the networks, as `Architecture.configure` takes them
    D_kwargs: dict = {}
    G_opt: dict = {}                # of Adam, where they differ from lr, betas (0, 0.99) and eps 1e-8
    D_opt: dict = {}
    D_steps: int = 1                # of D per step of G, each with new images and latents
    mirror: bool = False
    half_precision: bool = True
    z_dim: int = 512
    channel_max: int = 512
    kimg_per_tick: float = 4
    snapshot_ticks: int = 50
    metrics: str = 'fid50k_full'


PRESETS = {
    'auto': Preset('StyleGAN2-ADA', 'a reasonable start for any data; tune --gamma', None, 25000, None, None, None,
                   None, None, None, 0.05, 2),
    'stylegan2': Preset('StyleGAN2 config F', 'as the paper at 1024 pixels', 8, 25000, 32, 4, 32768, 0.002, 10,
                        10, None, 8),
    'paper256': Preset('StyleGAN2-ADA, FFHQ and LSUN at 256', 'as the paper', 8, 25000, 64, 8, 16384, 0.0025, 1,
                       20, None, 8),
    'paper512': Preset('StyleGAN2-ADA, AFHQ at 512', 'as the paper', 8, 25000, 64, 8, 32768, 0.0025, 0.5, 20, None, 8),
    'paper1024': Preset('StyleGAN2-ADA, MetFaces at 1024', 'as the paper', 8, 25000, 32, 4, 32768, 0.002, 2,
                        10, None, 8),
    'cifar': Preset('StyleGAN2-ADA, CIFAR-10 at 32', 'as the paper', 2, 100000, 64, 32, 32768, 0.0025, 0.01,
                    500, 0.05, 2,
                    loss_kwargs=dict(pl_weight=0, style_mixing_prob=0), D_kwargs=dict(architecture='orig')),
    'low-shot': Preset('DiffAugment, StyleGAN2 in TensorFlow, 100-shot (the baseline rows of KD-DLGAN, table 1)',
                       '300 kimg for 100 images, 500 kimg for more', 1, None, 16, 4, 32768, 0.002, 10, 10, None, 8,
                       ema_start_kimg=10,
                       lazy_regularization=False, loss_kwargs=dict(pl_weight=0), mirror=True, half_precision=False,
                       snapshot_ticks=25, metrics='fid5k_full'),
    'demo': Preset('ours', 'with --data=demo --init-from=demo: drawn faces after three minutes on two CPU cores', 1, 16,
                   32, 4, None, 0.007,
                   0.05, 4, 0.05, 2, z_dim=64, channel_max=64, loss_kwargs=dict(pl_weight=0, style_mixing_prob=0),
                   kimg_per_tick=2,
                   snapshot_ticks=4, metrics='featfid1k_full'),
}


def auto_values(resolution, gpus):
    """What `auto` computes: batch, mbstd_group, channel_base, lr, gamma, ema_kimg."""
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return dict(batch=batch, mbstd_group=min(batch // gpus, 4), channel_base=32768 if resolution >= 512 else 16384,
                lr=0.002 if resolution >= 1024 else 0.0025, gamma=0.0002 * resolution ** 2 / batch,
                ema_kimg=batch * 10 / 32)


def resolve(name, resolution, gpus, num_images):
    """The row `name` with everything computed that it leaves open."""
    preset = PRESETS[name]
    if preset.batch is None:
        preset = preset._replace(**auto_values(resolution, gpus))
    if preset.channel_base is None:
        preset = preset._replace(channel_base=16 * resolution)          # 16 channels in the last layers
    if preset.kimg is None:
        preset = preset._replace(kimg=300 if num_images <= 100 else 500)
    return preset
