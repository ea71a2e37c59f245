"""The StyleGAN2 discriminator."""

import math
from typing import NamedTuple

import torch

from torch_utils import persistence
from torch_utils.ops import upfirdn2d

from .blocks import Block, block_resolutions, half_resolutions
from .stylegan2_generator import MappingNetwork
from .stylegan2_layers import Conv2dLayer, FullyConnectedLayer, MinibatchStdLayer


class DiscriminatorFeatures(NamedTuple):
    """What the discriminator knows of its input images besides the logit, all float32."""
    trunk: torch.Tensor         # [N, C, 4, 4] map that enters the epilogue
    epilogue: torch.Tensor      # [N, C] last hidden layer, after its activation
    cmap: torch.Tensor | None   # [N, cmap_dim] mapped labels, which the logit is a projection on; None = unconditional


@persistence.persistent_class
class DiscriminatorBlock(Block):
    """One resolution of the discriminator: halves it.

    Args:
        in_channels:     0 = the first block, which reads the image.
        tmp_channels:    between the two convolutions.
        resolution:      of the input.
        first_layer_idx: number of layers before this block: layers below `freeze_layers` are not trained.
        use_fp16, half_dtype, fp16_channels_last: as in `SynthesisBlock`.
    """

    def __init__(self, in_channels, tmp_channels, out_channels, resolution, img_channels, first_layer_idx=0,
                 architecture='resnet', activation='lrelu', resample_filter=(1, 3, 3, 1), conv_clamp=None,
                 use_fp16=False, half_dtype='float16', fp16_channels_last=False, freeze_layers=0):
        super().__init__(use_fp16, half_dtype, fp16_channels_last)
        if architecture not in ('orig', 'skip', 'resnet'):
            raise ValueError(f"architecture is {architecture!r}, it must be 'orig', 'skip' or 'resnet'")
        self.in_channels, self.img_channels = in_channels, img_channels
        self.resolution, self.architecture = resolution, architecture
        self.num_layers = 0
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

        def trainable():
            self.num_layers += 1
            return first_layer_idx + self.num_layers > freeze_layers

        act = dict(activation=activation, conv_clamp=conv_clamp)
        self.fromrgb = None
        if in_channels == 0 or architecture == 'skip':
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, kernel_size=1, trainable=trainable(), **act)
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, kernel_size=3, trainable=trainable(), **act)
        self.conv1 = Conv2dLayer(tmp_channels, out_channels, kernel_size=3, down=2, trainable=trainable(),
                                 resample_filter=resample_filter, **act)
        if architecture == 'resnet':
            self.skip = Conv2dLayer(tmp_channels, out_channels, kernel_size=1, bias=False, down=2,
                                    trainable=trainable(), resample_filter=resample_filter)

    def forward(self, x, img, force_fp32=False):
        """x [N, in_channels, H, W] (None for the first block), img (None once it has been read) -> both for the next
        block."""
        if x is not None:
            x = self.cast(x, force_fp32)
        if self.fromrgb is not None:
            y = self.fromrgb(self.cast(img, force_fp32))
            x = y if x is None else x + y
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == 'skip' else None
        if self.architecture == 'resnet':
            y = self.skip(x, gain=math.sqrt(0.5))
            return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """4x4 features -> logit, always in float32.

    Args:
        cmap_dim:           size of the mapped label that the result is projected on; 0 = unconditional.
        mbstd_group_size:   group of the minibatch standard deviation; None = the whole batch.
        mbstd_num_channels: 0 = none.
    """

    def __init__(self, in_channels, cmap_dim, resolution, img_channels, architecture='resnet', mbstd_group_size=4,
                 mbstd_num_channels=1, activation='lrelu', conv_clamp=None):
        super().__init__()
        self.cmap_dim = cmap_dim
        if architecture == 'skip':
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        else:
            self.fromrgb = None
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation,
                                conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * resolution ** 2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, 1 if cmap_dim == 0 else cmap_dim)

    def forward(self, x, img, cmap):
        x = x.to(torch.float32)
        if self.fromrgb is not None:
            x = x + self.fromrgb(img.to(torch.float32))
        trunk = x
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.conv(x)
        features = DiscriminatorFeatures(trunk, self.fc(x.flatten(1)), cmap)
        return self.readout(features), features

    def readout(self, features):
        """`DiscriminatorFeatures` -> logits [N, 1], from the last hidden layer."""
        logits = self.out(features.epilogue)
        if self.cmap_dim > 0:
            logits = (logits * features.cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return logits


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Images -> logits.

    Args:
        c_dim:           size of the label; 0 = unconditional.
        architecture:    'orig', 'skip' (image at every resolution) or 'resnet'.
        channel_base, channel_max, num_fp16_res: as in `SynthesisNetwork`.
        conv_clamp:      limit of the activations; None = no limit.
        cmap_dim:        size of the mapped label; None = that of the epilogue.
        block_kwargs, mapping_kwargs, epilogue_kwargs: further arguments of the parts.
    """

    def __init__(self, c_dim, img_resolution, img_channels, architecture='resnet', channel_base=32768, channel_max=512,
                 num_fp16_res=0, conv_clamp=None, cmap_dim=None, block_kwargs=None, mapping_kwargs=None,
                 epilogue_kwargs=None):
        super().__init__()
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = block_resolutions(img_resolution)[:0:-1]
        channels = {res: min(channel_base // res, channel_max) for res in [*self.block_resolutions, 4]}
        half = half_resolutions(img_resolution, num_fp16_res)
        self.feature_dim = channels[4]
        cmap_dim = 0 if c_dim == 0 else channels[4] if cmap_dim is None else cmap_dim
        common = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
        first_layer_idx = 0
        for res in self.block_resolutions:
            block = DiscriminatorBlock(channels[res] if res < img_resolution else 0, channels[res], channels[res // 2],
                                       resolution=res, first_layer_idx=first_layer_idx, use_fp16=res in half,
                                       **(block_kwargs or {}), **common)
            setattr(self, f'b{res}', block)
            first_layer_idx += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(z_dim=0, c_dim=c_dim, w_dim=cmap_dim, num_ws=None, w_avg_beta=None,
                                          **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(channels[4], cmap_dim=cmap_dim, resolution=4,
                                        **(epilogue_kwargs or {}), **common)

    def block_convolutions(self):
        """The convolutions of the blocks, without those that read the image."""
        blocks = [getattr(self, f'b{res}') for res in self.block_resolutions]
        return [layer for block in blocks for layer in block.children() if isinstance(layer, Conv2dLayer)
                and layer is not block.fromrgb]

    def readout(self, features):
        """`DiscriminatorFeatures` -> logits [N, 1], from the last hidden layer."""
        return self.b4.readout(features)

    def forward(self, img, c, return_features=False, force_fp32=False):
        """img [N, img_channels, img_resolution, img_resolution] in [-1, 1], c [N, c_dim] -> logits [N, 1], float32.

        return_features = True gives (logits, `DiscriminatorFeatures`).
        """
        x = None
        for res in self.block_resolutions:
            x, img = getattr(self, f'b{res}')(x, img, force_fp32=force_fp32)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        logits, features = self.b4(x, img, cmap)
        return (logits, features) if return_features else logits
