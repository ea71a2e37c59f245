"""Checkpoints of the public BigGAN programs."""

import inspect
from collections import OrderedDict

import numpy as np
import PIL.Image
import pytest
import torch
from biggan_golden import LAYOUT, check, draw, filled, onehot, read
from conftest import run_cli

import export
import generate
from dnnlib import UnusableFile, UserError
from torch_utils.images import to_uint8
from training.config.presets import PRESETS
from training.model_files import load_generator
from training.networks.biggan import Discriminator, Generator
from training.networks.biggan_row import ARGUMENTS
from training.snapshots.arguments import checked
from training.snapshots.biggan_files import load


def saved(path, tensors):
    torch.save(OrderedDict(tensors), path)
    return str(path)


@pytest.mark.parametrize('net', ['cifar10_small', 'imagenet64_small'])
@pytest.mark.parametrize('prefix, legacy', [('', False), ('module.', True)])
def test_a_checkpoint_is_the_network(net, prefix, legacy, tmp_path):
    """Also as a network on several GPUs is saved, in torch's old format, with the layer of IC-GAN that nothing uses."""
    golden = read(net)
    for name, module in zip('GD', filled(net), strict=True):
        tensors = {prefix + key: value for key, value in module.state_dict().items()}
        if name == 'G' and net.startswith('imagenet'):
            tensors[f'{prefix}shared_feat.weight'] = torch.zeros(2048, 2048)
        torch.save(tensors, tmp_path / f'{name}.pth', _use_new_zipfile_serialization=not legacy)
        public = load(tmp_path / f'{name}.pth')
        assert all(torch.equal(value, module.state_dict()[key]) for key, value in public.module.state_dict().items())
        assert type(public.module) is type(module) and not public.module.training and public.head == {}
        assert public.kwargs['class_name'] == f'training.networks.biggan.{type(module).__name__}'
        assert public.kwargs['sn_eps'] == LAYOUT[net]['config']['SN_eps']
        if name == 'G':
            check(public.module(golden['z'], onehot(golden['y'], module)), golden['G_eval'])


def test_commands_open_it(tmp_path):
    """An image of a seed and class, and a snapshot made of it; D alone is no generator."""
    G, D = filled('cifar10_small')
    path = saved(tmp_path / 'G_ema.pth', G.state_dict())
    assert run_cli(generate.main, f'--network={path}', '--seeds=4', '--class=2', f'--outdir={tmp_path}')[0] == 0
    z = torch.from_numpy(np.random.RandomState(4).randn(1, G.z_dim)).float()
    c = torch.eye(10)[[2]]
    want = to_uint8(G.eval()(z, c))[0].permute(1, 2, 0)
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / 'seed0004.png')), want.numpy())
    code, output = run_cli(export.main, f'--network={path}', '--format=safetensors', f'--dest={tmp_path}/x.safetensors')
    assert code == 0, output
    torch.testing.assert_close(load_generator(f'{tmp_path}/x.safetensors', 'cpu')(z, c), G(z, c))
    path = saved(tmp_path / 'D.pth', D.state_dict())
    code, output = run_cli(generate.main, f'--network={path}', f'--outdir={tmp_path}')
    assert code == 1 and 'there is no G_ema in it' in output


def test_the_distillation_head_is_given_apart(tmp_path):
    """D of KD_DLGAN, full width: all names of its file."""
    shapes = LAYOUT['kd_dlgan_cifar10_D']['state_dict']
    public = load(saved(tmp_path / 'D.pth', {name: torch.zeros(shape) for name, shape in shapes}))
    assert set(public.head) == {name for name, _ in shapes if name.startswith('linear_cls_')} and len(public.head) == 8
    assert sum(p.numel() for p in public.module.parameters()) + sum(
        value.numel() for name, value in public.head.items() if name.endswith(('weight', 'bias'))) == 4_995_329


def test_unconditional_networks(tmp_path):
    sizes = dict(c_dim=0, img_resolution=32, img_channels=3, channels=2)
    for module in (Generator(z_dim=9, **sizes), Discriminator(**sizes)):
        public = load(saved(tmp_path / 'x.pth', module.state_dict()))
        assert public.kwargs['c_dim'] == 0 and public.kwargs['channels'] == 2
        assert public.kwargs.get('z_dim', 9) == 9


@pytest.mark.parametrize('counter', [0, 4])
def test_own_batch_norm(counter, tmp_path):
    """Its names; where its counter is above 0, its statistics are sums over so many batches."""
    G, _ = filled('cifar10_small')
    tensors = {}
    for name, value in G.state_dict().items():
        own = name.replace('stored', 'bn.stored')
        tensors[own] = value * max(counter, 1) if own != name else value
        if own.endswith('stored_var'):
            tensors[own.replace('stored_var', 'accumulation_counter')] = torch.tensor([float(counter)])
    public = load(saved(tmp_path / 'G.pth', tensors))
    assert public.kwargs['bn_unbiased'] is False
    for name, value in public.module.state_dict().items():
        torch.testing.assert_close(value, G.state_dict()[name])


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize('change, message', [
    (lambda t: without(t, 'blocks.1.0.conv1.bias'), "lacks the tensor 'blocks.1.0.conv1.bias'"),
    (lambda t: without(t, 'linear.weight'), "lacks the tensor 'linear.weight' with 2 dimensions"),
    (lambda t: dict(t, more=torch.zeros(1)), "has the tensor 'more', which such a network does not have"),
    (lambda t: dict(t, **{'linear.bias': torch.zeros(3)}),
     r"'linear.bias' with shape \(3,\); its arguments ask for \(256,\)"),
    (lambda t: dict(t, **{'linear.bias': torch.zeros(256, dtype=torch.int64)}), "'linear.bias' is torch.int64"),
    (lambda t: {key: value for key, value in t.items() if 'blocks.2' not in key}, 'holds a generator of 2 blocks'),
    (lambda t: {key: t[key] for key in t if key.startswith('blocks.0')}, 'holds a discriminator of 1 blocks'),
    (lambda t: dict(itr=1000, config={}), "entry 'itr' is of the type int, not a tensor"),
    (lambda t: {}, 'no table of tensors'),
    (lambda t: dict(t, layer=torch.nn.Linear(1, 1)), 'more in it than tensors')])
def test_another_file_is_refused_in_one_line(change, message, tmp_path):
    path = saved(tmp_path / 'G.pth', change(filled('cifar10_small')[0].state_dict()))
    with pytest.raises(UserError, match=message) as err:
        load(path)
    text = str(err.value)
    assert text.startswith(f'{path}: ') and '\n' not in text and 'it must be G_ema.pth' in text


@pytest.mark.parametrize('content, message', [
    (b'', 'damaged'), (b'hello', 'damaged'), (b'PK\x03\x04' + bytes(50), 'damaged'), (None, 'cannot be read')])
def test_a_file_that_is_none(content, message, tmp_path):
    path = tmp_path / 'G.pth'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ('run',)

    with pytest.raises(UserError, match='damaged, or has more in it than tensors'):
        load(saved(tmp_path / 'G.pth', dict(x=Trap(), y=draw('y', [1]))))
    assert 'run' not in capsys.readouterr().out


@pytest.mark.parametrize('preset', [PRESETS['biggan-cifar'], PRESETS['biggan-imagenet64']])
def test_arguments_in_a_file_are_checked(preset):
    """Those of a network as they are known after its construction pass as they are; a wrong one does not."""
    data = dict(c_dim=10, img_resolution=preset.resolution, img_channels=3)
    for kwargs, rules in zip((preset.G_kwargs, preset.D_kwargs), ARGUMENTS.values(), strict=True):
        assert checked({**kwargs, **data}, rules, 'G') == {**kwargs, **data}
        with pytest.raises(UnusableFile, match='img_resolution=128'):
            checked({**kwargs, **data, 'img_resolution': 128}, rules, 'G')
    for cls, rules in zip((Generator, Discriminator), ARGUMENTS.values(), strict=True):
        assert set(inspect.signature(cls).parameters) == set(rules)
