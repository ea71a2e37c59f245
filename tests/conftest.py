"""What tests share: a cache folder of their own, a tiny data set, a tiny configuration that trains in seconds."""

import contextlib
import os
import signal
import time

# Several threads wait for each other at every step, which costs minutes where the cores are shared. torch reads it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and stop by it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# isort: split

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch
from host_build import open_host_library
from lite_standin import make_package

import train
from dnnlib import EasyDict


def pytest_collection_modifyitems(items):
    """On a GPU torch and its libraries warn of harmless things, and of others with each version: no reason to fail
    there."""
    for item in items:
        if item.get_closest_marker('gpu') is not None:
            item.add_marker(pytest.mark.filterwarnings('default'))


@pytest.fixture(autouse=True)
def cache_dir(tmp_path_factory, monkeypatch):
    """Downloads and statistics of a test stay in a folder of the test run."""
    path = tmp_path_factory.getbasetemp() / 'cache'
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(path))
    return path


@pytest.fixture(scope='session')
def host_library(tmp_path_factory):
    """The CUDA kernels as loops over blocks and threads, on the CPU: see host_build.py."""
    yield from open_host_library(tmp_path_factory.getbasetemp() / 'cache')


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The package of lite0 with random weights -> the module in it: see lite_standin.py."""
    return make_package(tmp_path, monkeypatch)


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """Twelve 16x16 pictures in two classes, as a folder."""
    folder = tmp_path_factory.mktemp('data') / 'tiny'
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / ('red' if i % 2 else 'blue') / f'{i:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = np.array([200, 40, 40] if i % 2 else [40, 40, 200])
        PIL.Image.fromarray(np.clip(colour + rng.integers(-40, 40, size=(16, 16, 3)), 0,
                                    255).astype(np.uint8)).save(path)
    return str(folder)


def parse_options(*args):
    """train.py's options as `build_config` takes them."""
    return EasyDict(train.main.make_context('train.py', list(args)).params)


def shrink(config):
    """Makes the networks of a configuration small, and the search for copies, which would take more than the
    training."""
    width = dict(channel_base=128, channel_max=16)
    config.G_kwargs.update(z_dim=8, w_dim=8)
    config.G_kwargs['synthesis_kwargs'].update(width)
    config.D_kwargs.update(width)
    config.grid_images = 4
    if 'near_copies' in config.observers:
        config.observers['near_copies']['num_fakes'] = min(config.observers['near_copies']['num_fakes'], 8)
    return config


def wait_until(condition, limit_sec=300):
    """Returns when `condition()` is true. The limit only ends a hang."""
    end = time.monotonic() + limit_sec
    while not condition():
        assert time.monotonic() < end, 'it has not come to pass'
        time.sleep(0.005)


@contextlib.contextmanager
def modules_counted(limit):
    """At most `limit` modules may be made within: a network of a million layers would take minutes."""
    made, init = [], torch.nn.Module.__init__

    def counted(self, *args, **kwargs):
        made.append(type(self).__name__)
        assert len(made) <= limit, made[-3:]
        init(self, *args, **kwargs)
    torch.nn.Module.__init__ = counted
    try:
        yield
    finally:
        torch.nn.Module.__init__ = init


def run_cli(command, *args):
    """-> exit code and everything printed; a traceback never counts as a message."""
    result = click.testing.CliRunner().invoke(command, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    message = result.exception.code if result.exception is not None and isinstance(result.exception.code, str) else ''
    return result.exit_code if not message else 1, result.output + message
