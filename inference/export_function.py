"""The generator as a function of tensors alone, in operators that every program knows: the content of an exported
file."""

import torch

from torch_utils.custom_ops import references
from training.networks.architectures import abilities_of


class _Images(torch.nn.Module):
    """Truncation where G has it, synthesis in float32, and nothing that depends on values or the number of images."""

    def __init__(self, G, noise_mode):
        super().__init__()
        self.synthesis = G.synthesis
        self.noise_mode = noise_mode
        self.truncates = 'truncation' in abilities_of(G)
        if self.truncates:
            self.register_buffer('w_avg', G.mapping.w_avg)
        if not isinstance(G.synthesis, torch.nn.Module):            # a method, whose weights are those of G
            self.G = G

    def images(self, ws, truncation_psi=None):
        if self.truncates:
            ws = ws + (self.w_avg - ws) * (1 - truncation_psi)      # psi = 1 leaves ws as they are, to the bit
        return self.synthesis(ws, noise_mode=self.noise_mode, fused_modconv=False, force_fp32=True)


class _FromW(_Images):
    def forward(self, w, truncation_psi=None):
        return self.images(w, truncation_psi)


class _FromZ(_Images):
    def __init__(self, G, noise_mode):
        super().__init__(G, noise_mode)
        self.mapping = G.mapping

    def forward(self, z, truncation_psi=None):
        return self.images(self.mapping(z, None), truncation_psi)


class _FromLabelledZ(_FromZ):
    def forward(self, z, c, truncation_psi=None):
        return self.images(self.mapping(z, c), truncation_psi)


def image_function(G, latents='z', noise_mode='const'):
    """A module whose arguments are those that `random_inputs` gives, in that order -> img [N, C, H, W] float32.

    Args:
        G:          a generator.
        latents:    'z', or 'w' [N, num_ws, w_dim], which already includes the labels.
        noise_mode: 'const' or 'none': the same input always gives the same image.
    """
    if latents == 'w':
        return _FromW(G, noise_mode).eval()
    return (_FromLabelledZ if G.c_dim > 0 else _FromZ)(G, noise_mode).eval()


def random_inputs(G, latents, n, truncation_psi, rng):
    """-> {'z' or 'w': [n, ...], 'c': [n, c_dim], 'truncation_psi': []}, float32; the classes take turns.

    'c' where G has classes and takes z; 'truncation_psi' where it has truncation.
    """
    z = torch.randn([n, G.z_dim], generator=rng)
    c = torch.nn.functional.one_hot(torch.arange(n) % max(G.c_dim, 1), max(G.c_dim, 1)).to(torch.float32)
    has_truncation = 'truncation' in abilities_of(G)
    inputs = dict(truncation_psi=torch.tensor(truncation_psi, dtype=torch.float32)) if has_truncation else {}
    if latents == 'w':
        return dict(w=G.mapping(z, c), **inputs)
    return dict(z=z, c=c, **inputs) if G.c_dim > 0 else dict(z=z, **inputs)


def network_images(G, inputs, noise_mode):
    """The expected output for `inputs`, from the network itself, without anything made for the export."""
    truncation = dict(truncation_psi=inputs['truncation_psi'].item()) if 'truncation_psi' in inputs else {}
    if 'w' not in inputs:
        ws = G.mapping(inputs['z'], inputs.get('c'), **truncation)
    elif truncation:
        ws = inputs['w'].lerp(G.mapping.w_avg.expand_as(inputs['w']), 1 - truncation['truncation_psi'])
    else:
        ws = inputs['w']
    return G.synthesis(ws, noise_mode=noise_mode, force_fp32=True)


class PlainOps(torch.overrides.TorchFunctionMode):
    """Inside, this project's own operators run, and are recorded, as the plain torch that defines them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.addcmul:                   # torch 2.6 cannot export it where the number of images is open
            return args[0] + args[1] * args[2]
        if func is torch.nn.functional.scaled_dot_product_attention:        # ONNX has it with a dimension of heads only
            queries, keys, values = args
            return torch.softmax(queries @ keys.transpose(1, 2) * kwargs['scale'], dim=2) @ values
        if getattr(func, 'namespace', None) != 'kdgan':
            return func(*args, **(kwargs or {}))
        name = func._schema.name.partition('::')[2]
        return (_upfirdn2d if name == 'upfirdn2d' else references[name])(*args)


def _upfirdn2d(x, f, upx, upy, *args):
    """Unlike the definition of the operator, it does not create a tensor on a fixed device and write into it."""
    if upx > 1 or upy > 1:
        n, c, h, w = x.shape
        x = torch.nn.functional.pad(x.reshape(n, c, h, 1, w, 1),
                                    [0, upx - 1, 0, 0, 0, upy - 1]).reshape(n, c, h * upy, w * upx)
    return references['upfirdn2d'](x, f, 1, 1, *args)
