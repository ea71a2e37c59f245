import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import run_cli

import dnnlib
import export
from inference import export_check, export_files, export_function
from torch_utils import checkpoint
from torch_utils.ops import bias_act, upfirdn2d
from training import networks
from training.snapshots import files as snapshots

KWARGS = dict(class_name='training.networks.Generator', z_dim=4, w_dim=5, c_dim=2, img_resolution=8, img_channels=3,
              mapping_kwargs=dict(num_layers=2))
EXTENSIONS = dict(onnx='onnx', torchscript='pt', safetensors='safetensors')
CASES = {       # one network for each architecture, and for each way to ask for an export
    'skip': (dict(c_dim=2), dict(), []),
    'orig': (dict(c_dim=0), dict(resample_filter=[1, 2, 3, 4, 4, 3, 2, 1]), ['--noise-mode=none', '--opset=20']),
    'resnet': (dict(c_dim=2), dict(conv_clamp=1, num_fp16_res=2, half_dtype='bfloat16', fp16_channels_last=True,
                                   activation='swish'), ['--input=w'])}


def save(path, training=None, mapping=None, **changes):
    """Writes a generator every part of which shows in its images -> the same, in float32."""
    kwargs = {**KWARGS, **changes}
    kwargs['mapping_kwargs'] = {**kwargs['mapping_kwargs'], **(mapping or {})}
    kwargs['synthesis_kwargs'] = dict(channel_base=64, channel_max=8, **kwargs.get('synthesis_kwargs', {}))
    rng_state = torch.manual_seed(0)
    G = networks.Generator(**{k: v for k, v in kwargs.items() if k != 'class_name'})
    for name, value in G.state_dict().items():
        if name.endswith(('bias', 'noise_strength', 'w_avg')):
            value.normal_(generator=rng_state)
    snapshots.save_networks(str(path), dict(G_ema=G, G=G), dict(G_ema=kwargs, G=kwargs),
                            training or dict(class_names=['cat', 'dog'][:kwargs['c_dim']], cur_nimg=3000))
    return G.eval().requires_grad_(False)


@pytest.fixture(scope='module', params=CASES)
def case(request, tmp_path_factory):
    """(folder with net.safetensors, generator, options)."""
    changes, synthesis, options = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    G = save(folder / 'net.safetensors', synthesis_kwargs=dict(architecture=request.param, **synthesis), **changes)
    return folder, G, options


def run(folder, format, *options, dest=None):
    dest = dest or folder / f'out.{EXTENSIONS[format]}'
    if format != 'onnx':
        options = [o for o in options if not o.startswith('--opset')]
    return run_cli(export.main, f'--network={folder / "net.safetensors"}', f'--format={format}',
                   f'--dest={dest}', *options)


def exported(folder, format):
    """The file of an earlier test, or a new one."""
    path = folder / f'out.{EXTENSIONS[format]}'
    assert path.exists() or run(folder, format)[0] == 0
    return path


def run_file(path, *inputs):
    """Images of an exported file by its own runtime; inputs: numpy arrays in the order of the file's own."""
    if path.suffix == '.pt':
        with export_files._recording():
            module = torch.jit.load(path)
        return module(*map(torch.from_numpy, inputs)).numpy()
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {node.name: value for node, value in zip(session.get_inputs(), inputs, strict=True)})[0]


@pytest.mark.parametrize('format', ['onnx', 'torchscript'])
def test_the_file_gives_the_images_of_the_network(case, format):
    folder, G, options = case
    code, output = run(folder, format, *options)
    assert (code == 0
            and re.fullmatch(r'Saved .*out\.\w+ \(\d+\.\d MB\): 15 images from random inputs differ .* at most '
                             r'\de-0[5-9]\n', output))
    n, psi = 7, 0.3
    z, c = torch.randn(n, 4), torch.eye(2)[torch.arange(n) % 2]
    ws = G.mapping(z, c if G.c_dim else None)
    truncated = G.mapping.w_avg + (ws - G.mapping.w_avg) * psi
    want = G.synthesis(truncated, noise_mode='none' if '--noise-mode=none' in options else 'const',
                       force_fp32=True).numpy()
    latents = [ws] if '--input=w' in options else [z, c] if G.c_dim else [z]
    got = run_file(folder / f'out.{EXTENSIONS[format]}', *[value.numpy() for value in latents],
                   np.array(psi, np.float32))
    assert got.shape == (n, 3, 8, 8) and got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_snapshot_of_the_averaged_generator_alone(case):
    folder, G, options = case
    assert run(folder, 'safetensors')[0] == 0
    tensors, info = checkpoint.load(str(folder / 'out.safetensors'), 'network')
    before, all_info = checkpoint.load(str(folder / 'net.safetensors'), 'network')
    assert set(tensors) == {f'G_ema.{name}' for name in G.state_dict()}
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())
    assert info == dict(networks=dict(G_ema=all_info['networks']['G_ema']), training=all_info['training'],
                        project_version=dnnlib.__version__)


ALONE = '''
import json, sys
import numpy as np
{load}
inputs = [np.ones([2, 4], np.float32), np.eye(2, dtype=np.float32), np.array(1, np.float32)]
img = run(inputs)
assert not {{'training', 'torch_utils', 'dnnlib', 'export'}} & set(sys.modules)
print(json.dumps([img.tolist(), metadata]))
'''
LOAD_ONNX = '''import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
metadata = dict(session.get_modelmeta().custom_metadata_map)
run = lambda inputs: session.run(['img'], dict(zip(['z', 'c', 'truncation_psi'], inputs)))[0]
assert [node.shape for node in session.get_inputs()] == [['N', 4], ['N', 2], []]
assert session.get_outputs()[0].shape == ['N', 3, 8, 8]
'''
LOAD_TORCHSCRIPT = '''import torch
extra = {'metadata.json': ''}
module = torch.jit.load(sys.argv[1], _extra_files=extra)
metadata = json.loads(extra['metadata.json'])
run = lambda inputs: module(*map(torch.from_numpy, inputs))
'''


@pytest.mark.parametrize('case', ['skip'], indirect=True)
@pytest.mark.parametrize('format, load', [('onnx', LOAD_ONNX), ('torchscript', LOAD_TORCHSCRIPT)])
def test_the_file_runs_without_this_project(case, format, load):
    folder, G, _options = case
    path = exported(folder, format)
    result = subprocess.run([sys.executable, '-I', '-c', ALONE.format(load=load), path], capture_output=True, text=True,
                            cwd=folder, check=True)
    img, metadata = json.loads(result.stdout)
    want = G(torch.ones(2, 4), torch.eye(2), noise_mode='const')
    assert (want[0] - want[1]).abs().max() > 0.1                # the classes differ
    torch.testing.assert_close(torch.tensor(img), want, atol=1e-5, rtol=1e-5)
    values = {key: json.loads(value) if key in ('class_names', 'inputs', 'resolution')
              and isinstance(value, str) else value
              for key, value in metadata.items()}
    assert (values['class_names'] == ['cat', 'dog'] and values['resolution'] == 8
            and values['source'] == 'net.safetensors')
    assert list(values['inputs']) == ['z', 'c', 'truncation_psi'] and '[N, 3, 8, 8]' in values['output']
    for place in (export.__file__.rpartition('/')[0], str(folder)):
        assert place.encode() not in path.read_bytes()              # no path of this machine


def test_torchscript_is_bound_to_no_device_and_to_no_operator_of_ours(case):
    folder, _G, options = case
    assert run(folder, 'torchscript', *options)[0] == 0
    with export_files._recording():
        graph = torch.jit.load(folder / 'out.pt').inlined_graph
    assert {node.kind().partition('::')[0] for node in graph.nodes()} == {'aten', 'prim'}
    assert not [node for node in graph.nodes() if node.kind() == 'prim::Constant'
                and 'Device' in str(node.output().type())]


def test_without_truncation_the_latents_are_used_as_they_are():
    G = networks.Generator(4, 0, 5, 8, 3, synthesis_kwargs=dict(channel_base=64)).eval().requires_grad_(False)
    G.mapping.w_avg.normal_()
    seen = []
    G.synthesis.forward = lambda ws, **kwargs: seen.append(ws)
    w = torch.randn(3, G.num_ws, 5)
    function = export_function.image_function(G, 'w')
    function(w, torch.tensor(1.0))
    function(w, torch.tensor(0.0))
    assert torch.equal(seen[0], w)
    torch.testing.assert_close(seen[1], G.mapping.w_avg.expand_as(w))


@pytest.mark.parametrize('act', bias_act.activation_funcs)
def test_plain_operators_give_what_ours_give(act):
    x, b, f = torch.randn(2, 3, 6, 5), torch.randn(3), upfirdn2d.setup_filter([1, 3, 3, 1])
    ours = lambda: bias_act.bias_act(upfirdn2d.upsample2d(upfirdn2d.downsample2d(x, f), f, up=[2, 3]), b,
                                     act=act, clamp=0.5)
    with export_function.PlainOps():
        got = ours()
        assert 'kdgan' not in str(torch.fx.experimental.proxy_tensor.make_fx(lambda x: ours())(x).graph)
    torch.testing.assert_close(got, ours())


def refused(folder, code, output, message):
    assert code == 1 and re.match(rf'Error: .*{message}', output), output
    assert sorted(path.name for path in folder.iterdir()) == ['net.safetensors']        # nothing is left


@pytest.mark.parametrize('part', ['synthesis.b4.const', 'synthesis.b8.conv0.noise_const', 'synthesis.b8.torgb.bias',
                                  'mapping.embed.weight', 'mapping.fc1.bias', 'mapping.w_avg'])
def test_a_file_that_differs_is_not_saved(tmp_path, monkeypatch, part):
    save(tmp_path / 'net.safetensors')

    def tampered(G, *args):
        other = snapshots.load_networks(tmp_path / 'net.safetensors').G_ema
        other.state_dict()[part].view(-1)[0] += 1
        return export_function.image_function(other, *args)

    monkeypatch.setattr(export_files, 'image_function', tampered)
    refused(tmp_path, *run(tmp_path, 'torchscript'), 'does not give the images of the network')


def test_a_snapshot_that_differs_is_not_saved_and_the_old_one_stays(tmp_path, monkeypatch):
    save(tmp_path / 'net.safetensors')
    (tmp_path / 'old').mkdir()
    (tmp_path / 'old' / 'G.safetensors').write_bytes(b'old')
    write = snapshots.save_networks

    def tampered(path, networks, *args):
        networks['G_ema'].synthesis.b4.const.mul_(1.1)
        write(path, networks, *args)
        networks['G_ema'].synthesis.b4.const.div_(1.1)

    monkeypatch.setattr(snapshots, 'save_networks', tampered)
    code, output = run(tmp_path, 'safetensors', dest=tmp_path / 'old' / 'G.safetensors')
    assert code == 1 and 'does not give the images' in output
    assert [path.read_bytes() for path in (tmp_path / 'old').iterdir()] == [b'old']


@pytest.mark.parametrize('wrong, message', [
    (lambda img: img * float('nan'), 'differ by nan'), (lambda img: img[:1], r'gives torch.float32 \[1, 3, 8, 8\]'),
    (lambda img: img.double(), 'gives torch.float64')])
def test_what_the_check_refuses(tmp_path, monkeypatch, wrong, message):
    save(tmp_path / 'net.safetensors')
    read = export_files.read
    monkeypatch.setattr(export_files, 'read', lambda *args: lambda **inputs: wrong(read(*args)(**inputs)))
    refused(tmp_path, *run(tmp_path, 'safetensors'), message)


def test_the_check_covers_single_images_batches_and_truncation():
    assert {1, 2} < {n for n, _ in export_check.CASES} and {1, 0} < {psi for _, psi in export_check.CASES}


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime', 'onnxscript'])
def test_missing_packages(tmp_path, monkeypatch, package):
    save(tmp_path / 'net.safetensors')
    monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path, *run(tmp_path, 'onnx'), f'--format=onnx: the package {package} cannot be imported .*; pip '
                                              'install onnx onnxscript onnxruntime')


@pytest.mark.parametrize('format, options, message', [
    ('onnx', ['--dest=a.pt'], '--dest=a.pt: a file of --format=onnx ends in .onnx'),
    ('safetensors', ['--dest=a'], '--dest=a: a file of --format=safetensors ends in .safetensors'),
    ('safetensors', ['--input=z'], '--input=z: --format=safetensors has no such choice; leave it out'),
    ('safetensors', ['--noise-mode=none'], '--noise-mode=none: --format=safetensors has no such choice'),
    ('torchscript', ['--opset', '18'], '--opset=18: --format=torchscript has no such choice')])
def test_wrong_options(tmp_path, format, options, message):
    save(tmp_path / 'net.safetensors')
    code, output = run_cli(export.main, f'--network={tmp_path / "net.safetensors"}', f'--format={format}',
                           f'--dest={tmp_path / "a"}.{EXTENSIONS[format]}', *options)
    refused(tmp_path, code, output, re.escape(message))


def test_wrong_networks(tmp_path):
    network = tmp_path / 'net.safetensors'
    save(network)
    refused(tmp_path, *run(tmp_path, 'safetensors', dest=network), 'is the network itself; name another file')
    G = snapshots.load_networks(str(network)).networks['G']
    snapshots.save_networks(str(network), dict(G=G),
                            dict(G=checkpoint.load_info(str(network), 'network')['networks']['G']), {})
    refused(tmp_path, *run(tmp_path, 'torchscript'), 'there is no G_ema in it')
    network.write_bytes(b'')
    refused(tmp_path, *run(tmp_path, 'torchscript'), 'damaged or of another format')


@pytest.mark.parametrize('format', ['onnx', 'torchscript'])
def test_a_generator_without_an_average_of_w_takes_no_truncation(tmp_path, format):
    G = save(tmp_path / 'net.safetensors', mapping=dict(w_avg_beta=None), c_dim=0)
    code, output = run(tmp_path, format)
    assert code == 0, output
    z = torch.randn(2, G.z_dim)
    got = run_file(tmp_path / f'out.{EXTENSIONS[format]}', z.numpy())
    torch.testing.assert_close(torch.from_numpy(got), G(z, None, noise_mode='const'), rtol=1e-4, atol=1e-4)


def test_versions_of_the_operators_that_nothing_can_write(tmp_path, monkeypatch):
    save(tmp_path / 'net.safetensors')
    with monkeypatch.context() as patch:
        patch.setattr(export.model_files, 'locate', lambda *args: pytest.fail('something was done first'))
        code, output = run(tmp_path, 'onnx', '--opset=99')
    refused(tmp_path, code, output, r'--opset=99: onnx \S+ knows versions up to \d+; use a lower one')
    monkeypatch.setattr(export_files, 'check_opset', lambda opset: None)            # the exporter's own refusal
    code, output = run(tmp_path, 'onnx', '--opset=99')
    refused(tmp_path, code, output, '--opset=99: ')
    assert len(set(output.splitlines())) == 1


def test_the_address_of_the_network_is_published_without_its_signature(tmp_path, monkeypatch):
    save(tmp_path / 'net.safetensors')
    monkeypatch.setattr(export.model_files, 'locate', lambda *args: str(tmp_path / 'net.safetensors'))
    code, output = run_cli(export.main, '--network=https://me:secret@host/G.pkl?sign=secret', '--format=torchscript',
                           f'--dest={tmp_path / "a.pt"}')
    assert code == 0, output
    extra = {'metadata.json': ''}
    with export_files._recording():
        torch.jit.load(tmp_path / 'a.pt', _extra_files=extra)
    assert json.loads(extra['metadata.json'])['source'] == 'G.pkl' and b'secret' not in (tmp_path / 'a.pt').read_bytes()


def test_limits_of_onnx(tmp_path, monkeypatch):
    save(tmp_path / 'net.safetensors')
    monkeypatch.setattr(export_files, 'ONNX_LIMIT', 1000)
    refused(tmp_path, *run(tmp_path, 'onnx'), 'a file holds less than 2; use --format=torchscript')
    (tmp_path / 'model').write_bytes(b'no model')
    job = export_files.Export('onnx', None, None, 'z', 'const', 99, {})
    with pytest.raises(export_files.UserError, match=r'--opset=99: onnxruntime .* cannot load the file'):
        export_files.read(str(tmp_path / 'model'), job)


@pytest.mark.parametrize('case', ['skip', 'orig'], indirect=True)
def test_the_examples_of_the_documentation_run(case, monkeypatch, capsys):
    """As they are without classes, and with the line for classes."""
    folder, G, _options = case
    for format in ('onnx', 'torchscript'):
        path = exported(folder, format)
        shutil.copy(path, folder / f'generator{path.suffix}')
    monkeypatch.chdir(folder)
    text = (pathlib.Path(export.__file__).parent / 'docs' / 'export.md').read_text()
    for code in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        with export_files._recording():                 # the remarks of torch.jit
            exec(code.replace('512', '4').replace('# With classes: ', '' if G.c_dim > 0 else '# '), {})
        printed = capsys.readouterr().out
        assert re.search(r'8, 3, 8, 8', printed) and 'net.safetensors' in printed
