"""Pickles for other tools: opened in a process that has only a stand-in of the reference implementation's public API,
and compared."""

import ast
import pickle
import re
import types

import numpy as np
import pytest
import torch
from legacy_cases import CASES, SMALL, inputs_of, kwargs_of, run_tools, snapshot_of

import dnnlib
from dnnlib import UserError
from torch_utils import persistence
from training import networks
from training.snapshots import pickle_writer as legacy_writer


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
def test_the_source_that_travels_computes_the_same(case):
    """With this project's own operators: up to rounding, which some processors do otherwise in another order."""
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
        for force_fp32, unit in ((True, 1e-6), (False, 2 ** -8)):       # of float32; of bfloat16, where there is some
            torch.testing.assert_close(ours(*inputs, force_fp32=force_fp32, **mode),
                                       theirs(*inputs, force_fp32=force_fp32, **mode), rtol=unit, atol=unit)


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
                     'collections.OrderedDict', 'torch._utils._rebuild_parameter', 'torch._utils._rebuild_tensor_v2',
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
