"""BigGAN for 32 and 64 pixels (Brock et al., ICLR 2019).

The two nets of KD-DLGAN's tables: that for CIFAR, with a class table per batch norm, and that for ImageNet, with a
shared embedding, a latent in chunks and attention. Without labels each batch norm is modulated by z, as in vision-aided
training (Kumari et al., CVPR 2022). Names and shapes of the state are those of the public program BigGAN-PyTorch.
The calls are those of StyleGAN2's networks here.
"""

import torch

from torch_utils import persistence

from .biggan_layers import Attention, SNConv2d, SNLinear, SNTable, Table, initialise
from .biggan_norm import ConditionalNorm, PlainNorm, batch_statistics, running_values, standing_statistics
from .blocks import Block, half_resolutions
from .stylegan2_discriminator import DiscriminatorFeatures

F = torch.nn.functional
# In units of `channels`, by resolution: G's widths before, between and after its blocks, each of which doubles the
# side of 4; D's widths after its blocks, and how many of the first ones halve the side.
G_WIDTHS = {32: [4, 4, 4, 4], 64: [16, 16, 8, 4, 2]}
D_WIDTHS = {32: ([4, 4, 4, 4], 2), 64: ([1, 2, 4, 8, 16], 4)}


class GeneratorBlock(Block):
    """Batch norm, ReLU, nearest x2, 3x3, batch norm, ReLU, 3x3; beside it nearest x2 and 1x1; their sum.

    Args:
        make_norm: number of channels -> `ConditionalNorm`.
        sn_eps:    as in `SpectralNorm`.
        use_fp16, half_dtype, channels_last: as in `Block`.
    """

    def __init__(self, in_channels, out_channels, make_norm, sn_eps, use_fp16=False, half_dtype='float16',
                 channels_last=False):
        super().__init__(use_fp16, half_dtype, channels_last)
        self.conv1 = SNConv2d(in_channels, out_channels, 3, eps=sn_eps)
        self.conv2 = SNConv2d(out_channels, out_channels, 3, eps=sn_eps)
        self.conv_sc = SNConv2d(in_channels, out_channels, 1, eps=sn_eps)
        self.bn1, self.bn2 = make_norm(in_channels), make_norm(out_channels)

    def forward(self, x, y, force_fp32=False):
        """x [N, in_channels, H, W], y [N, ...] what the norms depend on -> [N, out_channels, 2 H, 2 W]."""
        x = self.cast(x, force_fp32)
        h = self.conv1(F.interpolate(F.relu(self.bn1(x, y)), scale_factor=2))
        h = self.conv2(F.relu(self.bn2(h, y)))
        return h + F.interpolate(self.conv_sc(x), scale_factor=2)       # the same in the other order, on fewer pixels


@persistence.persistent_class
class Generator(torch.nn.Module):
    """z [N, z_dim], c [N, c_dim] one-hot -> img [N, img_channels, img_resolution, img_resolution] in [-1, 1].

    Between `mapping` and `synthesis` stand ws [N, num_ws, w_dim]: for the first layer and for each block a row of the
    class, as its embedding or as it is, followed by a part of z.

    Args:
        z_dim:      of the latent, normal; with `hier` a multiple of num_ws.
        c_dim:      number of classes; 0 = none: the norms depend on z.
        img_resolution: 32 or 64.
        channels:   unit of the widths.
        shared_dim: size of the class embedding that all norms share, through linear maps; 0 = a class table in each.
        hier:       z in chunks, one for the first layer and one for the norms of each block; False = z for the first
                    layer alone.
        attention:  resolution after whose block it stands; 0 = nowhere.
        init:       of the weights, as in `biggan_layers.initialise`.
        sn_eps, bn_eps: of the spectral and the batch norms.
        bn_unbiased, bn_sync: as `unbiased` and `sync` of `BatchNorm`.
        num_fp16_res:   this many of the highest resolutions in half precision, `half_dtype` = 'float16' or 'bfloat16'.
        fp16_channels_last: memory format of the activations.
    Raises: ValueError for sizes that do not go together.
    """

    def __init__(self, z_dim, c_dim, img_resolution, img_channels, channels=64, shared_dim=0, hier=False, attention=0,
                 init='normal', sn_eps=1e-8, bn_eps=1e-5, bn_unbiased=True, bn_sync=False, num_fp16_res=0,
                 half_dtype='float16', fp16_channels_last=False):
        super().__init__()
        widths = [width * channels for width in _of_resolution(G_WIDTHS, img_resolution)]
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = z_dim, c_dim, img_resolution, img_channels
        self.num_ws = len(widths)                                   # the first layer and the blocks
        shared_dim = shared_dim if c_dim > 0 else 0
        if hier and (z_dim % self.num_ws != 0 or (c_dim > 0 and shared_dim == 0)):
            raise ValueError(f'with hier, z_dim must be a multiple of {self.num_ws}, and with labels shared_dim above '
                             f'0; they are {z_dim} and {shared_dim}')
        self.hier, self.chunk = hier, z_dim // self.num_ws if hier else z_dim
        self.class_dim = shared_dim or c_dim                        # of a row of ws, what is not z
        self.w_dim = self.class_dim + self.chunk
        self.condition_dim = self.w_dim if hier or c_dim == 0 else self.class_dim       # what norms depend on
        norm_kwargs = dict(eps=bn_eps, unbiased=bn_unbiased, sync=bn_sync)

        def make_norm(channels):
            linear = lambda: SNLinear(self.condition_dim, channels, bias=False, eps=sn_eps)
            make_map = (lambda: Table(c_dim, channels)) if c_dim > 0 and shared_dim == 0 else linear
            return ConditionalNorm(channels, make_map, **norm_kwargs)

        self.shared = Table(c_dim, shared_dim) if shared_dim > 0 else None
        self.linear = SNLinear(self.chunk, widths[0] * 4 ** 2, eps=sn_eps)
        half = half_resolutions(img_resolution, num_fp16_res)
        self.blocks = torch.nn.ModuleList()
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            res = 8 << i
            block = GeneratorBlock(before, after, make_norm, sn_eps, res in half, half_dtype, fp16_channels_last)
            self.blocks.append(_with_attention(block, after, res == attention, sn_eps))
        last = SNConv2d(widths[-1], img_channels, 3, eps=sn_eps)
        self.output_layer = torch.nn.Sequential(PlainNorm(widths[-1], **norm_kwargs), torch.nn.ReLU(), last)
        initialise(self, init)

    def mapping(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        """-> ws [N, num_ws, w_dim]. truncation_psi must be 1, as w has no average; the others have no effect."""
        if truncation_psi != 1:
            raise ValueError('BigGAN: there is no average of w that truncation_psi could draw to; it must be 1')
        z = z.to(torch.float32)
        z = z.unflatten(1, [self.num_ws, self.chunk]) if self.hier else z[:, None].expand(-1, self.num_ws, -1)
        if self.c_dim == 0:
            return z
        y = c.to(torch.float32) if self.shared is None else self.shared(c)
        return torch.cat([y[:, None].expand(-1, self.num_ws, -1), z], dim=2)

    def synthesis(self, ws, force_fp32=False, noise_mode='const', fused_modconv=None):
        """ws [N, num_ws, w_dim] -> img, float32. noise_mode and fused_modconv have no effect."""
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ValueError(f'BigGAN: ws has shape {list(ws.shape)}, it takes [N, {self.num_ws}, {self.w_dim}]')
        ws = ws.to(torch.float32)
        x = self.linear(ws[:, 0, self.class_dim:]).unflatten(1, [-1, 4, 4])
        for i, (block, *attention) in enumerate(self.blocks, start=1):
            x = block(x, ws[:, i, :self.condition_dim], force_fp32)
            for layer in attention:
                x = layer(x)
        return torch.tanh(self.output_layer(x).to(torch.float32))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), **synthesis_kwargs)

    def running_averages(self):
        """Buffers that each process moves by its own part of a batch: to be averaged over processes after a step."""
        return running_values(self)

    batch_statistics, standing_statistics = batch_statistics, standing_statistics       # ability 'batch_norm'


class DiscriminatorBlock(Block):
    """[ReLU], 3x3, ReLU, 3x3, average pool; beside it average pool and 1x1 where width or side change; their sum.

    Args:
        first: whether it reads the image, which goes through no ReLU.
        down:  whether it halves the side.
        sn_eps, use_fp16, half_dtype, channels_last: as in `GeneratorBlock`.
    """

    def __init__(self, in_channels, out_channels, first, down, sn_eps, use_fp16=False, half_dtype='float16',
                 channels_last=False):
        super().__init__(use_fp16, half_dtype, channels_last)
        self.first, self.down = first, down
        self.conv1 = SNConv2d(in_channels, out_channels, 3, eps=sn_eps)
        self.conv2 = SNConv2d(out_channels, out_channels, 3, eps=sn_eps)
        if down or in_channels != out_channels:
            self.conv_sc = SNConv2d(in_channels, out_channels, 1, eps=sn_eps)
        else:
            self.conv_sc = torch.nn.Identity()

    def forward(self, x, force_fp32=False):
        """[N, in_channels, H, W] -> [N, out_channels, H or H / 2, ...]."""
        x = self.cast(x, force_fp32)
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.down:                           # mean and 1x1 convolution may change places: this order is cheaper
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + self.conv_sc(x)


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Images -> logits: linear(h) + <row of the class, h>, h = sum over positions of the last map after ReLU.

    The projection is that of Miyato & Koyama, ICLR 2018. Without labels the first part alone.

    Args:
        c_dim:    number of classes; 0 = unconditional.
        attention: resolution after whose block it stands (that of the block's result); 0 = nowhere.
        others:   as in `Generator`.
    """

    def __init__(self, c_dim, img_resolution, img_channels, channels=64, attention=0, init='normal', sn_eps=1e-8,
                 num_fp16_res=0, half_dtype='float16', fp16_channels_last=False):
        super().__init__()
        widths, num_down = _of_resolution(D_WIDTHS, img_resolution)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        widths = [img_channels, *[width * channels for width in widths]]
        self.feature_dim = widths[-1]
        half = half_resolutions(img_resolution, num_fp16_res)
        self.blocks = torch.nn.ModuleList()
        res = img_resolution
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            down = i < num_down
            formats = res in half, half_dtype, fp16_channels_last
            block = DiscriminatorBlock(before, after, i == 0, down, sn_eps, *formats)
            res = res // 2 if down else res
            self.blocks.append(_with_attention(block, after, down and res == attention, sn_eps))
        self.linear = SNLinear(widths[-1], 1, eps=sn_eps)
        self.embed = SNTable(c_dim, widths[-1], eps=sn_eps) if c_dim > 0 else None
        initialise(self, init)

    def block_convolutions(self):
        """The convolutions of the blocks, without those that read the image."""
        layers = [layer for block in self.blocks for layer in block[0].children() if isinstance(layer, SNConv2d)]
        return [layer for layer in layers if layer not in (self.blocks[0][0].conv1, self.blocks[0][0].conv_sc)]

    def forward(self, img, c, return_features=False, force_fp32=False):
        """img [N, img_channels, side, side] in [-1, 1], c [N, c_dim] one-hot -> logits [N, 1], float32.

        return_features = True gives (logits, `DiscriminatorFeatures`): the last map before its ReLU, h, and the row
        of the class.
        """
        x = img
        for block, *attention in self.blocks:
            x = block(x, force_fp32)
            for layer in attention:
                x = layer(x)
        trunk = x.to(torch.float32)
        h = F.relu(trunk).sum(dim=[2, 3])
        features = DiscriminatorFeatures(trunk, h, self.embed(c) if self.c_dim > 0 else None)
        logits = _projected(self.linear(h), features)
        return (logits, features) if return_features else logits

    def readout(self, features):
        """`DiscriminatorFeatures` -> logits [N, 1], as in the pass: the sigma of a single row does not move."""
        return _projected(self.linear(features.epilogue), features)


def _projected(logits, features):
    return logits if features.cmap is None else logits + (features.cmap * features.epilogue).sum(dim=1, keepdim=True)


def _with_attention(block, channels, wanted, sn_eps):
    return torch.nn.ModuleList([block, Attention(channels, sn_eps)] if wanted else [block])


def _of_resolution(table, img_resolution):
    if img_resolution not in table:
        sizes = ' and '.join(map(str, table))
        raise ValueError(f'the resolution is {img_resolution}; BigGAN is there for {sizes} pixels')
    return table[img_resolution]
