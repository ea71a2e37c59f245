"""hf:user/repo and push_to_hub.py, with the real huggingface_hub against a Hub of our own."""

import base64
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import torch
from card_runs import make_run, measured
from conftest import run_cli
from measuring import make_data
from network_server import serving

import push_to_hub
from dnnlib import UserError
from torch_utils import checkpoint
from training.snapshots import hub
from viewing import space

ROOT = pathlib.Path(__file__).parent.parent
huggingface_hub = pytest.importorskip('huggingface_hub')


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as an upload and a download need: `server.repos` {repository: {file: bytes}}, `server.log`
    what was asked."""

    def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for name, value in dict(headers, Content_Length=len(body)).items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def do_POST(self):
        length = self.headers['Content-Length']
        body = self.rfile.read(int(length)) if length else self.read_chunks()
        self.server.log.append((self.path, self.headers['Authorization'], body))
        if self.headers['Authorization'] == 'Bearer hf_readonly':
            return self.answer(403, b'{"error": "no rights"}')
        if self.path.endswith('/preupload/main'):
            reply = dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False)
                                for f in json.loads(body)['files']])
        elif '/commit/main' in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            added = {line['value']['path']: base64.b64decode(line['value']['content']) for line in lines
                     if line['key'] == 'file'}
            repo = self.path.removeprefix('/api/models/').removeprefix('/api/').partition('/commit/')[0]
            self.server.repos.setdefault(repo, {}).update(added)
            reply = dict(commitUrl=self.server.address + '/me/faces/commit/1', commitOid='a' * 40, success=True)
        elif self.path == '/api/repos/create':
            reply = dict(url=self.server.address + '/me/faces')
        else:
            reply = dict(errors=[], warnings=[])
        self.answer(200, json.dumps(reply).encode(), Content_Type='application/json')

    def read_chunks(self):
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def do_GET(self):
        match = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', self.path)
        if match is None:
            return self.answer(404)
        repo, revision, file = match.groups()
        if repo == 'me/gated':
            return self.answer(403, X_Error_Code='GatedRepo')
        if repo not in self.server.repos:
            return self.answer(404, X_Error_Code='RepoNotFound')
        if revision != 'main':
            return self.answer(404, X_Error_Code='RevisionNotFound')
        if file not in self.server.repos[repo]:
            return self.answer(404, X_Error_Code='EntryNotFound', X_Repo_Commit='a' * 40)
        self.answer(200, self.server.repos[repo][file], X_Repo_Commit='a' * 40, ETag=f'"{len(file):040}"')

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with serving(FakeHub) as server:
        server.repos, server.log = {}, []
        yield server


def python(code, tmp_path, server, **env):
    """Runs code where huggingface_hub knows the server only; it reads its settings when it is imported. -> lines
    printed."""
    settings = dict(HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / 'hf'), HF_HUB_DISABLE_XET='1',
                    HF_HUB_DISABLE_PROGRESS_BARS='1', HF_HUB_DISABLE_TELEMETRY='1', PYTHONPATH=str(ROOT),
                    OMP_NUM_THREADS='1', HF_TOKEN='hf_secret')
    result = subprocess.run([sys.executable, '-c', code], env={**os.environ, **settings, **env}, capture_output=True,
                            text=True, timeout=1000)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    make_run(folder / '00000-photos', make_data(folder / 'photos.zip'))
    measured(folder / '00000-photos', 25.25, 24)
    return folder / '00000-photos'


def test_there_and_back(run, tmp_path, server):
    code = (f'import push_to_hub; push_to_hub.main(["--run={run}", "--repo=me/faces", "--private"], '
            'standalone_mode=False)\nfrom training import model_files; '
            'print(model_files.locate("hf:me/faces"))\nprint(model_files.load_generator("hf:me/faces", '
            '"cpu").img_resolution)')
    *printed, path, resolution = python(code, tmp_path, server)
    assert printed[-1] == f'Uploaded: {server.address}/me/faces/commit/1' and resolution == '16'
    tensors, info = checkpoint.load(path, 'network')
    own_tensors, own = checkpoint.load(str(run / 'network-snapshot-000024.safetensors'), 'network')
    assert set(tensors) == set(own_tensors) and all(torch.equal(tensors[name], own_tensors[name]) for name in tensors)
    assert info['training']['options']['training_set_kwargs']['path'] == 'photos.zip'
    assert str(run.parent) not in json.dumps(info)
    assert info['networks'] == own['networks'] and info['training']['cur_nimg'] == 24000
    uploaded = server.repos['me/faces']
    assert set(uploaded) == {'README.md', 'model.safetensors', 'fakes000024.png', 'metric-fid7_full.jsonl'}
    card = uploaded['README.md'].decode()
    assert "load_generator('hf:me/faces'" in card and '# faces' in card and '| fid7_full | 1 | 25.25 |' in card
    create = next(body for path, _, body in server.log if path == '/api/repos/create')
    created = json.loads(create)
    assert created['name'] == 'faces' and (created.get('private') is True or created.get('visibility') == 'private')
    assert {token for _, token, _ in server.log if token} == {'Bearer hf_secret'}


ERRORS = {
    'hf:me/gated': '--network=hf:me/gated: its owner grants access on request',
    'hf:me/none': '--network=hf:me/none: there is no such repository, or it is private',
    'hf:me/faces@v9': '--network=hf:me/faces@v9: the repository has no such revision; name a branch, a tag or a commit',
    'hf:me/faces/x.pkl': '--network=hf:me/faces/x.pkl: the repository has no x.pkl; name one of its files: '
                         'hf:user/repo/FILE',
    'hf:me/x.git': '--network=hf:me/x.git: is no name of a repository; it must be hf:user/repo',
}
LOAD_ALL = f'''
from dnnlib import UserError
from training.snapshots import hub
for name in {[*ERRORS, 'hf:me/faces']}:
    try:
        print(open(hub.download(name)).read())
    except UserError as err:
        print(err)
'''


def test_what_cannot_be_loaded(tmp_path, server):
    server.repos['me/faces'] = {'model.safetensors': b'weights'}
    *messages, content = python(LOAD_ALL, tmp_path, server)
    assert len(messages) == len(ERRORS)
    for message, expected in zip(messages, ERRORS.values(), strict=True):
        assert message.startswith(expected)
    assert content == 'weights'


def test_offline(tmp_path, server):
    server.repos['me/faces'] = {'model.safetensors': b'weights'}
    python(LOAD_ALL, tmp_path, server)
    messages = python(LOAD_ALL, tmp_path, server, HF_HUB_OFFLINE='1')
    assert messages[-1] == 'weights'                    # in the cache
    assert messages[1] == ('--network=hf:me/none: the Hub cannot be reached and the file is not in the cache; '
                           'download it elsewhere and name the file')


def test_a_space(run, tmp_path, server):
    """Its app runs from the files of the Space alone, with the network that was published."""
    pytest.importorskip('gradio', reason='pip install gradio')
    *_, first, second = python(f'import push_to_hub; push_to_hub.main(["--run={run}", "--repo=me/faces", "--space"], '
                               'standalone_mode=False)', tmp_path, server)
    assert [first, second] == [f'Uploaded: {server.address}/me/faces/commit/1'] * 2
    created = [json.loads(body) for path, _, body in server.log if path == '/api/repos/create']
    assert created[1]['type'] == 'space' and created[1]['sdk'] == 'gradio'
    assert set(server.repos) == {'me/faces', 'spaces/me/faces'}
    files = server.repos['spaces/me/faces']
    for name, content in files.items():
        (tmp_path / 'space' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'space' / name).write_bytes(content)
    card = files['README.md'].decode()
    assert card.startswith('---\ntitle: faces\nsdk: gradio\n') and '\nmodels:\n- me/faces\n---\n' in card
    assert 'app_file: app.py' in card and '(https://huggingface.co/me/faces)' in card
    assert files['LICENSE'] == (ROOT / 'LICENSE').read_bytes()
    assert not any(name.endswith('.safetensors') for name in files)
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    env = dict(HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / 'hf2'), HF_HUB_DISABLE_XET='1', HF_TOKEN='hf_secret',
               OMP_NUM_THREADS='1', GRADIO_SERVER_PORT=str(port), PYTHONPATH='')
    lacks = [path.parent.name for path in ROOT.glob('*/__init__.py') if path.parent.name not in space.PACKAGES]
    assert 'metrics' in lacks and 'kd_plugin' in lacks
    app = f'import runpy, sys; sys.path[0] = "."; sys.modules.update(dict.fromkeys({lacks})); runpy.run_path("app.py")'
    with subprocess.Popen([sys.executable, '-c', app], cwd=tmp_path / 'space', stdout=subprocess.PIPE, text=True,
                          env={**os.environ, **env}) as process:
        try:
            assert f'Showing hf:me/faces at http://0.0.0.0:{port}/' in process.stdout.readline()
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/') as answer:
                assert 'hf:me/faces' in answer.read().decode()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


def test_what_a_space_needs():
    """What pyproject.toml asks for, and the version of gradio that the checks run with."""
    tomllib = pytest.importorskip('tomllib')
    whole = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    project, data = whole['project'], whole['tool']['setuptools']['package-data']
    wanted = {line.partition(';')[0].strip() for line in project['dependencies']}
    assert wanted | {'imageio-ffmpeg'} | set(project['optional-dependencies']['hub']) == set(space.REQUIREMENTS)
    assert f'gradio=={space.GRADIO}\n' in (ROOT / 'constraints.txt').read_text()
    assert {path.split('/')[0] for path in space.code()} == set(space.PACKAGES)
    no_weights = {package: tuple(pattern for pattern in data.get(package, []) if not pattern.endswith('.safetensors'))
                  for package in space.PACKAGES}
    assert {package: patterns for package, patterns in no_weights.items() if patterns} == space.DATA


def test_what_lies_among_the_code_is_not_published(tmp_path, monkeypatch):
    wanted = ['training/run/state.py', 'torch_utils/ops/bias_act.cu', 'inference/web/page.js']
    stray = ['training/notes.txt', 'training/x.pth', 'training/demo_network.safetensors', 'viewing/.env',
             'torch_utils/ops/__pycache__/x.pyc', 'inference/web/old/page.js', 'metrics/x.py']
    for name in wanted + stray:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('x')
    monkeypatch.setattr(space, 'ROOT', tmp_path)
    assert space.code() == {name: str(tmp_path / name) for name in wanted}


def test_a_token_without_rights(run, tmp_path, server):
    code = f'''
import push_to_hub
from dnnlib import UserError
try:
    push_to_hub.push("{run}", None, "me/faces", False, False, False)
except UserError as err:
    print(err)
'''
    assert re.match(r'--repo=me/faces: the Hub does not allow it \(.*\); log in with a token that may: hf auth login',
                    python(code, tmp_path, server, HF_TOKEN='hf_readonly')[-1])
    assert server.repos == {}


@pytest.mark.parametrize('name, parts', [
    ('hf:a/b', ('a/b', 'model.safetensors', None)), ('hf:a/b@v1', ('a/b', 'model.safetensors', 'v1')),
    ('hf:a/b/c/d.pkl', ('a/b', 'c/d.pkl', None)), ('hf:a-1/b.c/d.pkl@refs/pr/1', ('a-1/b.c', 'd.pkl', 'refs/pr/1'))])
def test_names(name, parts):
    assert hub.parse(name) == parts


@pytest.mark.parametrize('name', [
    'hf:', 'hf:a', 'hf:a/', 'hf:/b', 'hf:a/b/', 'hf:a/b@', 'hf:a b/c', 'hf:a/b@c d', 'hf:a/b/../../c', 'hf:../..',
    'hf:a/..', 'hf:a/b@../x', 'hf:a/b@x/', 'hf:a/b@/x', 'hf:a/b/x/', 'hf:a/b//x', 'hf:a/b/./x', 'hf:a/b/x\\..\\y',
    'hf:a/b/x\ny', 'hf:a/b@1@2', 'hf:.a/b', 'hf:a/b-', 'hf:a/b--c', 'hf:a/b..c', 'hf:a/' + 'b' * 95, 'hf:a/bé'])
def test_names_of_another_form(name):
    with pytest.raises(UserError, match='must be hf:user/repo, hf:user/repo/FILE or hf:user/repo@REVISION'):
        hub.parse(name)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match='--init-from=hf:a/b: the package huggingface_hub cannot be imported .*pip '
                                        'install huggingface_hub'):
        hub.download('hf:a/b', '--init-from')


def test_dry_run(run, monkeypatch):
    monkeypatch.setattr(hub, 'upload', lambda *args: pytest.fail('uploaded'))
    snapshot = run / 'network-snapshot-000024.safetensors'
    for source in (f'--run={run}', f'--network={snapshot}'):
        code, output = run_cli(push_to_hub.main, source, '--repo=me/faces', '--dry-run')
        assert code == 0 and 'Dry run; nothing was uploaded.' in output and '# faces' in output
        assert f'from {snapshot}:\n' in output and re.search(r'^  model\.safetensors +\d+\.\d kB$', output, re.M)
        assert all(re.search(f'^  {name} ', output, re.M)
                   for name in ('README.md', 'fakes000024.png', 'metric-fid7_full.jsonl'))


def test_a_better_snapshot_is_named(tmp_path):
    """By the first metric and the same protocol, if it is still there."""
    run = tmp_path / '00000-photos'
    make_run(run, make_data(tmp_path / 'photos.zip'))
    note = lambda: run_cli(push_to_hub.main, f'--run={run}', '--repo=me/faces', '--dry-run')[1].split('\n')[0]
    measured(run, 25.25, 24)
    older = run / 'network-snapshot-000012.safetensors'
    older.write_bytes((run / 'network-snapshot-000024.safetensors').read_bytes())
    measured(run, 30.5, 12)
    measured(run, 3.5, 12, seed=1)
    measured(run, 3.5, 6)
    assert note().startswith('Files for')
    measured(run, 20.5, 12)
    assert note() == (f'Note: this is the last snapshot, and {older.name} has the better fid7_full: 20.5000 against '
                      f'25.2500; to publish that one, use --network={older}')


@pytest.mark.parametrize('args, message', [
    ([], 'Error: give one of --run=DIR and --network=FILE'),
    (['--run=nowhere'], 'Error: --run=nowhere: there is no such folder'),
    (['--run=.'], 'Error: .: there is no network-snapshot-....safetensors in it'),
    (['--network=nothing.safetensors'], 'Error: nothing.safetensors: there is no such file'),
    (['--network=x.pkl'], 'Error: --network=x.pkl: only .safetensors files are published; convert it with legacy.py'),
    (['--run=.', '--repo=faces'], 'Error: --repo=faces: must be USER/NAME'),
    (['--run=.', '--repo=../..'], 'Error: --repo=../..: must be USER/NAME'),
    (['--run=.', '--repo=me/faces/x'], 'Error: --repo=me/faces/x: must be USER/NAME')])
def test_refusals(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = run_cli(push_to_hub.main, '--repo=me/faces', *args)
    assert code == 1 and output.startswith(message), output


def test_nobody_logged_in(run, monkeypatch):
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: None)
    code, output = run_cli(push_to_hub.main, f'--run={run}', '--repo=me/faces')
    assert code == 1 and 'Error: --repo=me/faces: nobody is logged in; run "hf auth login", or put a token' in output
