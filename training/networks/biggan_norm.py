"""Batch normalisation of BigGAN, and whose statistics it uses: of the batch, running, standing.

Ioffe & Szegedy, ICML 2015; class-conditional: Dumoulin et al., ICLR 2017; self-modulated: Chen et al., ICLR 2019;
standing statistics: BigGAN (Brock et al., ICLR 2019), appendix C.
"""

import contextlib
import math

import torch

from torch_utils import distributed

F = torch.nn.functional
MOMENTUM = 0.1                  # of the running values


class BatchNorm(torch.nn.Module):
    """(x - mean) / sqrt(variance + eps) per channel, over N, H, W, before a gain and a bias that a subclass gives.

    In training mode with the statistics of the batch, which also move the running values; in eval mode with the running
    values. The functions `batch_statistics` and `standing_statistics` depart from that.

    Args:
        channels: C.
        eps:      added to the variance.
        unbiased: whether the running variance is the unbiased one (torch's); False = that of BigGAN-PyTorch's own norm
                  (--mybn).
        sync:     whether in training mode the statistics are those of all processes, which must then hold batches of
                  one size.
    """

    def __init__(self, channels, eps=1e-5, unbiased=True, sync=False):
        super().__init__()
        self.eps, self.unbiased, self.sync = eps, unbiased, sync
        # The compiler's warm-up is without other processes, and what it compiles must hold with them
        self.by_batch = torch.compiler.disable(_by_batch) if sync else _by_batch
        self.use = None                         # for a while: what is done with the statistics of each batch
        self.register_buffer('stored_mean', torch.zeros([channels]))
        self.register_buffer('stored_var', torch.ones([channels]))

    def normalise(self, x, gain, bias):
        """x [N, C, H, W], gain and bias [N, C] or [C] -> x^ gain + bias in the format of x, statistics in float32."""
        if self.training or self.use is not None:
            x = self.by_batch(self, x)
        else:
            x = F.batch_norm(x, self.stored_mean, self.stored_var, eps=self.eps)
        return torch.addcmul(bias.to(x.dtype)[..., None, None], x, gain.to(x.dtype)[..., None, None])

    @torch.no_grad()
    def _move(self, mean, var, count):
        var = var * (count / (count - 1)) if self.unbiased else var
        good = var < math.inf               # else a step that is left out would spoil the channel for good
        for stored, value in ((self.stored_mean, mean), (self.stored_var, var)):
            stored.copy_(torch.where(good, stored.lerp(value, MOMENTUM), stored))


def _by_batch(norm, x):
    """-> x^ of a `BatchNorm`, whose running values move, or what else is done with the statistics."""
    normalised = _by_all_processes if norm.sync and norm.training and distributed.is_active() else _by_own_batch
    x, mean, var, count = normalised(x, norm.eps, norm.stored_mean.dtype)
    (norm._move if norm.use is None else norm.use)(mean, var, count)
    return x


def _by_own_batch(x, eps, dtype):
    """-> x^, mean [C], biased variance [C], both in `dtype`, numbers per channel."""
    count = x.numel() // x.shape[1]
    mean, var = x.new_zeros([2, x.shape[1]], dtype=dtype)
    x = F.batch_norm(x, mean, var, training=True, momentum=1.0, eps=eps)        # leaves them this batch's, unbiased
    return x, mean, var * ((count - 1) / count), count


def _by_all_processes(x, eps, dtype):
    """The same over all processes, differentiable. Two exchanges: in one, large means would leave no digits of var."""
    count = x.numel() // x.shape[1] * distributed.get_world_size()
    mean = distributed.mean(x.to(dtype).mean([0, 2, 3]))
    x_c = x.to(dtype) - mean[:, None, None]
    var = distributed.mean(x_c.square().mean([0, 2, 3]))
    return (x_c * (var + eps).rsqrt()[:, None, None]).to(x.dtype), mean.detach(), var.detach(), count


class PlainNorm(BatchNorm):
    """Batch norm with a gain and a bias per channel, 1 and 0 at first."""

    def __init__(self, channels, **kwargs):
        super().__init__(channels, **kwargs)
        self.gain = torch.nn.Parameter(torch.ones([channels]))
        self.bias = torch.nn.Parameter(torch.zeros([channels]))

    def forward(self, x):
        return self.normalise(x, self.gain, self.bias)


class ConditionalNorm(BatchNorm):
    """x^ (1 + gain(y)) + bias(y).

    Args:
        make_map: () -> module from y [N, ...] to [N, channels]: a class table, or a linear map without bias.
    """

    def __init__(self, channels, make_map, **kwargs):
        super().__init__(channels, **kwargs)
        self.gain, self.bias = make_map(), make_map()

    def forward(self, x, y):
        return self.normalise(x, 1 + self.gain(y), self.bias(y))


def norms(network):
    """The batch norms of a network, in order."""
    return [part for part in network.modules() if isinstance(part, BatchNorm)]


def running_values(network):
    """The buffers that hold running mean and variance, norm by norm."""
    return [value for norm in norms(network) for value in (norm.stored_mean, norm.stored_var)]


@contextlib.contextmanager
def batch_statistics(network):
    """Within it, a network in eval mode normalises each batch by itself, and nothing in it changes.

    That is how the public programs for CIFAR sample for their metrics, in batches of 50 with uniform labels: an image
    depends on the others. They leave G_ema in training mode, which also moves its state; this leaves no trace.
    """
    with _using(network, lambda _norm: lambda mean, var, count: None):
        yield


@torch.no_grad()
def standing_statistics(network, batches):
    """Puts means of batch statistics in place of the running values: of mean and biased variance, over all batches.

    The passes are made in training mode, so that the spectral norms go on, as in BigGAN-PyTorch. For a copy of G_ema,
    before it is written or measured: the state of the average itself must not move. The means are also those of the
    processes, all of which must call it.

    Args:
        network: G.
        batches: iterable of (z [N, z_dim], c [N, c_dim]); the source takes 16.
    """
    sums = {norm: [torch.zeros_like(norm.stored_mean), torch.zeros_like(norm.stored_var)] for norm in norms(network)}
    was_training, number = network.training, 0
    network.train()
    try:
        with _using(network, lambda norm: lambda mean, var, count: torch._foreach_add_(sums[norm], [mean, var])):
            for z, c in batches:
                network(z, c)
                number += 1
    finally:
        network.train(was_training)
    if number == 0:
        raise ValueError('standing_statistics: there are no batches')
    means = [value / number for pair in sums.values() for value in pair]
    distributed.average(means)
    torch._foreach_copy_(running_values(network), means)


@contextlib.contextmanager
def _using(network, use):
    """Within it, the norms use the statistics of the batch and hand them to `use(norm)`."""
    parts = norms(network)
    for norm in parts:
        norm.use = use(norm)
    try:
        yield
    finally:
        for norm in parts:
            norm.use = None
