"""Does with each pickle of a folder what programs built on the reference implementation do; writes NAME.npz with what
they got.

    python tools.py FOLDER: NAME.pkl and NAME.in.npz (z, c, img) -> NAME.npz, and NAME.pkl written again by the objects
                            themselves to FOLDER/again
"""

import copy
import pathlib
import pickle
import sys

import numpy as np
import torch

sys.modules.update(dict.fromkeys(['training', 'metrics', 'kd_plugin']))         # importing these fails

import dnnlib  # noqa: E402
from torch_utils import misc  # noqa: E402


def generate(G, z, c):
    """generate.py, style_mixing.py"""
    yield 'image', G(z, c, truncation_psi=0.7, noise_mode='const', force_fp32=True)
    ws = G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
    yield 'ws', ws
    yield 'no_noise', G.synthesis(ws, noise_mode='none', force_fp32=True)
    yield 'one', G.synthesis(ws[:1], noise_mode='const', force_fp32=True)           # a single image: weights are scaled
    torch.manual_seed(0)
    yield 'noise', G.synthesis(ws, noise_mode='random', force_fp32=True)
    row = G.mapping(z[:1], c[:1])[0] + G.mapping.w_avg
    mixed = ws[:1].clone()
    mixed[:, :3] = row[:3]
    yield 'mixed', G.synthesis(mixed, noise_mode='const', force_fp32=True)


def project(G, img):
    """projector.py: gradients with respect to w and to the noise maps."""
    G = copy.deepcopy(G).eval().requires_grad_(False)
    noise = {name: buf for name, buf in G.synthesis.named_buffers() if 'noise_const' in name}
    assert len(noise) == G.synthesis.num_ws - 1
    for buf in noise.values():
        buf.requires_grad = True
    w = G.mapping.w_avg[None, None].repeat(1, G.mapping.num_ws, 1).requires_grad_(True)
    (G.synthesis(w, noise_mode='const', force_fp32=True) - img[:1]).square().mean().backward()
    yield 'w_grad', w.grad
    for name, buf in noise.items():
        yield name + '_grad', buf.grad


def walk(G, z, c):
    """Block by block."""
    ws = G.mapping(z, c).to(torch.float32)
    x = img = None
    start = 0
    for res in G.synthesis.block_resolutions:
        block = getattr(G.synthesis, f'b{res}')
        assert (block.resolution, block.is_last, block.img_channels) == (res, res == G.img_resolution, G.img_channels)
        assert block.use_fp16 or not block.channels_last            # as the reference implementation sets it
        block.use_fp16 = False
        x, img = block(x, img, ws.narrow(1, start, block.num_conv + block.num_torgb), noise_mode='const')
        start += block.num_conv
    assert G.synthesis.b4.conv1.weight.shape[2:] == (3, 3) and block.torgb.weight.shape[2:] == (1, 1)
    yield 'walked', img


# Of StyleGAN2-ADA's synthesis network, its blocks and layers, as far as a caller gives them.
SYNTHESIS_ARGUMENTS = {'channel_base', 'channel_max', 'num_fp16_res', 'conv_clamp', 'architecture', 'resample_filter',
                       'fp16_channels_last', 'kernel_size', 'use_noise', 'activation'}


def rebuild(G, z, c):
    """Another of the same class from its arguments, as the loader for fp16 and transfer learning make it."""
    kwargs = G.init_kwargs
    kwargs.synthesis_kwargs = dnnlib.EasyDict(kwargs.get('synthesis_kwargs', {}))
    kwargs.synthesis_kwargs.num_fp16_res = 0
    kwargs.synthesis_kwargs.conv_clamp = 256
    # Tools also give them to the reference implementation's own class.
    assert set(kwargs) <= {'z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels', 'mapping_kwargs',
                           'synthesis_kwargs'}
    assert set(kwargs.synthesis_kwargs) <= SYNTHESIS_ARGUMENTS
    H = type(G)(*G.init_args, **kwargs).eval().requires_grad_(False)
    assert not any(block.use_fp16 or block.channels_last for block in H.synthesis.children())
    misc.copy_params_and_buffers(G, H)
    yield 'rebuilt', H(z, c, noise_mode='const')


def use(data, z, c, img):
    """Everything, by name."""
    assert all(isinstance(data[name], torch.nn.Module) for name in ('G', 'D', 'G_ema')) and data['augment_pipe'] is None
    assert isinstance(data['training_set_kwargs'], (dict, type(None)))
    for name in ('G', 'G_ema'):
        G = data[name]
        if len(list(G.buffers())) == 0:
            continue
        assert not G.training and not any(p.requires_grad for p in G.parameters())
        assert (G.z_dim, G.c_dim, G.img_resolution, G.img_channels) == (z.shape[1], c.shape[1], img.shape[2],
                                                                        img.shape[1])
        assert G.num_ws == G.mapping.num_ws and G.w_dim == G.mapping.w_avg.numel()
        for part in (generate(G, z, c), project(G, img), rebuild(G, z, c), walk(copy.deepcopy(G), z, c)):
            for key, value in part:
                yield name + '.' + key, value
    D = data['D']
    if len(list(D.buffers())) > 0:
        assert D.block_resolutions[0] == D.img_resolution and D.init_kwargs.img_channels == D.img_channels
        yield 'D.logits', D(img, c, force_fp32=True)
        yield 'D.parameters', torch.tensor(sum(p.numel() for p in D.parameters()))


def main(folder):
    (folder / 'again').mkdir(exist_ok=True)
    for path in sorted(folder.glob('*.pkl')):
        with path.open('rb') as f:
            data = pickle.load(f)
        inputs = np.load(str(path.with_suffix('.in.npz')))
        results = dict(use(data, *[torch.from_numpy(inputs[key]) for key in ('z', 'c', 'img')]))
        np.savez(str(path.with_suffix('.npz')), **{key: value.detach().numpy() for key, value in results.items()})
        with (folder / 'again' / path.name).open('wb') as f:
            pickle.dump(data, f)
        np.savez(str(folder / 'again' / path.with_suffix('.in.npz').name), **inputs)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
