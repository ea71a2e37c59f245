"""Pickles of the TensorFlow releases: what the reader makes of them is compared with the formulas of TensorFlow's
layers, written in numpy."""

import io
import math

import legacy_files
import numpy as np
import pytest
import torch

from dnnlib import UserError, util
from training.snapshots import pickle_pytorch as legacy_pytorch

K = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def read(*networks, **kwargs):
    return legacy_pytorch.read(io.BytesIO(legacy_files.dumps(networks, protocol=4)), **kwargs)


def build(tensors, info, name):
    module = util.construct_class_by_name(**info['networks'][name]).eval()
    module.load_state_dict({key.removeprefix(f'{name}.'): value for key, value in tensors.items()
                            if key.startswith(f'{name}.')})
    return module


@pytest.fixture(scope='module')
def three():
    G, G_vars = legacy_files.tensorflow_generator(seed=0)
    D, D_vars = legacy_files.tensorflow_discriminator()
    Gs, Gs_vars = legacy_files.tensorflow_generator(seed=2)
    return (G, D, Gs), dict(G=G_vars, D=D_vars, G_ema=Gs_vars)


# ---------------------------------------------------------------------------
# The layers as TensorFlow computes them: images [N, C, H, W], kernels [height, width, in, out] as stored, each loop a
# definition.

def he(w):
    return w / math.sqrt(np.prod(w.shape[:-1]))


def lrelu(x):
    return np.where(x >= 0, x, 0.2 * x) * math.sqrt(2)


def correlate(x, w, stride=1):
    """tf.nn.conv2d(padding='VALID')."""
    kh, kw = w.shape[:2]
    rows, columns = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    return sum(np.einsum('nchw,co->nohw',
                         x[:, :, a:a + rows * stride:stride, b:b + columns * stride:stride][:, :, :rows, :columns],
                         w[a, b])
               for a in range(kh) for b in range(kw))


def transposed(x, w):
    """tf.nn.conv2d_transpose(strides=2, padding='VALID') with the kernel turned around beforehand, as the release
    does."""
    n, _, h, width = x.shape
    kh, kw, _, out = w.shape
    y = np.zeros([n, out, 2 * (h - 1) + kh, 2 * (width - 1) + kw])
    for a in range(kh):
        for b in range(kw):
            y[:, :, a:a + 2 * h - 1:2, b:b + 2 * width - 1:2] += np.einsum('nchw,co->nohw', x, w[::-1, ::-1][a, b])
    return y


def pad(x, before, after):
    return np.pad(x, [(0, 0), (0, 0), (before, after), (before, after)])


def smooth(x, before, after, gain=1):
    """The 4-tap filter in both directions, each channel by itself."""
    x = pad(x, before, after)
    h, w = x.shape[2] - 3, x.shape[3] - 3
    return gain * sum(K[a, b] * x[:, :, a:a + h, b:b + w] for a in range(4) for b in range(4))


def enlarge(img):
    y = np.zeros([*img.shape[:2], 2 * img.shape[2], 2 * img.shape[3]])
    y[:, :, ::2, ::2] = img
    return smooth(y, 2, 1, gain=4)


def modulated(x, v, prefix, w, up=False, demodulate=True):
    style = w @ he(v[f'{prefix}/mod_weight']) + v[f'{prefix}/mod_bias'] + 1
    result = []
    for i in range(len(x)):
        kernel = he(v[f'{prefix}/weight']) * style[i][None, None, :, None]
        if demodulate:
            kernel = kernel / np.sqrt(np.square(kernel).sum((0, 1, 2)) + 1e-8)
        edge = kernel.shape[0] // 2
        result.append(smooth(transposed(x[i:i + 1], kernel), 1, 1, gain=4) if up
                      else correlate(pad(x[i:i + 1], edge, edge), kernel))
    return np.concatenate(result)


def bias(v, prefix):
    return v[f'{prefix}/bias'][None, :, None, None]


def generator_of_tensorflow(v, z, res):
    w = z / np.sqrt(np.square(z).mean(1, keepdims=True) + 1e-8)
    for i in range(2):
        weight = v[f'mapping/Dense{i}/weight']
        w = lrelu(w @ (weight * 0.01 / math.sqrt(weight.shape[0])) + v[f'mapping/Dense{i}/bias'] * 0.01)
    x = np.repeat(v['synthesis/4x4/Const/const'], len(z), axis=0)
    img, index = None, 0
    for r in [2 ** i for i in range(2, int(math.log2(res)) + 1)]:
        for name in ['Conv'] if r == 4 else ['Conv0_up', 'Conv1']:
            prefix = f'synthesis/{r}x{r}/{name}'
            x = modulated(x, v, prefix, w,
                          up=name == 'Conv0_up') + v[f'synthesis/noise{index}'] * v[f'{prefix}/noise_strength']
            x = lrelu(x + bias(v, prefix))
            index += 1
        prefix = f'synthesis/{r}x{r}/ToRGB'
        rgb = modulated(x, v, prefix, w, demodulate=False) + bias(v, prefix)
        img = rgb if img is None else enlarge(img) + rgb
    return img


def discriminator_of_tensorflow(v, img, res):
    x = lrelu(correlate(img, he(v[f'{res}x{res}/FromRGB/weight'])) + bias(v, f'{res}x{res}/FromRGB'))
    for r in [2 ** i for i in range(int(math.log2(res)), 2, -1)]:
        skip = correlate(smooth(x, 1, 1), he(v[f'{r}x{r}/Skip/weight']), stride=2)
        x = lrelu(correlate(pad(x, 1, 1), he(v[f'{r}x{r}/Conv0/weight'])) + bias(v, f'{r}x{r}/Conv0'))
        x = lrelu(correlate(smooth(x, 2, 2), he(v[f'{r}x{r}/Conv1_down/weight']), stride=2)
                  + bias(v, f'{r}x{r}/Conv1_down'))
        x = (x + skip) / math.sqrt(2)
    groups = x.reshape(4, -1, *x.shape[1:])                         # [G, M, C, 4, 4]: sample g * M + m is in group m
    std = np.sqrt(groups.var(0) + 1e-8).mean((1, 2, 3))
    x = np.concatenate([x, np.tile(std, 4)[:, None, None, None] * np.ones([1, 1, 4, 4])], axis=1)
    x = lrelu(correlate(pad(x, 1, 1), he(v['4x4/Conv/weight'])) + bias(v, '4x4/Conv'))
    x = lrelu(x.reshape(len(x), -1) @ he(v['4x4/Dense0/weight']) + v['4x4/Dense0/bias'])
    return x @ he(v['Output/weight']) + v['Output/bias']


def test_a_generator_gives_the_images_of_tensorflow(three):
    networks, variables = three
    G = build(*read(*networks), 'G_ema')
    z = np.random.default_rng(3).standard_normal((3, 8)).astype(np.float32)
    img = G(torch.from_numpy(z), None, noise_mode='const').detach().numpy()
    want = generator_of_tensorflow(variables['G_ema'], z, 16)
    assert want.std() > 1
    np.testing.assert_allclose(img, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())      # float32 against float64
    assert np.array_equal(G.mapping.w_avg.numpy(), variables['G_ema']['dlatent_avg'])


def test_a_discriminator_gives_the_logits_of_tensorflow(three):
    networks, variables = three
    D = build(*read(*networks), 'D')
    img = 5 * np.random.default_rng(4).standard_normal((8, 3, 16, 16)).astype(np.float32)
    logits = D(torch.from_numpy(img), None).detach().numpy()
    want = discriminator_of_tensorflow(variables['D'], img, 16)
    assert want.std() > 0.1
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_names_and_arguments(three):
    networks, _ = three
    tensors, info = read(*networks)
    assert set(info['networks']) == {'G', 'D', 'G_ema'} and info['training'] == dict(source='TensorFlow')
    assert not torch.equal(tensors['G.mapping.fc0.weight'], tensors['G_ema.mapping.fc0.weight'])
    kwargs = info['networks']['G_ema']
    assert (kwargs['class_name'] == 'training.networks.Generator' and kwargs['img_resolution'] == 16
            and kwargs['z_dim'] == 8)
    assert kwargs['synthesis_kwargs']['channel_base'] == 128 and kwargs['mapping_kwargs']['num_layers'] == 2
    only, info = read(*networks, names=['G_ema'])
    assert set(info['networks']) == {'G_ema'} and all(key.startswith('G_ema.') for key in only)


def change(three, which, change):
    networks, _ = three
    networks = list(networks)
    state = dict(networks[which].state)
    networks[which] = legacy_files.New('dnnlib.tflib.network.Network', state=dict(state, **change(state)))
    return networks


@pytest.mark.parametrize('changed, message', [
    (lambda s: dict(variables=s['variables'][1:]), "D lacks the tensor 'b16.fromrgb.weight'"),
    (lambda s: dict(variables=[*s['variables'], ('8x8/Attention/weight', np.zeros([1, 1], np.float32))]),
     "variable '8x8/Attention/weight'"),
    (lambda s: dict(variables=[(k, v.T if k == '4x4/Dense0/weight' else v) for k, v in s['variables']]),
     "'b4.fc.weight' with shape"),
    (lambda s: dict(variables=[(k, v[0] if k == '4x4/Conv/weight' else v) for k, v in s['variables']]),
     "'b4.conv.weight' with shape None"),
    (lambda s: dict(variables=[('a', 'b')]), 'a variable that is not a name and an array'),
    (lambda s: dict(static_kwargs=legacy_files.easy_dict(resolution=16, spectral_norm=True)),
     "the argument 'spectral_norm' (True)"),
    (lambda s: dict(static_kwargs=legacy_files.easy_dict(resolution=10 ** 9)), 'img_resolution=1000000000'),
    (lambda s: dict(static_kwargs=legacy_files.easy_dict(**s['static_kwargs'].entries | dict(label_size=3))),
     'whose labels enter otherwise'),
    (lambda s: dict(static_kwargs=None), 'D has no static_kwargs'),
    (lambda s: dict(components=dict(mapping=5)), 'a part that is no network'),
    (lambda s: dict(components=dict(attention=5)), 'other parts than mapping and synthesis'),
    (lambda s: dict(variables=[(f'{i}', np.zeros([], np.float32)) for i in range(2000)]), 'more than 1000 variables'),
], ids=range(12))
def test_networks_that_are_not_like_ours_are_refused(three, changed, message):
    with pytest.raises(UserError) as err:
        read(*change(three, 1, changed))
    assert message in str(err.value) and '\n' not in str(err.value)


def test_a_tuple_of_something_else_is_refused():
    with pytest.raises(UserError, match='not the three networks G, D, Gs'):
        read(1, 2, 3)


def test_the_noise_maps_are_numbered_from_4x4_up(three):
    networks, variables = three
    tensors, _ = read(*networks)
    for key, index in {'b4.conv1': 0, 'b8.conv0': 1, 'b8.conv1': 2, 'b16.conv0': 3, 'b16.conv1': 4}.items():
        assert np.array_equal(tensors[f'G.synthesis.{key}.noise_const'],
                              variables['G'][f'synthesis/noise{index}'][0, 0])
