"""Pickles of StyleGAN2-ADA PyTorch, StyleGAN3's files of the same networks and forks: read to what our own snapshots
hold."""

import copy
import io
import json
import warnings

import numpy as np
import pytest
import torch
from conftest import run_cli
from legacy_files import dumps, easy_dict, persistent, persistent_module, storage_call, tensor_call

import legacy
from dnnlib import UserError
from torch_utils import checkpoint
from training import networks
from training.augment import pipe as augment
from training.snapshots import files as snapshots
from training.snapshots import pickle_pytorch as legacy_pytorch

SYNTHESIS = dict(channel_base=128, channel_max=16)


def networks_of(c_dim=0, synthesis=None, **D_kwargs):
    """-> {name: (module, its arguments)}, with content that no initial value has."""
    torch.manual_seed(0)
    G_kwargs = dict(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
                    synthesis_kwargs=dict(SYNTHESIS, **(synthesis or {})))
    D_kwargs = dict(c_dim=c_dim, img_resolution=16, img_channels=3, **SYNTHESIS, **D_kwargs)
    result = {name: (networks.Generator(**G_kwargs), copy.deepcopy(G_kwargs)) for name in ('G', 'G_ema')}
    result['D'] = networks.Discriminator(**D_kwargs), D_kwargs
    for module, _ in result.values():
        for key, value in module.state_dict().items():
            if not key.endswith('resample_filter'):
                value.normal_()
    return result


def pickled(modules, protocol=4, attributes=(), **extra):
    return dumps({name: persistent_module(module, kwargs, attributes) for name, (module, kwargs) in modules.items()}
                 | extra, protocol)


def read(data, **kwargs):
    return legacy_pytorch.read(io.BytesIO(data), **kwargs)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('c_dim', [0, 3])
def test_every_tensor_and_argument_arrives(protocol, c_dim):
    modules = networks_of(c_dim, synthesis=dict(num_fp16_res=1, conv_clamp=256), architecture='skip', num_fp16_res=1,
                          conv_clamp=256, block_kwargs=dict(freeze_layers=2), epilogue_kwargs=dict(mbstd_group_size=2))
    tensors, info = read(pickled(modules, protocol, augment_pipe=None,
                                 training_set_kwargs=easy_dict(class_name='os.system', path='cats.zip')))
    want = {f'{name}.{key}': value for name, (module, _) in modules.items()
            for key, value in module.state_dict().items()}
    assert set(tensors) == set(want)
    assert all(torch.equal(tensors[key], value) and tensors[key].dtype == torch.float32 for key, value in want.items())
    for name, (_, kwargs) in modules.items():
        got = dict(info['networks'][name])
        assert got.pop('class_name') == f'training.networks.{"Discriminator" if name == "D" else "Generator"}'
        if name != 'D':
            assert got['mapping_kwargs'].pop('w_avg_beta') == 0.995
        assert got == kwargs
    assert info['training'] == dict(source='StyleGAN2-ADA PyTorch',
                                    options=dict(training_set_kwargs=dict(path='cats.zip')))
    assert json.loads(json.dumps(info)) == info


def test_only_the_networks_asked_for_are_read():
    tensors, info = read(pickled(networks_of()), names=['D'])
    assert set(info['networks']) == {'D'} and all(key.startswith('D.') for key in tensors)


def test_weights_may_be_laid_out_channels_last_and_in_half_precision():
    modules = networks_of()
    G = modules['G_ema'][0].to(memory_format=torch.channels_last)
    D = modules['D'][0].half()
    assert not G.synthesis.b8.conv0.weight.is_contiguous()
    tensors, _ = read(pickled(modules))
    got = tensors['G_ema.synthesis.b8.conv0.weight']
    assert got.is_contiguous() and torch.equal(got, G.synthesis.b8.conv0.weight)
    assert torch.equal(tensors['D.b8.conv0.weight'], D.b8.conv0.weight.float())


def test_defaults_of_stylegan3_are_read_off_the_parts():
    """There the clamp is 256, four resolutions are in half precision and the average of w has another decay, though no
    argument says so."""
    modules = networks_of(synthesis=dict(num_fp16_res=2, conv_clamp=256), num_fp16_res=2, conv_clamp=256)
    for module, kwargs in modules.values():
        for key in ('num_fp16_res', 'conv_clamp'):
            kwargs.get('synthesis_kwargs', kwargs).pop(key)
        if hasattr(module, 'mapping'):
            module.mapping.w_avg_beta = 0.998
            kwargs['synthesis_kwargs'] = dict(kwargs['synthesis_kwargs'], fused_modconv_default='inference_only')
    _, info = read(pickled(modules))
    for name, kwargs in info['networks'].items():
        part = kwargs if name == 'D' else kwargs['synthesis_kwargs']
        assert part['num_fp16_res'] == 2 and part['conv_clamp'] == 256 and 'fused_modconv_default' not in part
    assert info['networks']['G']['mapping_kwargs']['w_avg_beta'] == 0.998


def of_stylegan3(modules):
    """As StyleGAN3's --cfg=stylegan2 leaves them: the arguments of the synthesis network beside the others."""
    for name, (_, kwargs) in modules.items():
        kwargs.update(kwargs.pop('synthesis_kwargs', {}))
        if name == 'D':
            kwargs.update(block_kwargs=dict(freeze_layers=0), mapping_kwargs={})
            kwargs.update(epilogue_kwargs=dict(mbstd_group_size=4))
        else:
            kwargs.update(fused_modconv_default='inference_only')
    return modules


@pytest.mark.parametrize('c_dim', [0, 3])
def test_files_of_the_stylegan3_code(c_dim, tmp_path):
    """With the augmentation that is in them, a pickled object too."""
    synthesis = dict(num_fp16_res=1, conv_clamp=256, architecture='resnet', resample_filter=[1, 2, 1], use_noise=False,
                     activation='relu')
    modules = of_stylegan3(networks_of(c_dim, synthesis=synthesis, num_fp16_res=1, conv_clamp=256))
    pipe = augment.AugmentPipe(xflip=1, scale=1)
    path = tmp_path / 'network-snapshot-000000.pkl'
    path.write_bytes(pickled(modules, augment_pipe=persistent_module(pipe, dict(xflip=1, scale=1)),
                             training_set_kwargs=easy_dict(path='/home/anna/cats.zip', use_labels=c_dim > 0)))
    tensors, info = legacy_pytorch.read(str(path))
    assert info['networks']['G_ema']['synthesis_kwargs'] == dict(SYNTHESIS, **synthesis)
    assert set(info['networks']['G_ema']) == {'class_name', 'z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels',
                                              'mapping_kwargs', 'synthesis_kwargs'}
    assert info['networks']['D']['epilogue_kwargs'] == dict(mbstd_group_size=4)
    assert info['training']['options'] == dict(training_set_kwargs=dict(path='cats.zip', use_labels=c_dim > 0))
    found = snapshots.load_networks(str(path)).networks
    z, c = torch.randn(2, 8), torch.eye(3)[[0, 2]] if c_dim else None
    want = modules['G_ema'][0].eval()(z, c, noise_mode='const', force_fp32=True)
    assert torch.equal(found['G_ema'](z, c, noise_mode='const'), want)
    assert torch.equal(found['D'](want, c), modules['D'][0](want, c, force_fp32=True))


def test_arguments_beside_and_inside_synthesis_kwargs_are_refused():
    """No program writes both: which one counts?"""
    modules = networks_of()
    modules['G_ema'][1].update(channel_base=64)
    with pytest.raises(UserError, match=r"G_ema has the argument 'channel_base' \(64\), which this project does not"):
        read(pickled(modules))


def test_arguments_by_position_and_as_easy_dicts():
    module, kwargs = networks_of()['G_ema']
    data = dumps(dict(G_ema=persistent_module(module, dict(synthesis_kwargs=easy_dict(**SYNTHESIS)),
                                              args=(8, 0, 8, 16, 3, easy_dict(num_layers=2)))))
    got = read(data)[1]['networks']['G_ema']
    assert {key: got[key] for key in ('z_dim', 'w_dim', 'img_resolution')} == dict(z_dim=8, w_dim=8, img_resolution=16)
    assert got['mapping_kwargs']['num_layers'] == 2 and got['synthesis_kwargs']['channel_base'] == 128


def test_an_argument_of_a_fork_that_is_off_is_dropped_with_a_warning():
    modules = networks_of()
    modules['G_ema'][1].update(use_attention=False)
    with pytest.warns(RuntimeWarning, match=r"G_ema: the argument 'use_attention' \(False\) is unknown here and left "
                                            r"out, as it is off"):
        _, info = read(pickled(modules))
    assert 'use_attention' not in info['networks']['G_ema']


def replaced(which=('G_ema',), kwargs=None, attributes=(), **D_kwargs):
    modules = networks_of(**D_kwargs)
    modules = {name: modules[name] for name in which}
    modules = {name: (module, dict(own, **(kwargs or {}))) for name, (module, own) in modules.items()}
    return pickled(modules, attributes=attributes)


def class_renamed(old, new):
    return pickled({'G_ema': networks_of()['G_ema']}, protocol=2).replace(len(old).to_bytes(4, 'little') + old,
                                                                          len(new).to_bytes(4, 'little') + new)


def alias_free():
    """With what its layers remember: arrays and numbers of numpy."""
    layer = dict(in_size=np.array([36, 36]), in_cutoff=np.float64(2), conv_kernel=3, lrelu_upsampling=2, conv_clamp=256)
    parts = dict(input=persistent('SynthesisInput', dict(size=np.array([36, 36]))),
                 L0_36_512=persistent('SynthesisLayer', layer))
    synthesis = persistent('SynthesisNetwork', dict(_modules=parts))
    return dumps(dict(G_ema=persistent('Generator', dict(_modules=dict(synthesis=synthesis), _init_args=(),
                                                         _init_kwargs={}))))


REFUSED = {
    'a fork argument that is on': (lambda: replaced(kwargs=dict(use_attention=True)),
                                   "G_ema has the argument 'use_attention' (True)"),
    'a resolution out of range': (lambda: replaced(kwargs=dict(img_resolution=2 ** 30)), 'img_resolution=1073741824'),
    'a width out of range': (lambda: replaced(kwargs=dict(w_dim=10 ** 12)), 'w_dim=1000000000000'),
    'too many layers': (lambda: replaced(kwargs=dict(mapping_kwargs=dict(num_layers=10 ** 9))),
                        'G_ema.mapping_kwargs has the argument num_layers'),
    'a dictionary for a number': (lambda: replaced(kwargs=dict(z_dim={})), 'z_dim=a dict'),
    'an unknown activation': (lambda: replaced(kwargs=dict(synthesis_kwargs=dict(activation='exec'))),
                              "activation='exec'"),
    'other widths': (lambda: replaced(kwargs=dict(w_dim=9)), 'its arguments ask for'),
    'more layers than tensors': (lambda: replaced(kwargs=dict(mapping_kwargs=dict(num_layers=3))),
                                 "G_ema lacks the tensor 'mapping.fc2.weight'"),
    'more tensors than layers': (lambda: replaced(kwargs=dict(mapping_kwargs=dict(num_layers=1))),
                                 "G_ema has the tensor 'mapping.fc1.weight'"),
    'thousands of arguments': (lambda: replaced(kwargs={f'a{i}': None for i in range(5000)}),
                               'far more than a network takes'),
    'no images named': (lambda: replaced(kwargs=dict(img_channels=None)), 'img_channels=None'),
    'parts of another network': (lambda: class_renamed(b'ToRGBLayer', b'SelfAttention'),
                                 "an object of the class 'SelfAttention'"),
    'another network': (lambda: class_renamed(b'Generator', b'Transformer'),
                        "G_ema is an object of the class 'Transformer', not a Generator"),
    'the alias-free generator': (alias_free,
                                 'G_ema is the alias-free generator of StyleGAN3 (training.networks_stylegan3'),
    'the discriminator as generator': (lambda: dumps(dict(G=persistent('Discriminator', {}))),
                                       "not a Generator of StyleGAN2"),
    'another version': (lambda: dumps(dict(G=persistent('Generator', {}, version=7))), 'another version than 6'),
    'no arguments': (lambda: dumps(dict(G=persistent('Generator', {}))), 'G does not say what it was made with'),
    'too many arguments': (lambda: dumps(dict(G=persistent('Generator', dict(_init_args=tuple(range(99)),
                                                                             _init_kwargs={})))), 'G does not say'),
    'a number for a network': (lambda: dumps(dict(G_ema=5)), 'G_ema is a int'),
    'a list': (lambda: dumps([1, 2]), 'it holds a list'),
    'nothing': (lambda: dumps(None), 'it holds a NoneType'),
    'a dictionary of tensors': (lambda: dumps(dict(state_dict=dict(a=torch.zeros(2)))),
                                'it holds a dict, not the networks'),
    'parameters in a list': (lambda: replaced(attributes=[('ToRGBLayer', '_parameters', [1])]),
                             'has _parameters that no network has'),
    'a number for a tensor': (lambda: replaced(attributes=[('ToRGBLayer', '_buffers', dict(w=5))]),
                              'torgb.w is a int, not a tensor'),
    'a number for a part': (lambda: replaced(attributes=[('ToRGBLayer', '_modules', dict(affine=5))]),
                            'torgb.affine is a int'),
    'a broken record': (lambda: dumps(dict(D=persistent_module(*networks_of()['D']), kdgan_training='[' * 10 ** 5)),
                        'record of the training'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_not_such_a_network_is_refused_in_one_line(case):
    make, message = REFUSED[case]
    with pytest.raises(UserError) as err:
        read(make())
    assert message in str(err.value) and '\n' not in str(err.value)


@pytest.mark.parametrize('deep', [False, True])
def test_parts_that_are_there_many_times_are_refused(deep):
    """A tree of 2 ** 30 parts in a file of a few KB."""
    tree = persistent('SynthesisBlock', {})
    for _ in range(30):
        tree = persistent('SynthesisBlock', dict(_modules=dict(a=tree, b=tree)))
    if deep:
        for _ in range(30):
            tree = persistent('SynthesisBlock', dict(_modules=dict(a_long_name=tree)))
    G = persistent('Generator', dict(_modules=dict(synthesis=tree), _init_args=(8, 0, 8, 16, 3), _init_kwargs={}))
    with pytest.raises(UserError, match='G_ema has more than 1000 parts, or parts inside parts without end'):
        read(dumps(dict(G_ema=G)))


def test_tensors_that_share_their_bytes_cannot_fill_the_memory():
    """A file of a few KB whose tensors are all one storage; each fits its place."""
    kwargs = dict(z_dim=64, c_dim=0, w_dim=64, img_resolution=4, img_channels=3, mapping_kwargs=dict(num_layers=64),
                  synthesis_kwargs=dict(channel_base=16, channel_max=4))
    G = networks.Generator(**kwargs)
    numbers = storage_call(torch.zeros(64 * 64))
    shared = persistent_module(G, kwargs, tensor=lambda value: tensor_call(numbers, value.shape))
    with pytest.raises(UserError, match=r'uses the same 16,[0-9]{3} bytes for \d+ tensors'):
        read(dumps(dict(G_ema=shared)))


def test_load_network_pkl_gives_modules_that_make_the_same_images(tmp_path):
    modules = networks_of()
    path = tmp_path / 'network.pkl'
    path.write_bytes(pickled(modules, training_set_kwargs=easy_dict(path='cats.zip')))
    with open(path, 'rb') as f:
        found = legacy.load_network_pkl(f)
    assert (set(found) == {'G', 'D', 'G_ema', 'training_set_kwargs', 'augment_pipe'}
            and found['training_set_kwargs'] == dict(path='cats.zip'))
    z = torch.randn(2, 8)
    img = found['G_ema'](z, None, noise_mode='const')
    torch.testing.assert_close(img, modules['G_ema'][0].eval()(z, None, noise_mode='const'), rtol=0, atol=0)
    torch.testing.assert_close(found['D'](img, None), modules['D'][0](img, None), rtol=0, atol=0)
    assert not found['G'].training and not any(p.requires_grad for p in found['G'].parameters())


def test_the_command_makes_a_snapshot(tmp_path):
    modules = networks_of()
    source, dest = tmp_path / 'network.pkl', tmp_path / 'network.safetensors'
    source.write_bytes(pickled(modules))
    code, output = run_cli(legacy.main, f'--source={source}', f'--dest={dest}')
    assert code == 0 and f'Saved {dest}' in output
    G = snapshots.load_networks(str(dest)).G_ema
    z = torch.randn(2, 8)
    torch.testing.assert_close(G(z, None, noise_mode='const'), modules['G_ema'][0].eval()(z, None, noise_mode='const'),
                               rtol=0, atol=0)
    tensors, info = checkpoint.load(str(dest), 'network')
    want, want_info = read(source.read_bytes())
    assert info == want_info and all(torch.equal(tensors[key], value) for key, value in want.items())


@pytest.mark.parametrize('source, dest, message', [
    ('missing.pkl', 'b.zip', 'b.zip: must end in .pkl or .safetensors'),
    ('missing.pkl', 'b.safetensors', '--source=missing.pkl: there is no such file'),
    ('.', 'b.pkl', '--source=.: is a folder, and there is no snapshot in it'),
])
def test_the_command_refuses_in_one_line(source, dest, message, tmp_path):
    code, output = run_cli(legacy.main, f'--source={source}', f'--dest={tmp_path / dest}')
    assert code == 1 and message in output and output.count('\n') <= 1
    assert not list(tmp_path.iterdir())


def test_the_content_decides_what_a_file_is(tmp_path, monkeypatch):
    """Not the end of what the user calls it, which may be an address with a signature, or a name."""
    pickle, snapshot = tmp_path / 'one', tmp_path / 'two'
    pickle.write_bytes(pickled(networks_of()))
    for source, found, dest in [('https://host/x.safetensors?sign=x.pkl#sha256=1', pickle, 'a.safetensors'),
                                ('ffhq256', pickle, 'b.SAFETENSORS'),
                                ('hf:user/repo', tmp_path / 'a.safetensors', 'c.pkl')]:
        monkeypatch.setattr(legacy.model_files, 'locate', lambda network, option, found=found: str(found))
        code, output = run_cli(legacy.main, f'--source={source}', f'--dest={tmp_path / dest}')
        assert code == 0 and f'Saved {tmp_path / dest}' in output
    monkeypatch.undo()
    snapshot.write_bytes((tmp_path / 'a.safetensors').read_bytes())
    again = read((tmp_path / 'c.pkl').read_bytes())[0]
    assert all(torch.equal(value, again[key]) for key, value in checkpoint.load(str(snapshot), 'network')[0].items())
    for source, ending, message in [(pickle, '.pkl', 'is a pickle; --dest must end in .safetensors'),
                                    (snapshot, '.safetensors', 'is no pickle; --dest must end in .pkl')]:
        code, output = run_cli(legacy.main, f'--source={source}', f'--dest={tmp_path / "new"}{ending}')
        assert code == 1 and set(output.splitlines()) == {f'Error: --source={source}: {message}'}
    snapshot.write_bytes(b'text')
    for ending in ('pkl', 'safetensors'):
        code, output = run_cli(legacy.main, f'--source={snapshot}', f'--dest={tmp_path / "new"}.{ending}')
        assert code == 1 and 'two: the file is damaged or of another format' in output
    assert not list(tmp_path.glob('new*'))


def test_reading_gives_no_warning_and_opens_what_is_there(tmp_path):
    path = tmp_path / 'network.pkl'
    path.write_bytes(pickled(networks_of()))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_twice = [legacy_pytorch.read(str(path)), legacy_pytorch.read(path)]
    for tensors, info in read_twice:
        assert list(tensors) and info['networks']
