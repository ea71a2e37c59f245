"""What `pip install .` installs: modules, data files and commands; and the example of docs/library.md."""

import ast
import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from card_runs import KWARGS
from made_runs import make_run

from training.networks import Generator
from training.snapshots import files as snapshots

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ['dnnlib', 'torch_utils', 'training', 'inference', 'metrics', 'kd_plugin', 'reporting', 'reproduction',
            'viewing']


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A folder with the contents of the wheel."""
    pytest.importorskip('setuptools', minversion='77')
    source, wheels, target = [tmp_path_factory.mktemp(name) for name in ('source', 'wheels', 'target')]
    for path in [*ROOT.glob('*.py'), *(ROOT / name for name in ('pyproject.toml', 'README.md', 'LICENSE', 'NOTICE'))]:
        shutil.copy(path, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    build = f'from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})'
    subprocess.run([sys.executable, '-c', build], cwd=source, check=True, capture_output=True)
    wheel, = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_all_modules_and_data_are_in_it(installed):
    ours = [path for name in PACKAGES for path in (ROOT / name).rglob('*') if path.is_file()
            and '__pycache__' not in path.parts]
    wanted = {str(path.relative_to(ROOT)) for path in ours}
    wanted |= {path.name for path in ROOT.glob('*.py')}
    found = {str(path.relative_to(installed)) for path in installed.rglob('*') if path.is_file()}
    assert wanted <= found
    assert all(re.match(r'kd_dlgan-[^/]+\.dist-info/', name) for name in found - wanted)


def commands(installed):
    parser = configparser.ConfigParser()
    parser.read(next(installed.glob('*.dist-info')) / 'entry_points.txt')
    return dict(parser['console_scripts'])


def test_every_program_is_a_command(installed):
    programs = {path.stem for path in ROOT.glob('*.py')}
    found = commands(installed)
    assert {f'kdgan-{name.replace("_", "-")}': f'{name}:main' for name in programs}.items() <= found.items()
    for target in found.values():
        path = ROOT / (target.removesuffix(':main') + '.py')
        if path.exists():
            assert 'main' in {node.name for node in ast.parse(path.read_text()).body
                              if isinstance(node, ast.FunctionDef)}


def test_an_installed_command_runs(installed, tmp_path):
    """From the installed files alone: away from the repository."""
    code = (f'import sys, push_to_hub; assert push_to_hub.__file__.startswith({str(installed)!r}); sys.argv[1:] = '
            '["--help"]; push_to_hub.main()')
    env = {**os.environ, 'PYTHONPATH': str(installed)}
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0 and '--dry-run' in result.stdout, result.stderr


def test_an_installed_report_has_its_templates_and_assets(installed, tmp_path):
    run = make_run(tmp_path / 'run')
    code = (f'import sys, report, reporting; assert reporting.__file__.startswith({str(installed)!r}); sys.argv[1:] = '
            f'[{str(run)!r}]; report.main()')
    env = {**os.environ, 'PYTHONPATH': str(installed)}
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    text = (run / 'report.html').read_text(encoding='utf-8')
    assert '--page: #fcfbf8' in text and 'uPlot' in text and 'What is trained on what' in text


def test_the_example_in_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    G = Generator(**{key: value for key, value in KWARGS.items() if key != 'class_name'})
    snapshots.save_networks('network-snapshot-000300.safetensors', dict(G_ema=G), dict(G_ema=KWARGS), {})
    example = re.search('```python\n(.*?)```', (ROOT / 'docs' / 'library.md').read_text(), re.S)[1]
    assert len(example.strip().splitlines()) <= 12
    names = {}
    exec(example, names)
    assert names['img'].shape == (4, 3, 16, 16) and names['feats'].shape == (4, names['teacher'].dim)
