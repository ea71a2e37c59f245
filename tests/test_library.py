"""What scripts for StyleGAN2-ADA import, and what docs/library.md names: it is there and does what they expect."""

import contextlib
import io
import os
import pathlib
import pickle
import re
import warnings

import pytest
import torch
from network_server import Handler, serving

import dnnlib
import generate
import legacy
from dnnlib import UserError
from torch_utils import checkpoint, misc, persistence
from training import model_files, networks
from training.run import card as model_card
from training.snapshots import files as snapshots

G_KWARGS = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
                synthesis_kwargs=dict(channel_base=128, channel_max=8, num_fp16_res=2, half_dtype='bfloat16'))
RECORD = dict(options=dict(training_set_kwargs=dict(path='cats.zip', xflip=True)), cur_nimg=5000, class_names=None,
              metrics=[dict(value=1)])


def make_G(**changes):
    torch.manual_seed(0)
    return networks.Generator(**{**G_KWARGS, **changes}).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """{'pickle' or 'snapshot': path} of the same generator."""
    folder = tmp_path_factory.mktemp('nets')
    paths = dict(snapshot=str(folder / 'net.safetensors'), pickle=str(folder / 'net.pkl'))
    kwargs = dict(G_KWARGS, class_name='training.networks.Generator')
    snapshots.save_networks(paths['snapshot'], dict(G_ema=make_G()), dict(G_ema=kwargs), RECORD)
    legacy.convert(paths['snapshot'], paths['pickle'])
    return paths


def in_an_archive(path):
    """A stream that can neither seek back nor be found on the disk, after other bytes."""
    class Stream(io.BytesIO):
        name = 'net inside.zip'
    stream = Stream(b'before' + pathlib.Path(path).read_bytes())
    stream.seek(6)
    return stream


OPENED = dict(open=lambda path: open(path, 'rb'), open_url=dnnlib.util.open_url, inside=in_an_archive,  # noqa: SIM115
              bytes=lambda path: io.BytesIO(pathlib.Path(path).read_bytes()))


@pytest.mark.parametrize('how', OPENED)
@pytest.mark.parametrize('kind', ['pickle', 'snapshot'])
def test_the_first_lines_of_every_script(kind, how, files):
    with OPENED[how](files[kind]) as f:
        found = legacy.load_network_pkl(f)
    assert set(found) == {'G', 'D', 'G_ema', 'training_set_kwargs', 'augment_pipe'}
    assert found['G'] is found['D'] is found['augment_pipe'] is None
    assert found['training_set_kwargs'].path == 'cats.zip' and found['training_set_kwargs'].xflip is True
    G, z = found['G_ema'], torch.randn(2, 8)
    assert not G.training and not any(p.requires_grad for p in G.parameters())
    want = make_G()(z, None, noise_mode='const', force_fp32=True)
    assert torch.equal(G(z, None, noise_mode='const', force_fp32=True), want)


def test_a_file_that_was_replaced_while_it_was_open(files, tmp_path):
    """What was opened counts, not what has its name now."""
    path = tmp_path / 'net.safetensors'
    path.write_bytes(pathlib.Path(files['snapshot']).read_bytes())
    with open(path, 'rb') as f:
        (tmp_path / 'other').write_bytes(b'something else')
        os.replace(tmp_path / 'other', path)
        assert legacy.load_network_pkl(f)['G_ema'].img_resolution == 16


def test_what_is_no_network_is_one_line():
    with pytest.raises(UserError, match='the file is damaged or of another format'):
        legacy.load_network_pkl(io.BytesIO(b'text'))


def test_open_url(files, tmp_path):
    with serving(Handler) as server:
        server.content, server.asked = pathlib.Path(files['pickle']).read_bytes(), []
        with dnnlib.util.open_url(f'{server.address}/good/library.pkl') as f:
            assert f.read() == server.content
        name = dnnlib.util.open_url(f'{server.address}/good/library.pkl', return_filename=True)
        assert pathlib.Path(name).read_bytes() == server.content and server.asked == ['/good/library.pkl']
    assert dnnlib.util.open_url(files['pickle'], return_filename=True) == files['pickle']
    with pytest.raises(UserError, match='open_url: .*nowhere: there is no such file'):
        dnnlib.util.open_url(str(tmp_path / 'nowhere'))
    assert dnnlib.util.is_url('https://host/x') and not dnnlib.util.is_url('net.pkl') and not dnnlib.util.is_url(None)


def test_a_network_is_made_again_from_its_arguments(files):
    G = model_files.load_generator(files['snapshot'], 'cpu')
    kwargs = G.init_kwargs
    assert G.init_args == () and kwargs.z_dim == 8 and kwargs.synthesis_kwargs.channel_base == 128
    kwargs.synthesis_kwargs.channel_base = 1            # a copy
    assert G.init_kwargs.synthesis_kwargs.channel_base == 128
    H = type(G)(*G.init_args, **G.init_kwargs).eval()
    misc.copy_params_and_buffers(G, H, require_all=True)
    z = torch.randn(2, 8)
    assert torch.equal(H(z, None, noise_mode='const'), G(z, None, noise_mode='const'))
    layer = networks.FullyConnectedLayer(3, 4, activation='lrelu')
    assert (layer.init_args, layer.init_kwargs) == ((3, 4), dict(activation='lrelu'))
    assert not hasattr(persistence.PickledObject('', '', {}), 'init_kwargs')


def test_tensors_of_modules():
    source, target = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        source.weight.fill_(2)
    source.running_mean.fill_(5)
    names = ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    assert [name for name, _ in misc.named_params_and_buffers(source)] == names
    assert [id(value) for value in misc.params_and_buffers(source)] == [id(getattr(source, name)) for name in names]
    misc.copy_params_and_buffers(source, target)
    assert target.weight.tolist() == [2, 2, 2] and target.running_mean.tolist() == [5, 5, 5]
    assert target.weight.requires_grad
    part = torch.nn.BatchNorm1d(3, affine=False)
    misc.copy_params_and_buffers(part, target)          # what it does not have stays
    assert target.weight.tolist() == [2, 2, 2] and target.running_mean.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match='the source has no weight'):
        misc.copy_params_and_buffers(part, target, require_all=True)
    with pytest.raises(ValueError, match=r'weight has shape \[3\], its target \[1\]'):
        misc.copy_params_and_buffers(source, torch.nn.BatchNorm1d(1))


@pytest.mark.parametrize('shape, fits', [([2, 3], True), ([None, 3], True), ([2, None], True), ([2, 4], False),
                                         ([2], False), ([2, 3, None], False), ([None, 2], False)])
def test_assert_shape(shape, fits):
    if fits:
        misc.assert_shape(torch.zeros(2, 3), shape)
    else:
        with pytest.raises(AssertionError, match=re.escape(f'[2, 3], expected {shape}')):
            misc.assert_shape(torch.zeros(2, 3), shape)


def test_helpers_of_network_code(recwarn, monkeypatch):
    @misc.profiled_function
    def doubled(x, factor=2):
        """What it does."""
        return x * factor
    recorded = []
    record = lambda name: recorded.append(name) or contextlib.nullcontext()
    monkeypatch.setattr(torch.profiler, 'record_function', record)
    assert doubled(3) == 6 and doubled(3, factor=4) == 12 and recorded == ['doubled', 'doubled']
    assert (doubled.__name__, doubled.__doc__) == ('doubled', 'What it does.')
    with misc.suppress_tracer_warnings():
        warnings.warn('a size is a constant', torch.jit.TracerWarning, stacklevel=1)
        warnings.warn('another', RuntimeWarning, stacklevel=1)
    warnings.warn('a value is a constant', torch.jit.TracerWarning, stacklevel=1)
    assert [str(w.message) for w in recwarn] == ['another', 'a value is a constant']
    assert misc.nan_to_num(torch.tensor([float('nan')])).item() == 0
    with pytest.raises(AssertionError):
        misc.symbolic_assert(torch.tensor(False), 'x')


def test_num_range():
    assert generate.num_range('1,2,5-7') == [1, 2, 5, 6, 7] and generate.num_range('3') == [3]


@pytest.mark.parametrize('num_ws, w_dim', [(7, 8), (5, 8), (6, 9)])
def test_latents_of_another_network_are_refused(num_ws, w_dim):
    """A generator for 16x16 takes 6 of them; those of a larger one were cut."""
    G = make_G()
    assert G.num_ws == 6 and G.synthesis(torch.zeros(1, 6, 8)).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match=re.escape(f'ws has shape [1, {num_ws}, {w_dim}], it takes [N, 6, 8]')):
        G.synthesis(torch.zeros(1, num_ws, w_dim))
    with pytest.raises(ValueError, match='it takes'):
        G.synthesis(torch.zeros(6, 8))


# -- saving an edited network

def test_an_edited_network_is_saved(files, tmp_path):
    snapshot, path = snapshots.load_networks(files['snapshot']), str(tmp_path / 'edited.safetensors')
    G = snapshot.G_ema
    G.synthesis.b4.const.mul_(2)
    model_files.save_generator(path, G.half(), like=snapshot)
    again = snapshots.load_networks(path)
    z = torch.randn(2, 8)
    assert torch.equal(again.G_ema(z, None, noise_mode='const'), G.float()(z, None, noise_mode='const'))
    synthesis = again.info['networks']['G_ema']['synthesis_kwargs']
    assert synthesis['num_fp16_res'] == 2 and synthesis['half_dtype'] == 'bfloat16'     # also if loaded in float32
    training = again.info['training']
    assert training['cur_nimg'] == 5000 and 'metrics' not in training and training['options'] == RECORD['options']
    assert training['history'] == [dict(event='edited', cur_nimg=5000)]
    assert '| changed | its weights, after the training |' in model_card.make_card(path)
    assert '| changed |' not in model_card.make_card(files['snapshot'])


def test_a_network_made_in_a_script_is_saved(tmp_path):
    path = str(tmp_path / 'new.safetensors')
    G = networks.Generator(8, 0, 8, 16, 3, synthesis_kwargs=dict(channel_base=64))
    model_files.save_generator(path, G)
    assert torch.equal(model_files.load_generator(path, 'cpu').synthesis.b4.const, G.synthesis.b4.const)
    assert checkpoint.load_info(path, 'network')['training'] == {}
    G.synthesis.b16.torgb = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(UserError, match='cannot be written: G_ema .*b16.torgb.*; a snapshot holds the values'):
        model_files.save_generator(str(tmp_path / 'other.safetensors'), G)
    assert not (tmp_path / 'other.safetensors').exists()


@pytest.mark.parametrize('content', [lambda: dict(G_ema=make_G()), lambda: make_G(),
                                     lambda: dict(D=networks.Discriminator(0, 16, 3, channel_base=64))])
def test_a_plain_pickle_is_refused_with_the_call_to_use(content, tmp_path):
    path = tmp_path / 'plain.pkl'
    path.write_bytes(pickle.dumps(content()))
    message = r'plain.pkl: .*write it with training.model_files.save_generator \(docs/library.md\)'
    with pytest.raises(UserError, match=message) as caught:
        model_files.load_generator(str(path), 'cpu')
    assert '\n' not in str(caught.value)


# -- the documentation

def test_the_names_that_the_documentation_lists():
    """The first column of the table of StyleGAN2-ADA's names: `module: name, name`."""
    text = (pathlib.Path(__file__).parent.parent / 'docs' / 'library.md').read_text()
    rows = re.findall(r'^\| `([\w.]+)` \| ([^|]*) \|', text.partition('## Names of StyleGAN2-ADA')[2], re.M)
    names = {module: re.findall(r'`(\w+)`', listed) for module, listed in rows}
    assert {'dnnlib', 'dnnlib.util', 'legacy', 'torch_utils.misc', 'training.networks'} <= set(names)
    for module, listed in names.items():
        assert listed, module
        for name in listed:
            assert callable(dnnlib.util.get_obj_by_name(f'{module}.{name}')), f'{module}.{name}'


def test_the_packages_and_commands_that_the_documentation_lists():
    """All that `pip install .` installs, in the first paragraph."""
    root = pathlib.Path(__file__).parent.parent
    project, text = (root / 'pyproject.toml').read_text(), (root / 'docs' / 'library.md').read_text()
    packages = re.findall(r'"(\w+)\*"', re.search(r'^include = (.*)$', project, re.M)[1])
    commands = re.findall(r'^(kdgan-[\w-]+) = ', project, re.M)
    assert len(packages) > 8 and len(commands) > 11
    assert sorted(re.findall(r'`([\w-]+)`', text.split('\n\n')[1])) == sorted(packages + commands)


def test_names_that_scripts_import_from_earlier_versions():
    from torch_utils import safe_pickle
    from torch_utils.pickles import reader
    from training import legacy_pytorch, snapshots
    from training.snapshots import files, pickle_pytorch
    assert safe_pickle is reader and legacy_pytorch is pickle_pytorch
    assert snapshots.load_networks is files.load_networks and snapshots.save_networks is files.save_networks
    with pytest.raises(ImportError, match='other'):
        from training import other  # noqa: F401
