"""The small discriminators of vision-aided training on the levels of a teacher, following the programs of its source.

All take a map [N, C, h, w] or a vector [N, C] and labels [N, c_dim], and give a map of logits [N, 1, h', w'] or [N, 1].
Maps: convolution 3x3, leaky ReLU, low-pass filter, convolution 1x1 with stride 2. Vectors: linear, leaky ReLU, linear.
"""

import torch

from torch_utils.ops import upfirdn2d
from training.networks.biggan_layers import SNConv2d, SNLinear, Table, initialise
from training.networks.stylegan2_layers import Conv2dLayer, FullyConnectedLayer

F = torch.nn.functional
FINE_MAP = 8                    # longer sides are halved by the first convolution: 14 of DINO's maps, not 7 of CLIP's


def widths(sides):
    """(hidden channels, stride of the first convolution) for maps of these sides, as for DINO or as for CLIP."""
    return (128, 2) if sides and max(sides) > FINE_MAP else (256, 1)


class EqualisedHead(torch.nn.Module):
    """Of the StyleGAN2 program: layers with the equalised learning rate, no norm; it does not see the labels.

    Args:
        channels: C.
        is_map:   whether it gets maps.
        c_dim:    of the labels.
        hidden, stride: of the first layer.
    """

    def __init__(self, channels, is_map, c_dim=0, hidden=256, stride=1):
        super().__init__()
        if is_map:
            self.first = Conv2dLayer(channels, hidden, 3, activation='lrelu', down=stride)
            self.out = Conv2dLayer(hidden, 1, 1, down=2)
        else:
            self.first = FullyConnectedLayer(channels, hidden, activation='lrelu')
            self.out = FullyConnectedLayer(hidden, 1)

    def forward(self, x, c):
        return self.out(self.first(x))


class NormalisedHead(torch.nn.Module):
    """Of the package vision_aided_loss: spectrally normalised; on a vector also a projection of the labels, as it is.

    Arguments as of `EqualisedHead`. Weights start as torch has them, those of the labels as N(0, 1).
    """

    def __init__(self, channels, is_map, c_dim=0, hidden=256, stride=1):
        super().__init__()
        conv, linear = torch.nn.Conv2d, torch.nn.Linear
        self.is_map, self.halves = is_map, stride > 1
        border = 0 if self.halves else 1            # the filter before a strided convolution adds it
        self.first = _normalised(conv(channels, hidden, 3, stride, border) if is_map else linear(channels, hidden))
        self.out = _normalised(conv(hidden, 1, 1, stride=2) if is_map else linear(hidden, 1))
        self.label = linear(c_dim, hidden, bias=False) if c_dim > 0 and not is_map else None
        if self.label is not None:
            torch.nn.init.normal_(self.label.weight)
        self.register_buffer('blur', upfirdn2d.setup_filter([1, 3, 3, 1]), persistent=False)

    def forward(self, x, c):
        if self.is_map:
            x = upfirdn2d.upfirdn2d(x, self.blur, padding=[2, 3, 2, 3]) if self.halves else x
            x = F.leaky_relu(self.first(x), 0.2)
            return self.out(upfirdn2d.upfirdn2d(x, self.blur, padding=[1, 2, 1, 2]))
        x = F.leaky_relu(self.first(x), 0.2)
        return self.out(x) if self.label is None else self.out(x) + (self.label(c) * x).sum(dim=1, keepdim=True)


class BigGANHead(torch.nn.Module):
    """Of the BigGAN program: SN linear to 256, ReLU, SN linear to 1, and <row of the class, the 256>, a plain table.

    A map [N, C, h, w], such as that of Swin, first goes through a low-pass filter and an SN convolution 3x3 with
    stride 2 to 256 channels, ReLU. Weights start as N(0, 0.02). Only a pass in training mode stores its power
    iteration.

    Args:
        channels: C.
        side:     h; 0 = it gets vectors [N, C].
        c_dim:    of the labels.
    """

    def __init__(self, channels, side, c_dim=0, hidden=256):
        super().__init__()
        self.conv = SNConv2d(channels, hidden, 3) if side > 0 else None
        self.first = SNLinear(hidden * ((side - 1) // 2) ** 2 if side > 0 else channels, hidden)
        self.out = SNLinear(hidden, 1)
        self.label = Table(c_dim, hidden) if c_dim > 0 else None
        self.register_buffer('blur', upfirdn2d.setup_filter([1, 3, 3, 1]), persistent=False)
        initialise(self, 'normal')

    def forward(self, x, c):
        """-> [N, 1]."""
        if self.conv is not None:
            x = upfirdn2d.upfirdn2d(x, self.blur, padding=[1, 2, 1, 2])             # of the same size
            weight, bias = self.conv.normalised(x.dtype), self.conv.bias_as(x.dtype)
            x = F.relu(F.conv2d(x, weight, bias, stride=2)).flatten(1)
        x = F.relu(self.first(x))
        return self.out(x) if self.label is None else self.out(x) + (self.label(c) * x).sum(dim=1, keepdim=True)


def _normalised(layer):
    return torch.nn.utils.parametrizations.spectral_norm(layer)
