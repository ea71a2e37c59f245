"""The StyleGAN2 generator: mapping network, synthesis network and the blocks they are built of."""

import math

import torch

from torch_utils import persistence
from torch_utils.ops import upfirdn2d
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.scaled_bias_act import scaled_bias_act

from .blocks import Block, block_resolutions, half_resolutions
from .stylegan2_layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    modulated_conv2d,
    modulated_conv2d_unscaled,
    normalize_2nd_moment,
    scaled_clamp,
)


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """z and class label -> intermediate latents.

    Args:
        z_dim, c_dim:   input sizes; either may be 0 for none.
        w_dim:          size of w.
        num_ws:         number of copies of w to return; None = a single w without a copy dimension.
        num_layers:     fully connected layers.
        embed_features: size of the label embedding; None = w_dim.
        layer_features: size of the hidden layers; None = w_dim.
        w_avg_beta:     decay of the running average of w; None = keep none.
    """

    def __init__(self, z_dim, c_dim, w_dim, num_ws, num_layers=8, embed_features=None, layer_features=None,
                 activation='lrelu', lr_multiplier=0.01, w_avg_beta=0.995):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = 0 if c_dim == 0 else w_dim if embed_features is None else embed_features
        layer_features = w_dim if layer_features is None else layer_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        sizes = [z_dim + embed_features] + [layer_features] * (num_layers - 1) + [w_dim]
        for i in range(num_layers):
            setattr(self, f'fc{i}', FullyConnectedLayer(sizes[i], sizes[i + 1], activation=activation,
                                                        lr_multiplier=lr_multiplier))
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer('w_avg', torch.zeros([w_dim]))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        """z [N, z_dim] and c [N, c_dim] (None where the size is 0) -> ws [N, num_ws, w_dim], or w [N, w_dim].

        truncation_psi draws the first `truncation_cutoff` of the ws (None = all) towards the average: 1 = not at all, 0
        = wholly.
        """
        inputs = []
        if self.z_dim > 0:
            inputs.append(normalize_2nd_moment(z.to(torch.float32)))
        if self.c_dim > 0:
            inputs.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))
        w = torch.cat(inputs, dim=1)
        for i in range(self.num_layers):
            w = getattr(self, f'fc{i}')(w)
        if self.training and self.w_avg_beta is not None and not skip_w_avg_update:
            w_avg = w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta)
            # A step that is left out must not spoil the average permanently
            self.w_avg.copy_(torch.where(w_avg.abs() < math.inf, w_avg, self.w_avg))
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            if self.w_avg_beta is None:
                raise ValueError('MappingNetwork: truncation needs the running average of w; build it with w_avg_beta')
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws = torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], dim=1)
        return ws


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Modulated 3x3 convolution, noise, bias and activation. x [N, in_channels, H, W], w [N, w_dim]."""

    def __init__(self, in_channels, out_channels, w_dim, resolution, kernel_size=3, up=1, use_noise=True,
                 activation='lrelu', resample_filter=(1, 3, 3, 1), conv_clamp=None):
        super().__init__()
        self.resolution = resolution            # of the result
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = activation_funcs[activation].def_gain
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        if use_noise:
            self.register_buffer('noise_const', torch.randn([resolution, resolution]))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(self, x, w, noise_mode='random', fused_modconv=True, gain=1):
        """noise_mode: 'random' = fresh, 'const' = the layer's fixed map, 'none'."""
        noise = None
        if self.use_noise and noise_mode == 'random':
            noise = torch.randn([x.shape[0], 1, self.resolution, self.resolution],
                                device=x.device) * self.noise_strength
        elif self.use_noise and noise_mode == 'const':
            noise = self.noise_const * self.noise_strength
        elif noise_mode not in ('random', 'const', 'none'):
            raise ValueError(f"noise_mode is {noise_mode!r}, it must be 'random', 'const' or 'none'")
        x, coefs = modulated_conv2d_unscaled(x, self.weight, self.affine(w), demodulate=True,
                                             fused_modconv=fused_modconv, up=self.up,
                                             f=self.resample_filter if self.up > 1 else None, padding=self.padding,
                                             flip_weight=self.up == 1)
        return scaled_bias_act(x, coefs, noise, self.bias, act=self.activation, gain=self.act_gain * gain,
                               clamp=scaled_clamp(self.conv_clamp, gain))


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Modulated 1x1 convolution without demodulation from features to an image."""

    def __init__(self, in_channels, out_channels, w_dim, kernel_size=1, conv_clamp=None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size ** 2)

    def forward(self, x, w, fused_modconv=True):
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, padding=self.padding, demodulate=False,
                             fused_modconv=fused_modconv)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


@persistence.persistent_class
class SynthesisBlock(Block):
    """One resolution of the synthesis network.

    Args:
        in_channels:  0 = the first block, which starts from a learned constant.
        resolution:   of the result.
        is_last:      whether it gives the final image.
        architecture: 'orig' = image from the last block only; 'skip' = sum of upsampled images; 'resnet' = residual
                      blocks.
        use_fp16:     whether to work in half precision, `half_dtype` = 'float16' or 'bfloat16'.
        fp16_channels_last: memory format of the activations, in any precision.
        layer_kwargs: further arguments of `SynthesisLayer`.
    """

    def __init__(self, in_channels, out_channels, w_dim, resolution, img_channels, is_last, architecture='skip',
                 resample_filter=(1, 3, 3, 1), conv_clamp=None, use_fp16=False, half_dtype='float16',
                 fp16_channels_last=False, **layer_kwargs):
        super().__init__(use_fp16, half_dtype, fp16_channels_last)
        if architecture not in ('orig', 'skip', 'resnet'):
            raise ValueError(f"architecture is {architecture!r}, it must be 'orig', 'skip' or 'resnet'")
        self.in_channels, self.img_channels, self.w_dim = in_channels, img_channels, w_dim
        self.resolution, self.is_last, self.architecture = resolution, is_last, architecture
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == 'skip')
        layer_kwargs = dict(layer_kwargs, w_dim=w_dim, resolution=resolution, conv_clamp=conv_clamp)
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, resample_filter=resample_filter,
                                        **layer_kwargs)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer_kwargs)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels != 0 and architecture == 'resnet':
            self.skip = Conv2dLayer(in_channels, out_channels, kernel_size=1, bias=False, up=2,
                                    resample_filter=resample_filter)

    def forward(self, x, img, ws, force_fp32=False, fused_modconv=None, noise_mode='random'):
        """x, img: results of the block before (None for the first); ws [N, num_conv + num_torgb, w_dim]."""
        if fused_modconv is None:               # pays for a single image, where no weights are made twice
            fused_modconv = not self.training and ws.shape[0] == 1
        ws = iter(ws.unbind(dim=1))
        layer_kwargs = dict(fused_modconv=fused_modconv, noise_mode=noise_mode)
        if self.in_channels == 0:
            w = next(ws)
            x = self.cast(self.const.expand(w.shape[0], -1, -1, -1), force_fp32)
            x = self.conv1(x, w, **layer_kwargs)
        else:
            x = self.cast(x, force_fp32)
            y = self.skip(x, gain=math.sqrt(0.5)) if self.architecture == 'resnet' else None
            x = self.conv0(x, next(ws), **layer_kwargs)
            x = self.conv1(x, next(ws), gain=1 if y is None else math.sqrt(0.5), **layer_kwargs)
            x = x if y is None else y + x
        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, next(ws), fused_modconv=fused_modconv).to(torch.float32)
            img = y if img is None else img + y
        return x, img


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """Latents -> images.

    Args:
        channel_base, channel_max: a layer at resolution r has min(channel_base / r, channel_max) channels.
        num_fp16_res:              this many of the highest resolutions run in half precision; 4x4 never does.
        block_kwargs:              further arguments of `SynthesisBlock` and `SynthesisLayer`.
    """

    def __init__(self, w_dim, img_resolution, img_channels, channel_base=32768, channel_max=512, num_fp16_res=0,
                 **block_kwargs):
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = block_resolutions(img_resolution)
        half = half_resolutions(img_resolution, num_fp16_res)
        self.num_ws = 0
        in_channels = 0
        for res in self.block_resolutions:
            out_channels = min(channel_base // res, channel_max)
            block = SynthesisBlock(in_channels, out_channels, w_dim=w_dim, resolution=res, img_channels=img_channels,
                                   is_last=res == img_resolution, use_fp16=res in half, **block_kwargs)
            self.num_ws += block.num_conv
            setattr(self, f'b{res}', block)
            in_channels = out_channels
        # The other ToRGB layers share the w of the next block's first convolution
        self.num_ws += block.num_torgb

    def forward(self, ws, **block_kwargs):
        """ws [N, num_ws, w_dim] -> img [N, img_channels, img_resolution, img_resolution] float32; block_kwargs as in
        `SynthesisBlock.forward`."""
        if ws.ndim != 3 or ws.shape[1] != self.num_ws or ws.shape[2] != self.w_dim:
            shape = f'[N, {self.num_ws}, {self.w_dim}]'
            raise ValueError(f'SynthesisNetwork: ws has shape {list(ws.shape)}, it takes {shape}')
        ws = ws.to(torch.float32)
        x = img = None
        start = 0
        for res in self.block_resolutions:
            block = getattr(self, f'b{res}')
            x, img = block(x, img, ws.narrow(1, start, block.num_conv + block.num_torgb), **block_kwargs)
            start += block.num_conv
        return img


@persistence.persistent_class
class Generator(torch.nn.Module):
    """z [N, z_dim], c [N, c_dim] -> img [N, img_channels, img_resolution, img_resolution], about [-1, 1]."""

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs=None, synthesis_kwargs=None):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels,
                                          **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws,
                                      **(mapping_kwargs or {}))

    def running_averages(self):
        """Buffers that each process moves by its own part of a batch."""
        return [] if self.mapping.w_avg_beta is None else [self.mapping.w_avg]

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)
