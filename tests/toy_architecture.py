"""A second architecture, as small as can be: what a stranger's networks must offer, and their row."""

import torch
from torch.nn.utils.parametrizations import spectral_norm

from torch_utils import persistence
from training.networks.checks import IMAGE, whole, width
from training.networks.interface import Architecture
from training.networks.stylegan2_discriminator import DiscriminatorFeatures

SIDE = 4                        # of the smallest map


@persistence.persistent_class
class Generator(torch.nn.Module):
    """z and class -> a map of 4x4 -> batch norm, which has running statistics -> the image, larger by repetition."""

    num_ws = 1

    def __init__(self, z_dim, c_dim, img_resolution, img_channels, channels=8):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, z_dim + c_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.linear = torch.nn.Linear(self.w_dim, channels * SIDE ** 2)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.conv = torch.nn.Conv2d(channels, img_channels, 3, padding=1)

    def mapping(self, z, c, skip_w_avg_update=False):
        return (z if self.c_dim == 0 else torch.cat([z, c], dim=1))[:, None]

    def synthesis(self, ws, noise_mode='random', force_fp32=False, fused_modconv=None):
        x = self.norm(self.linear(ws[:, 0]).unflatten(1, (-1, SIDE, SIDE)))
        x = torch.nn.functional.interpolate(x.relu(), scale_factor=self.img_resolution // SIDE)
        return self.conv(x).tanh()

    def forward(self, z, c, **synthesis_kwargs):
        return self.synthesis(self.mapping(z, c), **synthesis_kwargs)

    def running_averages(self):
        return [self.norm.running_mean, self.norm.running_var]


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Image -> one convolution, its weight spectrally normalised -> mean over positions -> logit; without labels."""

    def __init__(self, c_dim, img_resolution, img_channels, channels=8):
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.feature_dim = channels
        self.conv = spectral_norm(torch.nn.Conv2d(img_channels, channels, 3, padding=1))
        self.out = torch.nn.Linear(channels, 1)

    def readout(self, features):
        return self.out(features.epilogue)

    def forward(self, img, c, return_features=False, force_fp32=False):
        trunk = torch.nn.functional.softplus(self.conv(img))        # smooth: R1 differentiates it twice
        features = DiscriminatorFeatures(trunk, trunk.mean(dim=[2, 3]), None)
        logits = self.readout(features)
        return (logits, features) if return_features else logits


G, D = 'toy_architecture.Generator', 'toy_architecture.Discriminator'
ARCHITECTURE = Architecture(
    'toy', 'toy-gan', G, D,
    configure=lambda preset, opts, device: (dict(z_dim=preset.z_dim, **preset.G_kwargs), dict(preset.D_kwargs)),
    arguments={G: dict(IMAGE, z_dim=width, channels=whole(1, 64)), D: dict(IMAGE, channels=whole(1, 64))},
    batch_multiple=lambda D_kwargs, batch_gpu, per_process: per_process)        # the statistics are those of the batch
