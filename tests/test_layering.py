"""Imports point one way: dnnlib <- torch_utils <- training <- inference and kd_plugin <- command lines, with metrics
beside training, reporting beside kd_plugin and viewing above inference. Within training/ the rooms have ranks, too; and
none grows too large to look around in."""

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
    'inference': {'dnnlib', 'torch_utils', 'training', 'inference'},
    'metrics': {'dnnlib', 'torch_utils', 'metrics'},
    'viewing': {'dnnlib', 'torch_utils', 'training', 'inference', 'viewing'},
    'reporting': {'dnnlib', 'training', 'reporting'},
    'reproduction': {'dnnlib', 'reproduction'},
    'kd_plugin': {'dnnlib', 'torch_utils', 'training', 'kd_plugin'},
}
TOP_LEVEL = {'train', 'generate', 'calc_metrics', 'dataset_tool', 'legacy', 'export', 'push_to_hub', 'style_mixing',
             'projector', 'report', 'viewer', 'reproduce'}
# Rooms of training/: one imports only from those of a lower rank, and from itself.
RANKS = [
    {'gan_losses', 'ema', 'phases', 'prior', 'networks', 'augment', 'dataset'},
    {'loss_terms', 'snapshots', 'observers'},
    {'loss', 'methods', 'model_files'},
    {'networks_setup', 'config', 'run'},
    {'speed'},
    {'training'},
    {'saved_run'},
    {'training_loop'},
    {'launch'},
]
INFERENCE_MAY_USE = {'networks', 'augment', 'dataset', 'snapshots', 'model_files', 'run'}
OPTIONAL = {'requests', 'urllib3', 'onnx', 'onnxscript', 'onnxruntime', 'imageio_ffmpeg', 'transformers', 'clip',
            'pillow_heif', 'huggingface_hub', 'gradio', 'uvicorn', 'fastapi', 'starlette',
            # The last three for the time that they take: dataset_tool.py starts without torch
            'torch', 'torch_utils', 'scipy'}
MOST_LINES, LONGEST_FUNCTION, MOST_MODULES = 300, 45, 22
OURS = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob('*.py'))
MODULES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path for path in OURS}


def imported_packages(path):
    """First part of every absolute import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


def imported_modules(module):
    """The modules of ours that a module of ours imports, as full names."""
    path = MODULES[module]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            package = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]
            base = '.'.join([*package[:len(package) - node.level + 1],
                             *([node.module] if node.module else [])]) if node.level else node.module
            names = [f'{base}.{alias.name}' if f'{base}.{alias.name}' in MODULES else base for alias in node.names]
            yield from (name for name in names if name in MODULES)


def room(module):
    """'training.run.state' -> 'run'."""
    return module.split('.')[1] if '.' in module else ''


def test_rooms_of_training_import_from_lower_ranks():
    rank = {name: number for number, names in enumerate(RANKS) for name in names}
    assert {room(module) for module in MODULES if module.startswith('training.')} == set(rank)
    wrong = [(module, other) for module in MODULES if module.startswith('training.')
             for other in imported_modules(module)
             if other.startswith('training.') and room(other) != room(module) and rank[room(other)]
             >= rank[room(module)]]
    assert wrong == []


def test_inference_uses_networks_and_runs_not_the_step():
    wrong = [(module, other) for module in MODULES if module.startswith('inference')
             for other in imported_modules(module)
             if other.startswith('training.') and room(other) not in INFERENCE_MAY_USE]
    assert wrong == []


def test_no_circle_of_imports():
    """Each module can be put after all that it imports; a package counts as what its `__init__` imports."""
    waiting = {module: {other for other in imported_modules(module) if other != module} for module in MODULES}
    while ready := [module for module, others in waiting.items() if not others & waiting.keys()]:
        for module in ready:
            del waiting[module]
    assert sorted(waiting) == []


def test_what_is_imported_in_a_function_is_optional():
    wrong = [(str(path.relative_to(ROOT)), function.name, ast.unparse(node)) for path in OURS
             for function in ast.walk(ast.parse(path.read_text())) if isinstance(function, ast.FunctionDef)
             for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))
             if (node.module or '' if isinstance(node, ast.ImportFrom)
                 else node.names[0].name).split('.')[0] not in OPTIONAL]
    assert wrong == []


def test_nothing_is_too_large_to_look_around_in():
    texts = {str(path.relative_to(ROOT)): path.read_text()
             for path in [*OURS, *ROOT.glob('*.py'), *(ROOT / 'benchmarks').glob('*.py')]}
    assert [name for name, text in texts.items() if text.count('\n') > MOST_LINES] == []
    functions = [(name, node.name, node.end_lineno - node.lineno + 1) for name, text in texts.items()
                 for node in ast.walk(ast.parse(text))
                 if isinstance(node, ast.FunctionDef)]
    assert [function for function in functions if function[2] > LONGEST_FUNCTION] == []
    folders = {path.parent for path in OURS}
    # And an __init__
    assert [str(folder) for folder in folders if len(list(folder.glob('*.py'))) > MOST_MODULES + 1] == []


@pytest.mark.parametrize('package', MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package):
    ours = set(MAY_IMPORT) | TOP_LEVEL
    files = list((ROOT / package).rglob('*.py'))
    assert files
    wrong = [(str(path.relative_to(ROOT)), name) for path in files for name in imported_packages(path)
             if name in ours - MAY_IMPORT[package]]
    assert wrong == []


def test_dnnlib_needs_no_torch():
    names = {name for path in (ROOT / 'dnnlib').rglob('*.py') for name in imported_packages(path)}
    assert 'torch' not in names


def test_pages_need_no_torch():
    """Nor does what they import of other packages: report.py starts at once."""
    modules = [f'reporting.{path.stem}' for path in (ROOT / 'reporting').glob('*.py') if path.stem != '__init__']
    code = (f'import sys, {", ".join(sorted(modules))}, report; print([name for name in ("torch", "numpy") if name in '
            'sys.modules])')
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert modules and result.stdout.strip() == '[]'


def test_tests_share_modules_that_are_no_tests():
    wrong = [(path.name, name) for path in sorted((ROOT / 'tests').glob('*.py'))
             for name in imported_packages(path) if name.startswith('test_')]
    assert wrong == []


def test_nothing_needs_torchvision():
    users = [str(path.relative_to(ROOT)) for path in ROOT.glob('*/**/*.py')
             if '.venv' not in path.parts and 'tests' not in path.parts and 'torchvision' in imported_packages(path)]
    assert users == []
