"""Pickles for other tools: opened in a process that has only a stand-in of the reference implementation's public API,
and compared."""

import ast
import copy
import os
import pathlib
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

import dnnlib
from dnnlib import UserError
from torch_utils import persistence
from training import networks
from training.snapshots import pickle_writer as legacy_writer

STANDIN = pathlib.Path(__file__).parent / 'reference_standin'
SMALL = dict(channel_base=128, channel_max=16)
DATA = dict(class_name='training.dataset.ImageFolderDataset', path='cats.zip', use_labels=False, max_size=100,
            xflip=True, resolution=16)
CASES = dict(
    skip=(dict(), dict()),
    orig=(dict(c_dim=3, architecture='orig'), dict(architecture='skip', cmap_dim=5, mapping_kwargs=dict(num_layers=2),
                                                   mbstd_group_size=None)),
    resnet=(dict(res=32, architecture='resnet', num_fp16_res=2, conv_clamp=256, fp16_channels_last=True,
                 activation='swish'),
            dict(architecture='orig', num_fp16_res=2, conv_clamp=256, freeze_layers=4)),
    grey=(dict(channels=1, c_dim=2, use_noise=True), dict(freeze_layers=2, mbstd_num_channels=0)),
    bfloat16=(dict(num_fp16_res=16, half_dtype='bfloat16', fp16_channels_last=True), None),
)


def kwargs_of(case):
    """-> constructor arguments of G, of D (None = there is none)."""
    g, d = copy.deepcopy(CASES[case])
    common = dict(c_dim=g.pop('c_dim', 0), img_resolution=g.pop('res', 16), img_channels=g.pop('channels', 3))
    g = dict(class_name='training.networks.Generator', z_dim=8, w_dim=12, mapping_kwargs=dict(num_layers=2),
             synthesis_kwargs={**SMALL, **g},
             **common)
    if d is None:
        return g, None
    block = {key: d.pop(key) for key in ('freeze_layers', 'fp16_channels_last') if key in d}
    epilogue = {key: d.pop(key) for key in ('mbstd_group_size', 'mbstd_num_channels') if key in d}
    return g, dict(class_name='training.networks.Discriminator', block_kwargs=block, epilogue_kwargs=epilogue, **SMALL,
                   **common, **d)


def build(kwargs, seed):
    """A network in which every tensor takes part in the result: biases, noise strengths and the average of w are not
    zero."""
    network = dnnlib.util.construct_class_by_name(**kwargs).eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not name.endswith('resample_filter'):
            value.copy_(torch.randn(value.shape, generator=rng) * (1 if value.ndim > 1 else 0.3))
    return network


def snapshot_of(case):
    """-> networks, tensors, info"""
    g, d = kwargs_of(case)
    kwargs = dict(G_ema=g) if d is None else dict(G=g, D=d, G_ema=g)
    modules = {name: build(value, seed) for seed, (name, value) in enumerate(kwargs.items())}
    tensors = {f'{name}.{key}': value for name, module in modules.items() for key, value in module.state_dict().items()}
    return modules, tensors, dict(networks=kwargs, training=dict(options=dict(training_set_kwargs=DATA), cur_nimg=1000))


def inputs_of(case):
    g, _ = kwargs_of(case)
    rng = np.random.RandomState(0)
    side, c_dim = g['img_resolution'], g['c_dim']
    return dict(z=rng.randn(4, 8).astype('float32'),
                c=np.eye(max(c_dim, 1), dtype='float32')[np.arange(4) % max(c_dim, 1), :c_dim],
                img=rng.randn(4, g['img_channels'], side, side).astype('float32'))


def run_tools(folder):
    """In a process that sees the stand-in and torch only."""
    env = {**os.environ, 'PYTHONPATH': str(STANDIN), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-W', 'error', str(STANDIN / 'tools.py'), str(folder)], env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
    """The pickles of all cases, opened by the tools, written by them again, and opened a second time."""
    folder = tmp_path_factory.mktemp('pickles')
    for case in CASES:
        _, tensors, info = snapshot_of(case)
        legacy_writer.write(str(folder / f'{case}.pkl'), tensors, info)
        np.savez(folder / f'{case}.in.npz', **inputs_of(case))
    run_tools(folder)
    run_tools(folder / 'again')
    return folder


def expected(modules, z, c, img):
    """What the tools compute, by this project's networks."""
    for name in modules.keys() & {'G', 'G_ema'}:
        G = modules[name]
        yield f'{name}.image', G(z, c, truncation_psi=0.7, noise_mode='const', force_fp32=True)
        ws = G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
        yield f'{name}.ws', ws
        yield f'{name}.no_noise', G.synthesis(ws, noise_mode='none', force_fp32=True)
        yield f'{name}.one', G.synthesis(ws[:1], noise_mode='const', force_fp32=True)
        torch.manual_seed(0)
        yield f'{name}.noise', G.synthesis(ws, noise_mode='random', force_fp32=True)
        mixed = ws[:1].clone()
        mixed[:, :3] = G.mapping(z[:1], c[:1])[0, :3] + G.mapping.w_avg
        yield f'{name}.mixed', G.synthesis(mixed, noise_mode='const', force_fp32=True)
        yield f'{name}.walked', G(z, c, noise_mode='const', force_fp32=True)
        w = G.mapping.w_avg[None, None].repeat(1, G.num_ws, 1).requires_grad_(True)
        noise = {key: buf.requires_grad_(True) for key, buf in G.synthesis.named_buffers()
                 if key.endswith('noise_const')}
        loss = (G.synthesis(w, noise_mode='const', force_fp32=True) - img[:1]).square().mean()
        grads = torch.autograd.grad(loss, [w, *noise.values()])
        yield from zip([f'{name}.w_grad', *[f'{name}.{key}_grad' for key in noise]], grads, strict=True)
    if 'D' in modules:
        yield 'D.logits', modules['D'](img, c, force_fp32=True)
        yield 'D.parameters', torch.tensor(sum(p.numel() for p in modules['D'].parameters()))


@pytest.mark.parametrize('case', CASES)
def test_tools_compute_the_same(opened, case):
    """The stand-in's operators round differently: float32 over some dozens of layers, relative to the largest value."""
    modules = snapshot_of(case)[0]
    want = dict(expected(modules, **{key: torch.from_numpy(value) for key, value in inputs_of(case).items()}))
    got = np.load(opened / f'{case}.npz')
    assert set(got.files) == set(want) | {f'{name}.rebuilt' for name in modules.keys() - {'D'}}
    for key, value in want.items():
        value = value.detach().numpy()
        assert np.abs(got[key] - value).max() <= 2e-5 * np.abs(value).max(), key
    np.testing.assert_array_equal(got['G_ema.rebuilt'], got['G_ema.walked'])


@pytest.mark.parametrize('case', CASES)
def test_tools_can_write_it_again(opened, case):
    first, second = np.load(opened / f'{case}.npz'), np.load(opened / 'again' / f'{case}.npz')
    assert set(first.files) == set(second.files)
    for key in first.files:
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize('case', CASES)
def test_the_source_that_travels_computes_the_same_bits(case):
    """With this project's own operators nothing at all may differ."""
    module = types.ModuleType('travelled')
    exec(legacy_writer.module_source(), module.__dict__)
    z, c, img = [torch.from_numpy(value) for value in inputs_of(case).values()]
    for name, ours in snapshot_of(case)[0].items():
        args, class_name = dict(kwargs_of(case)[name == 'D']), type(ours).__name__
        if 'half_dtype' in CASES[case][0]:              # bfloat16 becomes float32, which other programs know
            args['synthesis_kwargs'] = dict(SMALL)
            state = ours.state_dict()
            ours = dnnlib.util.construct_class_by_name(**args).eval()
            ours.load_state_dict(state)
        theirs = getattr(module, class_name)(**{key: value for key, value in args.items()
                                                if key != 'class_name'}).eval()
        theirs.load_state_dict(ours.state_dict())
        inputs = (img, c) if class_name == 'Discriminator' else (z, c)
        mode = {} if class_name == 'Discriminator' else dict(noise_mode='const')
        for force_fp32 in (True, False):
            assert torch.equal(ours(*inputs, force_fp32=force_fp32, **mode),
                               theirs(*inputs, force_fp32=force_fp32, **mode))


def test_source_suits_old_environments():
    """Python 3.7, and imports from nothing but torch and the reference implementation's public modules."""
    tree = ast.parse(legacy_writer.module_source(), feature_version=(3, 7))
    names = set()
    for node in ast.walk(tree):
        assert not getattr(node, 'level', 0)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    ops = {f'torch_utils.ops.{name}' for name in ('conv2d_resample', 'fma', 'upfirdn2d', 'bias_act.activation_funcs',
                                                  'bias_act.bias_act')}
    # An operator that only this project has: composed there
    assert 'def scaled_bias_act(' in legacy_writer.module_source()
    assert names == ops | {'math', 'torch', 'typing.NamedTuple', 'torch_utils.persistence'}
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list}
    modules = {type(m).__name__ for name in 'GD' for m in snapshot_of('resnet')[0][name].modules()}
    assert modules <= classes


def test_globals_in_the_file_are_those_of_the_reference_implementation(opened):
    names = set()

    class Anything(dict):
        def __init__(self, *args):
            super().__init__()

    class Names(pickle.Unpickler):
        def find_class(self, module, name):
            names.add(f'{module}.{name}')
            return Anything

    with open(opened / 'skip.pkl', 'rb') as f:
        Names(f).load()
    assert names == {'torch_utils.persistence._reconstruct_persistent_obj', 'dnnlib.util.EasyDict',
                     'collections.OrderedDict',
                     'torch._utils._rebuild_parameter', 'torch._utils._rebuild_tensor_v2',
                     'torch.storage._load_from_bytes'}


def test_same_input_same_bytes(opened, tmp_path):
    _, tensors, info = snapshot_of('orig')
    legacy_writer.write(str(tmp_path / 'second.pkl'), tensors, info)
    assert (tmp_path / 'second.pkl').read_bytes() == (opened / 'orig.pkl').read_bytes()


def test_here_it_is_not_opened_with_pickle(opened):
    with open(opened / 'skip.pkl', 'rb') as f, pytest.raises(pickle.UnpicklingError,
                                                             match='which this project never does'):
        pickle.load(f)


@pytest.mark.parametrize('change, message', [
    (lambda t, info: t.pop('G.mapping.fc0.weight'), r'the tensor G.mapping.fc0.weight must be floating point of shape '
                                                    r'\[12, 8\], .* has nothing'),
    (lambda t, info: t.update({'D.b4.out.bias': torch.zeros(2)}), r'D.b4.out.bias must be .* of shape \[1\], .* has '
                                                                  r'torch.float32 of shape \[2\]'),
    (lambda t, info: t.update({'G.synthesis.b4.bias': torch.zeros(2)}),
     'no network has the tensor G.synthesis.b4.bias'),
    (lambda t, info: info['networks']['D'].update(class_name='os.system'), "it asks for the class 'os.system'; only"),
])
def test_a_snapshot_that_cannot_be_written(tmp_path, change, message):
    _, tensors, info = snapshot_of('skip')
    change(tensors, info)
    with pytest.raises(UserError, match=message) as caught:
        legacy_writer.write(str(tmp_path / 'x.pkl'), tensors, info)
    assert re.match(rf'{tmp_path}/x.pkl: cannot be written: [^\n]+; use another snapshot$', str(caught.value))
    assert list(tmp_path.iterdir()) == []


def test_only_plain_values_travel():
    with pytest.raises(TypeError, match='torch.float16 cannot travel'):
        legacy_writer._easy(dict(a=[1, torch.float16]))


@pytest.mark.parametrize('dtype', list(persistence.STORAGES))
def test_tensors_come_back(dtype):
    x = torch.randn(3, 4).to(dtype).t()
    for value in (x, x[:0], x[0, 0]):
        back = pickle.loads(pickle.dumps(persistence.PickledTensor(value)))
        assert back.dtype == dtype and torch.equal(back, value)
    parameter = pickle.loads(pickle.dumps(persistence.PickledParameter(x)))
    assert isinstance(parameter, torch.nn.Parameter) and not parameter.requires_grad and torch.equal(parameter, x)


def test_arguments_are_remembered():
    layer = networks.FullyConnectedLayer(3, 4, activation='lrelu')
    assert (layer._init_args, layer._init_kwargs) == ((3, 4), dict(activation='lrelu'))
    # Not those its base class was made with
    assert networks.SynthesisBlock(0, 4, 8, 4, 3, True)._init_args == (0, 4, 8, 4, 3, True)
