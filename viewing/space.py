"""The viewer as a Space of the Hugging Face Hub: the code of this project, and an app that shows one published
network."""

import importlib.metadata
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('dnnlib', 'torch_utils', 'training', 'inference', 'viewing')
# Of the package data of pyproject.toml: what is no weights, which Spaces need no copy of
DATA = {'inference': ('web/*',), 'torch_utils': ('ops/*.cpp', 'ops/*.cu', 'ops/*.h')}
LICENCES = ('LICENSE', 'NOTICE')
GRADIO = '6.31.0'               # with which the page was tried
PYTHON = '3.11'
REQUIREMENTS = ('torch>=2.6', 'numpy', 'scipy', 'pillow>=10', 'click>=8', 'jinja2>=3', 'requests', 'urllib3>=2',
                'psutil', 'safetensors', 'tqdm', 'ninja', 'imageio', 'pyspng', 'imageio-ffmpeg',
                'huggingface_hub>=0.25')

APP = '''"""Shows {network} (https://huggingface.co/{repo})."""

import os

from torch_utils import cpu_threads
from torch_utils.devices import torch_device
from viewing import networks, serve

DEVICE = cpu_threads.settle(torch_device('auto'))
serve.serve(lambda: networks.load_all(['{network}'], DEVICE), lambda shown: {{}}, host='0.0.0.0',
            port=int(os.environ.get('GRADIO_SERVER_PORT', '7860')))
'''

README = '''---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
models:
- {repo}
---

Seeds, truncation, mixtures of styles and walks of the network [{repo}](https://huggingface.co/{repo}). What it was
trained on, how, and what was measured is in its model card. The code is that of KD-DLGAN: see LICENSE and NOTICE.
'''


def collect(repo):
    """{name in the Space: bytes, or path}. repo: USER/NAME of the network, which the Space loads when it starts."""
    network = f'hf:{repo}'
    own = {'app.py': APP.format(network=network, repo=repo).encode(),
           'README.md': README.format(title=repo.split('/')[1], gradio=GRADIO, python=PYTHON, repo=repo).encode(),
           'requirements.txt': ''.join(f'{line}\n' for line in REQUIREMENTS).encode()}
    return own | {name: _licence(name) for name in LICENCES} | code()


def code():
    """{name: path} of modules and `DATA`: nothing else that lies among them is published."""
    paths = [path for package in PACKAGES for pattern in ('**/*.py', *DATA.get(package, ()))
             for path in sorted((ROOT / package).glob(pattern)) if path.is_file()]
    return {path.relative_to(ROOT).as_posix(): str(path) for path in paths}


def _licence(name):
    """Beside the packages in a checkout; among the metadata where the project is installed."""
    path = ROOT / name
    if path.is_file():
        return path.read_bytes()
    return importlib.metadata.distribution('kd-dlgan').read_text(f'licenses/{name}').encode()
