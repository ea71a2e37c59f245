"""Imports point one way: dnnlib <- torch_utils <- training <- kd_plugin <- command lines, with metrics beside training and
reporting beside kd_plugin."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MAY_IMPORT = {
    'dnnlib': {'dnnlib'},
    'torch_utils': {'dnnlib', 'torch_utils'},
    'training': {'dnnlib', 'torch_utils', 'training'},
    'metrics': {'dnnlib', 'torch_utils', 'metrics'},
    'reporting': {'dnnlib', 'training', 'reporting'},
    'kd_plugin': {'dnnlib', 'torch_utils', 'training', 'kd_plugin'},
}
TOP_LEVEL = {'train', 'generate', 'calc_metrics', 'dataset_tool', 'legacy', 'export', 'push_to_hub', 'style_mixing', 'projector', 'report'}


def imported_packages(path):
    """First part of every absolute import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


@pytest.mark.parametrize('package', MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package):
    ours = set(MAY_IMPORT) | TOP_LEVEL
    files = list((ROOT / package).rglob('*.py'))
    assert files
    wrong = [(str(path.relative_to(ROOT)), name) for path in files for name in imported_packages(path) if name in ours - MAY_IMPORT[package]]
    assert wrong == []


def test_dnnlib_needs_no_torch():
    names = {name for path in (ROOT / 'dnnlib').rglob('*.py') for name in imported_packages(path)}
    assert 'torch' not in names


def test_pages_need_no_torch():
    """Nor does what they import of other packages: report.py starts at once."""
    modules = [f'reporting.{path.stem}' for path in (ROOT / 'reporting').glob('*.py') if path.stem != '__init__']
    code = f'import sys, {", ".join(sorted(modules))}, report; print([name for name in ("torch", "numpy") if name in sys.modules])'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert modules and result.stdout.strip() == '[]'


def test_nothing_needs_torchvision():
    users = [str(path.relative_to(ROOT)) for path in ROOT.glob('*/**/*.py')
             if '.venv' not in path.parts and 'tests' not in path.parts and 'torchvision' in imported_packages(path)]
    assert users == []
