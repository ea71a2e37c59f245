import torch

from dnnlib import EasyDict

_lrelu = torch.nn.functional.leaky_relu
activation_funcs = {
    'linear': EasyDict(func=lambda x, alpha: x, def_alpha=0, def_gain=1, ref=''),
    'relu': EasyDict(func=lambda x, alpha: torch.relu(x), def_alpha=0, def_gain=2 ** 0.5, ref='y'),
    'lrelu': EasyDict(func=lambda x, alpha: _lrelu(x, alpha), def_alpha=0.2, def_gain=2 ** 0.5, ref='y'),
    'swish': EasyDict(func=lambda x, alpha: x * torch.sigmoid(x), def_alpha=0, def_gain=2 ** 0.5, ref='x'),
}


def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'):
    spec = activation_funcs[act]
    if b is not None:
        assert b.dtype == x.dtype and b.ndim == 1
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = spec.func(x, spec.def_alpha if alpha is None else float(alpha)) * float(spec.def_gain if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)
