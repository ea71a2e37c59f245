"""Layers of BigGAN (Brock et al., ICLR 2019): spectrally normalised linear maps, class tables, attention.

Sources: spectral normalisation, Miyato et al., ICLR 2018; attention, SAGAN, Zhang et al., ICML 2019. Names and shapes
of the state are those of the public program BigGAN-PyTorch.
"""

import math

import torch

F = torch.nn.functional


class SpectralNorm(torch.nn.Module):
    """Keeps a weight and gives it divided by an estimate of its largest singular value (Miyato et al., algorithm 1).

    Each use makes one power iteration, v = unit(u W), u = unit(v W^T), sigma = v W^T u^T, with W as [out, rest]. Its
    result is stored in training mode only, in passes without gradient, too. The derivative of sigma is that of W with u
    and v held fixed. It depends on no data: processes with equal weights agree. Nothing waits for the device.

    Args:
        shape: of the weight, [out, ...].
        bias:  whether there is one, [out].
        eps:   smallest length that `unit` divides by.
    """

    def __init__(self, shape, bias=True, eps=1e-8):
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.randn(shape))
        self.bias = torch.nn.Parameter(torch.zeros([shape[0]])) if bias else None
        self.register_buffer('u0', torch.randn([1, shape[0]]))
        self.register_buffer('sv0', torch.ones([1]))            # sigma of the last pass in training mode

    def normalised(self, dtype):
        """-> W / sigma in `dtype`, with the shape of the weight; computed in that of the weight, float32."""
        matrix = _as_matrix(self.weight)
        with torch.no_grad():
            v = F.normalize(self.u0[0] @ matrix, dim=0, eps=self.eps)
        image = matrix @ v                                      # W v, differentiable: serves sigma and the next u
        u = F.normalize(image.detach(), dim=0, eps=self.eps)
        sigma = torch.dot(u, image)
        if self.training:
            with torch.no_grad():
                # Of a weight without numbers nothing is stored: u would never have numbers again. sigma is not negative
                good = sigma < math.inf
                self.u0.copy_(torch.where(good, u, self.u0))
                self.sv0.copy_(torch.where(good, sigma, self.sv0))
        return (self.weight / sigma).to(dtype)

    def bias_as(self, dtype):
        return None if self.bias is None else self.bias.to(dtype)


def _as_matrix(weight):
    """[out, ...] -> [out, rest] without a copy: sigma does not depend on the order of the columns."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


class SNLinear(SpectralNorm):
    """x [N, in_features] -> [N, out_features]."""

    def __init__(self, in_features, out_features, bias=True, eps=1e-8):
        super().__init__([out_features, in_features], bias, eps)

    def forward(self, x):
        return F.linear(x, self.normalised(x.dtype), self.bias_as(x.dtype))


class SNConv2d(SpectralNorm):
    """x [N, in_channels, H, W] -> [N, out_channels, H, W], for odd kernels.

    Attributes:
        normalize: function of the convolution's result, before the bias; None = none. Not part of the state.
    """

    normalize = None

    def __init__(self, in_channels, out_channels, kernel_size, bias=True, eps=1e-8):
        super().__init__([out_channels, in_channels, kernel_size, kernel_size], bias, eps)
        self.padding = kernel_size // 2

    def forward(self, x):
        weight, bias = self.normalised(x.dtype), self.bias_as(x.dtype)
        if self.normalize is None:
            return F.conv2d(x, weight, bias, padding=self.padding)
        x = self.normalize(F.conv2d(x, weight, padding=self.padding))
        return x if bias is None else x + bias[:, None, None]


class SNTable(SpectralNorm):
    """Labels [N, classes] -> rows of a normalised table, [N, features]. The norm is that of the whole table."""

    def __init__(self, classes, features, eps=1e-8):
        super().__init__([classes, features], bias=False, eps=eps)

    def forward(self, c):
        return c.to(self.weight.dtype) @ self.normalised(self.weight.dtype)


class Table(torch.nn.Module):
    """Labels [N, classes] -> rows of a table, [N, features]: of one row for a one-hot label, else their mixture."""

    def __init__(self, classes, features):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn([classes, features]))

    def forward(self, c):
        return c.to(self.weight.dtype) @ self.weight


class Attention(torch.nn.Module):
    """x + gamma o(softmax(theta(x)^T phi(x)) g(x)) over positions, gamma 0 at first (SAGAN, equations 1 to 3).

    As in BigGAN: theta, phi C -> C/8, g C -> C/2, o C/2 -> C, without bias; phi and g are max-pooled to half the side,
    and the products are not scaled. On a GPU the fused attention has a first derivative only.
    """

    def __init__(self, channels, eps=1e-8):
        super().__init__()
        layer = lambda a, b: SNConv2d(a, b, 1, bias=False, eps=eps)
        self.theta, self.phi = layer(channels, channels // 8), layer(channels, channels // 8)
        self.g, self.o = layer(channels, channels // 2), layer(channels // 2, channels)
        self.gamma = torch.nn.Parameter(torch.zeros([]))

    def forward(self, x):
        """[N, C, H, W] -> the same shape."""
        queries = _rows(self.theta(x))
        keys, values = [_rows(F.max_pool2d(layer(x), 2)) for layer in (self.phi, self.g)]
        y = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        y = self.o(y.transpose(1, 2).unflatten(2, x.shape[2:]))
        return torch.addcmul(x, self.gamma.to(x.dtype), y)


def _rows(x):
    """[N, C, H, W] -> [N, H W, C]."""
    return x.flatten(2).transpose(1, 2)


def initialise(network, kind):
    """Gives all weights of layers and tables their first values, and biases those of torch's layers.

    Args:
        kind: 'normal' = N(0, 0.02) (CIFAR), 'orthogonal' (ImageNet; Saxe et al., ICLR 2014).
    """
    if kind not in INITS:
        raise ValueError(f"init is {kind!r}, it must be one of {', '.join(INITS)}")
    for layer in network.modules():
        if isinstance(layer, (SpectralNorm, Table)) and not layer.weight.is_meta:
            INITS[kind](layer.weight)
            if getattr(layer, 'bias', None) is not None:
                limit = layer.weight[0].numel() ** -0.5
                torch.nn.init.uniform_(layer.bias, -limit, limit)


INITS = dict(normal=lambda weight: torch.nn.init.normal_(weight, std=0.02), orthogonal=torch.nn.init.orthogonal_)
