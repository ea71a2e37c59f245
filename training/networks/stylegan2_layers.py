"""Layers shared by the StyleGAN2 generator and discriminator: equalised learning rate, modulation, minibatch
statistics.

Sources: StyleGAN2 (Karras et al., CVPR 2020) and StyleGAN2-ADA (NeurIPS 2020); state-dict names and shapes are
         StyleGAN2-ADA's.
"""

import math

import torch

from torch_utils import persistence
from torch_utils.ops import conv2d_resample, fma, upfirdn2d
from torch_utils.ops.bias_act import activation_funcs, bias_act


def normalize_2nd_moment(x, dim=1, eps=1e-8):
    """Scales `x` so that its mean square along `dim` is 1."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


def modulated_conv2d(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True,
                     flip_weight=True, fused_modconv=True):
    """Convolution whose input channels are scaled per sample (StyleGAN2, section 2.2).

    Args:
        x:               [N, I, H, W], float32 or half.
        weight:          [O, I, kh, kw] float32.
        styles:          [N, I] float32 factors of the input channels.
        noise:           added to the result, broadcast over channels; None = none.
        up, down, padding, resample_filter, flip_weight: as in `conv2d_resample`.
        demodulate:      scale each output channel so that the weights of one sample have norm 1 (equation 3).
        fused_modconv:   True = scale the weights, one set per sample; False = scale the activations, which is the same
                         except for rounding and cheaper for more than one sample.
    Returns:             [N, O, H', W'] in the dtype of `x`.
    """
    x, coefs = modulated_conv2d_unscaled(x, weight, styles, demodulate, fused_modconv, f=resample_filter, up=up,
                                         down=down, padding=padding, flip_weight=flip_weight)
    noise = None if noise is None else noise.to(x.dtype)
    if coefs is None:
        return x if noise is None else x + noise
    coefs = coefs.to(x.dtype)[:, :, None, None]
    return x * coefs if noise is None else fma.fma(x, coefs, noise)


def modulated_conv2d_unscaled(x, weight, styles, demodulate, fused_modconv, **conv):
    """-> (the convolution, [N, O] factors of its channels that are still to come, or None). Arguments as in
    `modulated_conv2d`."""
    # Demodulation undoes any scale: keep both factors below the limit of fp16
    if x.dtype == torch.float16 and demodulate:
        weight = weight / weight.abs().amax([1, 2, 3], keepdim=True) / math.sqrt(weight[0].numel())
        styles = styles / styles.abs().amax(1, keepdim=True)
    coefs = _demodulation(weight, styles) if demodulate else None
    if fused_modconv:
        return _conv_per_sample(x, weight, styles, coefs, conv), None
    x = x * styles.to(x.dtype)[:, :, None, None]
    return conv2d_resample.conv2d_resample(x, weight.to(x.dtype), **conv), coefs


def _demodulation(weight, styles, eps=1e-8):
    """[N, O]: 1 / norm of each sample's weights. The squares factor, so no per-sample weights are needed."""
    return (styles.square() @ _squared_norms(weight) + eps).rsqrt()


def _squared_norms(weight):
    """[O, I, kh, kw] -> [I, O], summing in the order in which the weight lies in memory: the other one is ten times
    slower on a CPU."""
    if weight.stride(0) < weight.stride(1):
        return weight.transpose(0, 1).square().sum([2, 3])
    return weight.square().sum([2, 3]).t()


def _conv_per_sample(x, weight, styles, coefs, conv):
    n, _, h, w = x.shape
    weights = weight[None] * styles[:, None, :, None, None]
    if coefs is not None:
        weights = weights * coefs[:, :, None, None, None]
    x = conv2d_resample.conv2d_resample(x.reshape(1, -1, h, w), weights.flatten(0, 1).to(x.dtype), groups=n, **conv)
    return x.reshape(n, -1, *x.shape[2:])


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Linear layer with equalised learning rate, bias and activation. x [N, in_features] -> [N, out_features].

    Weights are stored divided by `lr_multiplier` and multiplied by it at run time, which multiplies their learning
    rate.
    """

    def __init__(self, in_features, out_features, bias=True, activation='linear', lr_multiplier=1, bias_init=0):
        super().__init__()
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x):
        bias = None
        if self.bias is not None:
            bias = self.bias if self.bias_gain == 1 else self.bias * self.bias_gain
        x = x * self.weight_gain                # the same as scaling the weight, which is larger
        if self.activation == 'linear':
            return torch.nn.functional.linear(x, self.weight, bias)
        return bias_act(torch.nn.functional.linear(x, self.weight), bias, act=self.activation)


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """Convolution with equalised learning rate, resampling, bias and activation. x [N, in_channels, H, W].

    Args:
        up, down:        integer factor by which the result is larger or smaller.
        resample_filter: low-pass filter for it.
        conv_clamp:      results are limited to +-conv_clamp (times `gain`); None = no limit.
        trainable:       False = weights are buffers, which no optimiser sees (--freezed).
    Attributes:
        normalize:       function of the convolution's result, before bias and activation; None = none. Not part of a
                         snapshot.
    """

    normalize = None

    def __init__(self, in_channels, out_channels, kernel_size, bias=True, activation='linear', up=1, down=1,
                 resample_filter=(1, 3, 3, 1), conv_clamp=None, trainable=True):
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size ** 2)
        self.act_gain = activation_funcs[activation].def_gain
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        bias = torch.zeros([out_channels]) if bias else None
        if trainable:
            self.weight = torch.nn.Parameter(weight)
            self.bias = torch.nn.Parameter(bias) if bias is not None else None
        else:
            self.register_buffer('weight', weight)
            self.register_buffer('bias', bias)

    def forward(self, x, gain=1):
        # Scaled in float32: so are the gradients, too small for float16 otherwise
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        flip_weight = self.up == 1
        x = conv2d_resample.conv2d_resample(x, weight, f=self.resample_filter if self.up > 1
                                            or self.down > 1 else None, up=self.up,
                                            down=self.down, padding=self.padding, flip_weight=flip_weight)
        if self.normalize is not None:
            x = self.normalize(x)
        return bias_act(x, bias, act=self.activation, gain=self.act_gain * gain,
                        clamp=scaled_clamp(self.conv_clamp, gain))


def scaled_clamp(clamp, gain):
    """The limit of activations after a further factor `gain`; None stays None."""
    return None if clamp is None else clamp * gain


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Appends to x [N, C, H, W] `num_channels` maps of the standard deviation across the samples of a group
    (Progressive GAN, section 3).

    Groups are strided: sample i belongs to group i % (N / group_size). N must be a multiple of min(group_size, N).
    """

    def __init__(self, group_size, num_channels=1):
        super().__init__()
        self.group_size = group_size            # None = the whole batch
        self.num_channels = num_channels

    def forward(self, x):
        n, c, h, w = x.shape
        group = n if self.group_size is None else min(self.group_size, n)
        if n % group != 0:
            raise ValueError(f'minibatch standard deviation: {n} samples cannot be split into groups of {group}; '
                             f'use a batch per device that is a multiple of {group}')
        y = x.reshape(group, -1, self.num_channels, c // self.num_channels, h, w)       # [G, n, F, c, H, W]
        # [n, F, c, H, W]; var() is slow on a CPU
        variance = (y - y.mean(dim=0)).square().mean(dim=0)
        std = (variance + 1e-8).sqrt()
        std = std.mean(dim=[2, 3, 4])[:, :, None, None]                                 # [n, F, 1, 1]
        return torch.cat([x, std.repeat(group, 1, h, w)], dim=1)
