"""What is passed on does not tell where it was made: it is searched for the folder, the user and the machine."""

import getpass
import io
import json
import os
import pathlib
import platform
import shutil
import socket
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import parse_options, run_cli, shrink

import calc_metrics
import export
import generate
import legacy
import projector
import push_to_hub
import style_mixing
import train
from dnnlib.published import without_folders
from kd_plugin import pretrain, probe
from torch_utils import checkpoint
from training import model_files
from training.launch import launch
from training.networks import Generator
from training.snapshots import files as snapshots

TELLING = 'ward7-anna-kowalska'
OF_THE_RUN = ('training_options.json', 'log.txt', 'training-state')        # these stay in its folder


def telling(content):
    """Whether bytes of a file, or of a part of the archive that they are, name the folder, the user or the machine."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = any(TELLING in name or telling(archive.read(name)) for name in archive.namelist())
            return members or TELLING in archive.comment.decode()
    return any(TELLING.encode(encoding) in content for encoding in ('utf-8', 'utf-16-le', 'utf-32-le'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A home folder with photos, and a user and a machine of the same name."""
    home = tmp_path_factory.mktemp('made') / TELLING
    with pytest.MonkeyPatch.context() as patch:
        for name in ('USER', 'LOGNAME', 'USERNAME', 'HOSTNAME'):
            patch.setenv(name, TELLING)
        patch.setattr(socket, 'gethostname', lambda: TELLING)
        patch.setattr(platform, 'node', lambda: TELLING)
        assert getpass.getuser() == TELLING
        rng = np.random.default_rng(0)
        for name, colour in [('red', (200, 40, 40)), ('blue', (40, 40, 200))]:
            for i in range(8):
                path = home / 'photos' / name / f'{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.array(colour) + rng.integers(-30, 30, size=(16, 16, 3))
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
        (home / 'texts.txt').write_text('a red thing\na blue thing\na thing\n')
        teacher = home / 'teacher'
        small = ['--steps=10', '--size=16', '--width=8', '--dim=16', '--text-width=16', '--batch=8', '--device=cpu']
        photos = home / 'photos'
        code, text = run_cli(pretrain.main, f'--data={photos}', f'--out={teacher}', f'--test-data={photos}', *small)
        assert code == 0, text
        start = home / 'start.safetensors'
        model_files.save_generator(str(start), Generator(8, 2, 8, 16, 3, synthesis_kwargs=dict(channel_base=64)))
        common = [f'--outdir={home}', f'--data={photos}', '--cfg=demo', '--device=cpu', '--workers=0', '--batch=8',
                  '--tick=0.008', '--snap=1', '--metrics=clipfid8_full', f'--metric-teacher={teacher}', '--kd=cgkd',
                  f'--kd-teacher={teacher}', '--health=0', f'--kd-texts={home / "texts.txt"}', '--cond=1']
        first = home / 'runs' / '00000-photos'
        for run, *args in [(first, '--kimg=0.008', f'--init-from={start}'),
                           (home / 'runs' / '00001-photos', '--kimg=0.016', f'--fork-from={first}')]:
            launch(shrink(train.build_config(parse_options(*common, *args))[0]), str(run))
        yield home


@pytest.fixture(params=['00000', '00001'])
def run(request, folder):
    return folder / 'runs' / f'{request.param}-photos'


def found_in(path):
    """The files below a folder, or those of a run that are passed on, that tell."""
    files = [file for file in pathlib.Path(path).rglob('*') if file.is_file() and not file.name.startswith(OF_THE_RUN)]
    assert files
    return [str(file.relative_to(path)) for file in files if telling(file.read_bytes())]


def test_the_search_finds_what_tells(folder, tmp_path):
    """Plain, as JSON in a header, and inside an archive; the states and logs of a run do tell."""
    (tmp_path / 'log').write_text(str(folder))
    checkpoint.save(str(tmp_path / 'a.safetensors'), 'network', dict(x=torch.zeros(1)), dict(path=str(folder)))
    np.savez(tmp_path / 'b.npz', path=np.array(str(folder)))
    assert sorted(found_in(tmp_path)) == ['a.safetensors', 'b.npz', 'log']
    assert telling((folder / 'runs' / '00000-photos' / 'training_options.json').read_bytes())


def test_a_run_and_a_teacher(folder, run):
    assert found_in(run) == [] and found_in(folder / 'teacher') == []
    assert 'photos' in (run / 'report.html').read_text()
    info = snapshots.load_info(str(next(run.glob('network-snapshot-*'))))
    options = info['training']['options']
    kd = options['terms']['kd']
    assert options['training_set_kwargs']['path'] == 'photos' and info['training']['dataset']['name'] == 'photos'
    assert kd['teacher'] == 'teacher' and kd['texts'] == ['a red thing', 'a blue thing', 'a thing']


def old_snapshot(folder, path):
    """As they were written before they held no folders."""
    newest = next((folder / 'runs' / '00001-photos').glob('network-snapshot-*'))
    tensors, info = checkpoint.load(str(newest), 'network')
    info['training']['options'] = json.loads((folder / 'runs' / '00001-photos' / 'training_options.json').read_text())
    checkpoint.save(str(path), 'network', tensors, info)
    assert telling(path.read_bytes())
    return path


@pytest.mark.parametrize('old', [False, True])
def test_files_for_other_programs(old, folder, tmp_path):
    source = next((folder / 'runs' / '00001-photos').glob('network-snapshot-*'))
    if old:
        (folder / 'old').mkdir(exist_ok=True)
        source = old_snapshot(folder, folder / 'old' / 'network-snapshot-000000.008.safetensors')
    out = tmp_path / 'out'
    out.mkdir()
    dest = out / 'net.safetensors'
    code, text = run_cli(export.main, f'--network={source}', '--format=safetensors', f'--dest={dest}')
    assert code == 0, text                              # the other formats: test_export.py
    legacy.convert(str(source), str(out / 'net.pkl'))
    legacy.convert(str(out / 'net.pkl'), str(out / 'again.safetensors'))
    snapshot = snapshots.load_networks(str(source))
    model_files.save_generator(str(out / 'edited.safetensors'), snapshot.G_ema, like=snapshot)
    if old:
        shutil.copy(source, out / 'measured.safetensors')
        snapshots.add_metrics(str(out / 'measured.safetensors'), [])
    assert found_in(out) == []


@pytest.mark.parametrize('old', [False, True])
def test_what_goes_to_the_hub(old, folder, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(folder / 'runs' / '00001-photos', run)
    snapshot = next(run.glob('network-snapshot-*'))
    if old:
        old_snapshot(folder, snapshot)
    metric = run / 'metric-clipfid8_full.jsonl'
    record = json.loads(metric.read_text())
    lines = [dict(record, detector=dict(record['detector'], identity=f'hf:{folder}/model@1234')),
             dict(record, snapshot=f'../{TELLING}/net.safetensors')]
    metric.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    found = push_to_hub.collect(str(snapshot), 'user/photos', str(tmp_path))
    assert set(found) == {'README.md', 'model.safetensors', 'fakes000000.016.png', metric.name}
    for name, content in found.items():
        assert not telling(content if isinstance(content, bytes) else pathlib.Path(content).read_bytes()), name
    sent = [json.loads(line) for line in found[metric.name].splitlines()]
    assert sent == [dict(record, detector=dict(record['detector'], identity='hf:model@1234'))]


def test_what_the_programs_make_of_a_network(folder, tmp_path):
    net = next((folder / 'runs' / '00000-photos').glob('network-snapshot-*'))
    target, teacher = folder / 'photos' / 'red' / '0.png', folder / 'teacher'
    common = [f'--network={net}', f'--outdir={tmp_path}', '--device=cpu']
    calls = [(projector.main, f'--target={target}', '--perceptual=demo', '--num-steps=2', '--class=0'),
             (generate.main, '--seeds=0', '--grid=1x1'),
             (style_mixing.main, '--rows=0', '--cols=1', '--styles=0', '--class=0'),
             (calc_metrics.main, '--metrics=clipfid8_full', f'--teacher={teacher}', '--workers=0', '--bootstrap=0'),
             (probe.main, f'--data={folder / "photos"}', f'--teacher={teacher}', f'--texts={folder / "texts.txt"}')]
    for command, *args in calls:
        code, text = run_cli(command, *common, *args)
        assert code == 0, text
    code, text = run_cli(generate.main, 'neighbors', *common, '--space=pixels', '--seeds=0')
    assert code == 0, text
    names = {'projection.json', 'projected_w.npz', 'grid.png', 'neighbors.json', 'probe.json'}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert [name for name in found_in(tmp_path) if not name.startswith('metric-')] == []


@pytest.mark.parametrize('value, published', [
    (dict(path='data/anna/photos.zip'), dict(path='photos.zip')),
    (dict(path='/home/anna/photos/'), dict(path='photos')),
    (dict(path='C:\\Users\\anna\\photos'), dict(path='photos')),
    (dict(path='\\\\server\\anna\\photos.zip'), dict(path='photos.zip')),
    (dict(init_from='runs/anna/network-snapshot-000060.safetensors'),
     dict(init_from='network-snapshot-000060.safetensors')),
    (dict(init_from='https://anna:secret@host/x.pkl?token=1#sha256=2'), dict(init_from='https://host/x.pkl')),
    (dict(init_from='hf:user/repo/model.safetensors@main'), dict(init_from='hf:user/repo/model.safetensors@main')),
    (dict(init_from='ffhq256'), dict(init_from='ffhq256')),
    (dict(teacher='ViT-B/32'), dict(teacher='ViT-B/32')),
    (dict(teacher='hf:openai/clip-vit-base-patch32'), dict(teacher='hf:openai/clip-vit-base-patch32')),
    (dict(teacher='hf:/home/anna/clip'), dict(teacher='hf:clip')),
    (dict(teacher='models/anna/ViT-B-32.pt'), dict(teacher='ViT-B-32.pt')),
    (dict(teacher='~/clip'), dict(teacher='clip')),
    (dict(files=['../anna/a', './b']), dict(files=['a', 'b'])),
    (dict(class_names=['/b/', 'A: good', 'cat/dog.png'], texts=['a cat / a dog', '../x']), None),
    (dict(record=dict(source='the 100-shot photos of the DiffAugment paper', number=1.5, flag=None, ok=True)), None),
])
def test_what_is_cut(value, published):
    assert without_folders(value) == (value if published is None else published)


def test_what_is_there_is_a_path(tmp_path, monkeypatch):
    (tmp_path / 'ViT-B').mkdir()
    (tmp_path / 'ViT-B' / '32').touch()
    assert without_folders(dict(teacher='ViT-B/32')) == dict(teacher='ViT-B/32')
    monkeypatch.chdir(tmp_path)
    assert without_folders(dict(teacher='ViT-B/32')) == dict(teacher='32')
    assert os.getcwd() == str(tmp_path)
