"""A cell of every table, small: trained, measured, written down, on a page. Programs run in this process."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli
from measuring import ToyClasses
from toy_detectors import alexnet_state, heads_state, save_script, save_teacher

import calc_metrics
import dataset_tool
import reproduce
import train
from dnnlib import UserError
from metrics import script_detectors
from reproduction import cells, commands, making

PROGRAMS = {'train.py': train.main, 'calc_metrics.py': calc_metrics.main}
TRIED = ['table1/obama/ada+kd', 'table2/cifar10-10/apa+kd', 'table3/imagenet64-10/lecam/is', 'table4/obama/da+cgkd',
         'table5/cifar100-10/da+agkd', 'table6/cifar10-10/da+pkt', 'table7/cifar10-10/da+kd-tcl',
         'table8/cifar10-10/vision-aided']


def make_data(folder, name, size, labels):
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / name / (f'{i % 3}' if labels else '') / f'{i:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, size=(size, size, 3)).astype(np.uint8)).save(path)
    code, output = run_cli(dataset_tool.main, f'--source={folder / name}', f'--dest={folder / name}.zip')
    assert code == 0, output


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Twelve pictures of noise under each name; obama of 16 pixels is a check of the path as good as one of 256."""
    folder = tmp_path_factory.mktemp('data')
    for name, size, labels in [('obama', 16, False), ('cifar10-5000', 32, True), ('cifar10-test', 32, True),
                               ('cifar100-5000', 32, True), ('cifar100-test', 32, True), ('imagenet64-10', 64, True),
                               ('imagenet64', 64, True)]:
        make_data(folder, name, size, labels)
    torch.save(alexnet_state(), folder / 'alexnet.pth')
    torch.save(heads_state(), folder / 'heads.pth')
    save_script(folder / 'classes.pt', ToyClasses())
    save_teacher(folder / 'teacher.safetensors')
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """-> list of what was called."""
    called = []

    def call(command):
        called.append(command)
        code, output = run_cli(PROGRAMS[command[0]], *command[1:])
        if code:
            raise UserError(f'{command}: {output}')
    monkeypatch.setattr(making, 'call', call)
    monkeypatch.setattr(cells, 'LEAST_KIMG', dict.fromkeys(cells.LEAST_KIMG, 0.016))
    monkeypatch.setattr(commands.Plan, 'train_command', lambda plan, seed, make=commands.Plan.train_command: [
        *make(plan, seed), '--health=0', '--workers=0'])
    return called


@pytest.mark.parametrize('cell', TRIED)
def test_a_cell_of_each_table(cell, data, tmp_path, in_this_process, monkeypatch):
    monkeypatch.setattr(script_detectors, 'INCEPTION_CLASSES', 4)
    out, inception = tmp_path / 'out', cell.endswith('/is')
    args = ['run', cell, f'--data={data}', f'--outdir={out}', '--scale=1e-9', '--seeds=1', '--evaluations=2',
            '--teacher=demo', f'--judge={data / "teacher.safetensors"}', '--device=cpu', '--train-option=--batch=4',
            f'--alexnet={data / "alexnet.pth"}', f'--lpips-heads={data / "heads.pth"}',
            *([f'--detector={data / "classes.pt"}'] if inception else [])]
    code, output = run_cli(reproduce.main, *args)
    assert code == 0, output
    line, = [json.loads(line) for line in (out / 'records.jsonl').read_text().splitlines()]
    assert line['training'] == '/'.join(cell.split('/')[1:3]) and line['scale'] == 1e-9
    for part in line['measured'].values():
        assert len(part['values']) == 2 and part['kimg'] == pytest.approx(0.016) and np.isfinite(part['values']).all()
        assert part['values'][0] != part['values'][1]
    calls = len(in_this_process)
    # What the measure needs is tried first, if the training does not; a training; its only snapshot, twice
    assert calls == (3 if line['metric'].startswith('feat') else 4)
    code, output = run_cli(reproduce.main, *args)
    assert code == 0 and 'on record' in output and len(in_this_process) == calls
    (out / 'records.jsonl').unlink()
    code, output = run_cli(reproduce.main, *args, '--evaluations=3')          # two are there from before
    assert code == 0 and [command[0] for command in in_this_process[calls:]].count('calc_metrics.py') == calls - 3 + 1
    code, output = run_cli(reproduce.main, 'report', f'--outdir={out}')
    page = pathlib.Path(out / f'{cell.split("/")[0]}.md').read_text()
    assert code == 0 and f'**{cell}**' in page and '*, l ' in page
    assert ('another teacher: demo' in page) == ('lecam' not in cell)
