"""BigGAN's base configurations, one row each. An iteration is `d_steps` D steps and one G step."""

from typing import NamedTuple

from ..networks.biggan_arguments import PUBLISHED


class BigGANPreset(NamedTuple):
    """Defaults of a training configuration."""
    source: str
    resolution: int
    G_kwargs: dict                  # of `networks_biggan.Generator`, without what the data say
    D_kwargs: dict
    G_lr: float
    D_lr: float
    adam_eps: float
    batch: int                      # reals and fakes of a D step, fakes of the G step
    d_steps: int                    # per iteration, each with images and labels of its own
    ema_start: int                  # iterations in which G_ema is a copy
    iterations: int
    sampling: str                   # for metrics: 'running', or 'batch' = each batch of `metric_batch` by its own
    metric_batch: int
    metric_images: int
    metric_interval: int            # iterations between two evaluations
    diffaugment: str = ''           # policy; '' = none
    ema_decay: float = 0.9999       # per iteration, of parameters and buffers
    betas: tuple = (0.0, 0.999)     # Adam's
    mirror: bool = True


CIFAR = dict(channels=64, **PUBLISHED[32])
IMAGENET = dict(channels=64, attention=32, **PUBLISHED[64])
PRESETS = {
    'biggan-cifar': BigGANPreset(
        'DiffAugment, LeCam and KD-DLGAN, CIFAR-10 and CIFAR-100; there 500,000 iterations for all of CIFAR-100, '
        '125,000 for a tenth of either',
        32, dict(z_dim=128, **CIFAR), CIFAR, G_lr=2e-4, D_lr=2e-4, adam_eps=1e-8, batch=50, d_steps=4, ema_start=1000,
        iterations=250_000, sampling='batch', metric_batch=50, metric_images=10_000, metric_interval=4000,
        diffaugment='translation,cutout'),
    'biggan-imagenet64': BigGANPreset(
        'IC-GAN, its BigGAN for ImageNet at 64 pixels, which stops when FID has not improved for 50 epochs: '
        'iterations and interval are ours',
        64, dict(z_dim=120, shared_dim=128, hier=True, **IMAGENET), IMAGENET, G_lr=1e-4, D_lr=1e-4, adam_eps=1e-6,
        batch=256, d_steps=1, ema_start=20_000, iterations=500_000, sampling='running', metric_batch=256,
        metric_images=50_000, metric_interval=10_000),
}


def optimisers(preset):
    """-> {'G', 'D': constructor arguments of the optimiser, with its class}. No weight decay."""
    common = dict(class_name='torch.optim.Adam', betas=list(preset.betas), eps=preset.adam_eps)
    return dict(G=dict(common, lr=preset.G_lr), D=dict(common, lr=preset.D_lr))
