"""Networks by file, address, published name: found, fetched, checked, loaded; against a server of our own."""

import hashlib
import os
import re

import pytest
import requests
import torch
from conftest import parse_options, run_cli
from measuring import make_data, make_snapshot
from network_server import Handler, serving
from toy_detectors import save_teacher

import calc_metrics
import generate
import legacy
import train
from dnnlib import UserError, files
from training import model_files, networks
from training.model_files import load_generator
from training.run.find import find_run
from training.snapshots import files as snapshots


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'downloads'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data') / 'photos.zip')


@pytest.fixture(scope='module')
def snapshot(tmp_path_factory, data):
    return make_snapshot(tmp_path_factory.mktemp('net') / 'net.safetensors', data)


@pytest.fixture
def server(snapshot):
    with serving(Handler) as server, open(snapshot, 'rb') as f:
        server.content, server.asked = f.read(), []
        server.sha256 = hashlib.sha256(server.content).hexdigest()
        yield server


def image(G):
    return G(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), None, noise_mode='const')


def test_an_address_is_fetched_once_and_stays_what_it_was(server, snapshot, cache):
    G = load_generator(server.address + '/good/net.safetensors', device='cpu')
    assert not G.training and not any(p.requires_grad for p in G.parameters())
    assert torch.equal(image(G), image(snapshots.load_networks(snapshot).G_ema))
    path = model_files.locate(server.address + '/good/net.safetensors')
    assert server.asked == ['/good/net.safetensors'] and os.path.dirname(path) == str(cache)
    with open(path, 'ab') as f:
        f.write(b'!')
    with pytest.raises(UserError, match=f'SHA-256 is .*expected {server.sha256}: .*delete it and try again'):
        load_generator(server.address + '/good/net.safetensors')


def test_a_redirect_is_followed(server, snapshot):
    path = model_files.locate(server.address + '/moved/net.safetensors')
    assert (server.asked == ['/moved/net.safetensors', '/good/net.safetensors']
            and files.sha256_of_file(path) == server.sha256)


def test_a_digest_in_the_address(server, cache):
    url = server.address + '/good/net.safetensors'
    path = model_files.locate(f'{url}#sha256={server.sha256.upper()}')
    assert path == model_files.locate(url) == model_files.locate(url, sha256=server.sha256) and len(server.asked) == 1
    with pytest.raises(UserError, match=f'{re.escape(path)}: SHA-256 is {server.sha256}, expected 00'):
        model_files.locate(f'{url}#sha256={"0" * 64}')
    with pytest.raises(UserError, match="#sha256=12: '12' is no SHA-256; it has 64 hexadecimal digits"):
        model_files.locate(f'{url}#sha256=12')


@pytest.mark.parametrize('path, message', [
    ('/good/x.safetensors#sha256=' + '0' * 64, '--network: http://.*: SHA-256 is [0-9a-f]{64}, expected 0{64}: it is '
                                               'another file, or was damaged'),
    ('/cut/x.safetensors', r'/cut/x.safetensors cannot be fetched \(ChunkedEncodingError\); download it elsewhere .* '
                           r'--network=FILE, or put it at'),
    ('/none/x.safetensors', r'/none/x.safetensors cannot be fetched \(404 Not Found\)')])
def test_a_bad_download_is_one_line_and_leaves_nothing_behind(path, message, server, cache, tmp_path):
    for _ in range(2):
        code, output = run_cli(generate.main, f'--network={server.address}{path}', f'--outdir={tmp_path / "out"}',
                               '--device=cpu')
        assert code == 1 and re.search('^Error: .*' + message, output) and len(set(output.splitlines())) == 1, output
    assert len(server.asked) == 2 and os.listdir(cache) == [] and not (tmp_path / 'out').exists()


def test_offline(snapshot, tmp_path):
    with serving(Handler) as gone:
        pass
    with pytest.raises(UserError, match=r'cannot be fetched \(ConnectionError\)'):
        load_generator(gone.address + '/good/net.safetensors')


def test_published_names(server, snapshot, monkeypatch):
    assert set(model_files.PUBLISHED) == {'ffhq256', 'ffhq512', 'ffhq1024', 'celebahq256', 'lsundog256'}
    assert all(url.startswith('https://') and url.endswith('.pkl') for url in model_files.PUBLISHED.values())
    monkeypatch.setitem(model_files.PUBLISHED, 'ffhq256', server.address + '/good/ffhq.pkl')
    assert files.sha256_of_file(model_files.locate('ffhq256')) == server.sha256 and server.asked == ['/good/ffhq.pkl']
    assert not model_files.is_local('ffhq256') and model_files.is_local('./ffhq256')


@pytest.mark.parametrize('name, message', [
    ('ffhq257', '--network=ffhq257: there is no such file; name .*https:// address, hf:user/repo, or one of demo, '
                'ffhq256, ffhq512'),
    ('http://[x/net.pkl', r'http://\[x/net.pkl: is no address'),
    ('hf:cats', '--network=hf:cats: must be hf:user/repo, hf:user/repo/FILE or hf:user/repo@REVISION')])
def test_names_that_name_nothing(name, message):
    with pytest.raises(UserError, match=message):
        model_files.locate(name)


def test_a_file_without_an_averaged_generator(tmp_path):
    kwargs = dict(class_name='training.networks.Generator', z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1)
    G = networks.Generator(**{key: value for key, value in kwargs.items() if key != 'class_name'})
    snapshots.save_networks(str(tmp_path / 'x.safetensors'), dict(G=G), dict(G=kwargs), {})
    code, output = run_cli(generate.main, f'--network={tmp_path / "x.safetensors"}', f'--outdir={tmp_path / "out"}',
                           '--device=cpu')
    assert code == 1 and 'x.safetensors: there is no G_ema in it' in output


def test_metrics_of_an_address(server, data, tmp_path, monkeypatch):
    """The signature of an address stays out of the record, which is published."""
    monkeypatch.chdir(tmp_path)
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    url = server.address + '/good/net.safetensors'
    code, output = run_cli(calc_metrics.main, f'--network={url}?sign=secret', '--metrics=clipfid4_full',
                           f'--teacher={teacher}', f'--ref={data["path"]}', '--device=cpu', '--workers=0')
    assert code == 0, output
    assert f'"snapshot": "{url}"' in (tmp_path / 'metric-clipfid4_full.jsonl').read_text()


# Transfer learning.

def init_from(network, data, tmp_path, *args):
    return [f'--outdir={tmp_path / "runs"}', f'--data={data["path"]}', '--cfg=demo', '--metrics=none', '--device=cpu',
            '--workers=0', f'--init-from={network}', *args]


def test_the_same_command_finds_its_run_by_the_address_given(server, data, tmp_path, monkeypatch):
    url = f'{server.address}/good/net.safetensors#sha256={server.sha256}'
    args = init_from(url, data, tmp_path, '--kimg=0.016', '--tick=0.016')
    code, output = run_cli(train.main, *args)
    assert code == 0 and re.search(f'G_ema: .* tensors from {re.escape(url)}', output), output
    config, name = train.build_config(parse_options(*args))
    assert config.init_from == url and server.asked == ['/good/net.safetensors']
    assert find_run(str(tmp_path / 'runs'), config, name, False) == (str(tmp_path / 'runs' / f'00000-{name}'),
                                                                     'complete')
    card = (tmp_path / 'runs' / f'00000-{name}' / 'model_card.md').read_text()
    assert f'| started from | {url.partition("#")[0]} |' in card


@pytest.mark.parametrize('network, message', [
    ('/none/x.safetensors', r'Error: --init-from: http.*404 Not Found.*--init-from=FILE'),
    ('text', 'Error: --init-from=[^ ]*/text: the file is damaged or of another format'),
    ('text.zip', 'Error: --init-from=[^ ]*/text.zip: the file is damaged or of another format')])
def test_what_cannot_be_started_from_is_refused_before_the_start(network, message, server, data, tmp_path):
    """A file of this machine by --dry-run, too."""
    local = not network.startswith('/')
    if local:
        (tmp_path / network).write_text('no network')
    network = str(tmp_path / network) if local else server.address + network
    for args in [[], ['-n']] if local else [[]]:
        code, output = run_cli(train.main, *init_from(network, data, tmp_path, *args))
        assert code == 1 and re.search(message, output) and 'Training options' not in output, output
    assert not (tmp_path / 'runs').exists()


def test_a_data_set_is_not_a_network(data, tmp_path):
    photos = data['path']
    problem = f'{photos}: is a zip, such as a data set; name a network-snapshot-....safetensors'
    for command, args, message in (
            (generate.main, [f'--network={photos}', f'--outdir={tmp_path / "out"}'], f'Error: {problem}'),
            (legacy.main, [f'--source={photos}', '--dest=x.pkl'], f'Error: {problem}'),
            (train.main, init_from(photos, data, tmp_path), f'Error: --init-from={problem}'),
            (train.main, init_from(photos, data, tmp_path, '-n'), f'Error: --init-from={problem}')):
        code, output = run_cli(command, *args)
        assert code == 1 and output.splitlines()[-1] == message, output
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'runs').exists()


def test_without_a_network(data, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise requests.ConnectionError
    monkeypatch.setattr(requests, 'get', offline)
    code, output = run_cli(train.main, *init_from('lsundog256', data, tmp_path))
    assert code == 1
    assert re.search(r'Error: --init-from=lsundog256: https://.*\.pkl cannot be fetched .*--init-from=FILE, or put it '
                     r'at', output), output


def test_freezed_needs_a_discriminator_to_keep(snapshot, data, tmp_path):
    for args in ([], ['-n']):
        code, output = run_cli(train.main, *init_from(snapshot, data, tmp_path, '--freezed=2', *args))
        assert (code == 1
                and f'Error: --freezed=2: there is no D in --init-from={snapshot}; use a snapshot written with '
                    '--snapshot-networks=all' in output)
    assert not (tmp_path / 'runs').exists()


def test_a_folder_is_not_a_network(snapshot, tmp_path):
    for name in ('network-snapshot-000040.safetensors', 'network-snapshot-000060.safetensors',
                 'training-state.safetensors'):
        (tmp_path / name).touch()
    code, output = run_cli(legacy.main, f'--source={tmp_path}', '--dest=x.safetensors')
    assert (code == 1
            and f'Error: --source={tmp_path}: is a folder; name a snapshot in it, such as '
                'network-snapshot-000060.safetensors' in output)
    (tmp_path / 'empty').mkdir()
    code, output = run_cli(generate.main, f'--network={tmp_path / "empty"}', f'--outdir={tmp_path / "out"}')
    assert code == 1 and output.splitlines()[0] == (
        f'Error: --network={tmp_path / "empty"}: is a folder, and there is no snapshot in it (yet); name a '
        'network-snapshot-....safetensors of a run')
