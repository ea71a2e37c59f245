"""Builds that fail, hang, or happen twice at once. The library here is tiny: what matters is what surrounds the
compiler."""

import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from conftest import wait_until

from torch_utils.native import build as native_build
from torch_utils.native import cache as build_cache
from torch_utils.native import nvrtc
from torch_utils.native.build import Recipe, build
from torch_utils.native.cache import BuildError

pytestmark = pytest.mark.skipif(native_build.find_compiler() is None or native_build.find_ninja() is None,
                                reason='needs a C++ compiler and ninja')
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'native-ops'


def tiny_recipe(folder, text='int kdgan_tiny() { return 7; }', **kwargs):
    source = folder / 'tiny.cpp'
    source.write_text(text)
    return Recipe('tiny', [str(source)], [], **kwargs)


def fake_compiler(folder, monkeypatch, script):
    path = folder / 'fake-c++'
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/runs\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv('CXX', str(path))
    return path


def compilations(folder):
    return sum('tiny.cpp' in line for line in (folder / 'runs').read_text().splitlines())


def leftovers(cache):
    return sorted(p.name for p in cache.iterdir() if p.name.startswith('build-'))


def test_key_follows_sources_headers_flags_architecture_and_machine(tmp_path, monkeypatch):
    header = tmp_path / 'tiny.h'
    header.write_text('1')
    base = tiny_recipe(tmp_path)._replace(headers=[str(header)])
    keys = {base.key(), base._replace(cflags=['-O0']).key(), base._replace(arch='8.0').key(),
            base._replace(arch='9.0').key()}
    header.write_text('2')
    keys.add(base.key())
    tiny_recipe(tmp_path, 'int kdgan_tiny() { return 8; }')
    keys.add(base.key())
    for name, value in [('machine', 'riscv64'), ('libc_ver', ('glibc', '2.17'))]:
        with monkeypatch.context() as patch:
            patch.setattr(platform, name, lambda value=value: value)
            keys.add(base.key())
    assert len(keys) == 8 and base.key() in keys


def test_processes_that_start_at_once_build_once(cache, tmp_path, monkeypatch):
    fake_compiler(tmp_path, monkeypatch, 'exec c++ "$@"')
    code = ('import sys, json; from torch_utils.native import build as n; r = n.Recipe(*json.loads(sys.argv[1])); '
            'print(n.build(r))')
    command = [sys.executable, '-c', code, json.dumps(tiny_recipe(tmp_path))]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {p.communicate()[0].strip() for p in processes}
    assert [p.returncode for p in processes] == [0, 0] and len(paths) == 1
    asked = (tmp_path / 'runs').read_text()
    # The cache answers
    assert {build(tiny_recipe(tmp_path))} == paths and (tmp_path / 'runs').read_text() == asked
    assert compilations(tmp_path) == 1
    assert leftovers(cache) == []


def test_a_folder_with_other_packages_of_these_names_is_not_in_the_way(tmp_path, monkeypatch):
    """As where another StyleGAN is checked out. The cache is relative to that folder, too."""
    for package in ('torch_utils', 'dnnlib'):
        (tmp_path / package).mkdir()
        (tmp_path / package / '__init__.py').write_text('raise ImportError("the wrong one")')
    monkeypatch.setenv('KDGAN_CACHE_DIR', 'cache')
    monkeypatch.chdir(tmp_path)
    path = build(tiny_recipe(tmp_path))
    assert os.path.getsize(path) > 1000 and leftovers(tmp_path / 'cache' / 'native-ops') == []


def test_without_the_locks_of_a_unix_nothing_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(build_cache, 'fcntl', None)
    with pytest.raises(BuildError, match='on Linux only. To mend it: use WSL'):
        build(tiny_recipe(tmp_path))


def test_only_a_library_from_before_is_discarded(tmp_path):
    path = tmp_path / 'tiny.so'
    path.write_text('')
    build_cache.discard(path, before=path.stat().st_mtime)
    assert path.exists()
    later = path.stat().st_mtime + 1
    build_cache.discard(path, before=later)
    assert not path.exists()
    build_cache.discard(path, before=later)            # as where another process was faster


def test_a_compiler_error_is_shown_and_processes_that_waited_do_not_repeat_it(cache, tmp_path, monkeypatch):
    fake_compiler(tmp_path, monkeypatch, 'exec c++ "$@"')
    recipe, errors = tiny_recipe(tmp_path, 'int kdgan_tiny() { return seven; }'), []
    both, locked = threading.Barrier(2), build_cache._locked
    # Neither comes after the failure
    monkeypatch.setattr(build_cache, '_locked', lambda *args: (both.wait(), locked(*args))[1])

    def attempt():
        with pytest.raises(BuildError) as caught:
            build(recipe)
        errors.append(str(caught.value))
    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors[0] == errors[1] and compilations(tmp_path) == 1
    assert "'seven' was not declared" in errors[0].replace('‘', "'").replace('’', "'")
    assert 'compiling tiny failed' in errors[0] and 'To mend it: ' in errors[0] and len(errors[0].splitlines()) < 20
    assert leftovers(cache) == []


def test_a_build_over_the_time_limit_is_ended_with_all_its_processes(cache, tmp_path, monkeypatch):
    fake_compiler(tmp_path, monkeypatch, 'case "$*" in *tiny.cpp*) exec sleep 1000;; esac; exec c++ "$@"')
    with pytest.raises(BuildError, match='longer than 0.5 seconds.*doctor --build'):
        build(tiny_recipe(tmp_path), time_limit_sec=0.5)
    assert leftovers(cache) == []
    pid, wait = tmp_path / 'pid', subprocess.Popen.wait

    def over_the_limit(process, timeout=None):
        if timeout is None:
            return wait(process)
        wait_until(lambda: pid.exists() and pid.read_text().endswith('\n'))
        raise subprocess.TimeoutExpired('sh', timeout)
    monkeypatch.setattr(subprocess.Popen, 'wait', over_the_limit)
    with pytest.raises(BuildError, match='longer than 1 seconds'):
        build_cache.run(['sh', '-c', f'sleep 1000 & echo $! > {pid}; wait'], None, str(tmp_path), 1)
    state = pathlib.Path('/proc') / pid.read_text().strip() / 'stat'
    wait_until(lambda: not is_running(state))               # a killed process takes a moment to end


def is_running(state):
    try:
        return state.read_text().split()[2] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_lock_of_a_killed_process_is_no_lock(cache, tmp_path):
    recipe = tiny_recipe(tmp_path)
    cache.mkdir(parents=True)
    lock = cache / f'tiny-{recipe.key()}.lock'
    code = (f'import fcntl, time; f = open({str(lock)!r}, "w"); fcntl.flock(f, fcntl.LOCK_EX); print("held", '
            'flush=True); time.sleep(1000)')
    holder = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == 'held\n'
    with pytest.raises(BuildError, match='another process has held'), build_cache._locked(lock, patience_sec=0.3):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with build_cache._locked(lock, patience_sec=0.3):
        pass


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """-> (folder, function that puts an nvcc of a release there)."""
    def install(release):
        nvcc = tmp_path / 'bin' / 'nvcc'
        nvcc.parent.mkdir()
        nvcc.write_text(f'#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.89\n')
        nvcc.chmod(0o755)
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    monkeypatch.setattr('torch.version.cuda', '13.0')
    for name in ('CXX', 'CC', 'CUDA_INC_PATH'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path, install


def test_a_cuda_toolkit_of_another_generation_is_refused(toolkit):
    tmp_path, install = toolkit
    install('11.8')
    with pytest.raises(BuildError, match='nvcc is of CUDA 11.8, torch of CUDA 13.0.*To mend it: install the CUDA '
                                         'toolkit 13.0'):
        native_build.build_environment(tiny_recipe(tmp_path, arch='8.0'), str(tmp_path))


def test_nvcc_gets_the_compiler_that_the_user_names(toolkit, monkeypatch):
    """torch passes CC to nvcc, and only that."""
    folder, install = toolkit
    install('13.0')
    recipe = tiny_recipe(folder, arch='8.0')
    assert 'CC' not in native_build.build_environment(recipe, str(folder))
    compiler = fake_compiler(folder, monkeypatch, '')
    assert native_build.build_environment(recipe, str(folder))['CC'] == str(compiler)
    assert 'CC' not in native_build.build_environment(recipe._replace(arch=''), str(folder))
    monkeypatch.setenv('CC', 'other')
    assert native_build.build_environment(recipe, str(folder))['CC'] == 'other'


def test_headers_are_found_where_conda_puts_them(toolkit, monkeypatch):
    folder, install = toolkit
    install('13.0')
    recipe, header = tiny_recipe(folder,
                                 arch='8.0'), folder / 'targets' / 'x86_64-linux' / 'include' / 'cuda_runtime_api.h'
    assert 'CUDA_INC_PATH' not in native_build.build_environment(recipe, str(folder))
    header.parent.mkdir(parents=True)
    header.write_text('')
    assert native_build.build_environment(recipe, str(folder))['CUDA_INC_PATH'] == str(header.parent)
    (folder / 'include').mkdir()
    (folder / 'include' / header.name).write_text('')
    assert 'CUDA_INC_PATH' not in native_build.build_environment(recipe, str(folder))
    (folder / 'include' / header.name).unlink()
    monkeypatch.setenv('CUDA_INC_PATH', 'mine')
    assert native_build.build_environment(recipe, str(folder))['CUDA_INC_PATH'] == 'mine'


def test_nvcc_and_the_runtime_of_pip_packages_are_found(tmp_path, monkeypatch):
    """Their libcudart.so.13 has no name without a number, which is what a linker looks for."""
    site, links = tmp_path / 'site', tmp_path / 'links'
    home = site / 'nvidia' / 'cu13'
    (home / 'bin').mkdir(parents=True)
    (home / 'lib').mkdir()
    links.mkdir()
    (home / 'lib' / 'libcudart.so.13').write_text('runtime')
    (home / 'bin' / 'nvcc').write_text('#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n')
    (home / 'bin' / 'nvcc').chmod(0o755)
    monkeypatch.setattr('torch.version.cuda', '13.0')
    monkeypatch.setattr(nvrtc, 'package_folders', lambda name: [str(site / name)])
    monkeypatch.setattr(shutil, 'which', lambda name, which=shutil.which, **kwargs: None if name == 'nvcc'
                        else which(name, **kwargs))
    for name in ('CUDA_HOME', 'CUDA_PATH', 'LIBRARY_PATH', 'CXX'):
        monkeypatch.delenv(name, raising=False)
    assert native_build.find_nvcc() == str(home / 'bin' / 'nvcc')
    env = native_build.build_environment(tiny_recipe(tmp_path, arch='8.0'), str(links))
    assert env['CUDA_HOME'] == str(home) and env['LIBRARY_PATH'] == str(links)
    assert (links / 'libcudart.so').read_text() == 'runtime'
    (home / 'lib' / 'libcudart.so').write_text('')
    assert 'LIBRARY_PATH' not in native_build.build_environment(tiny_recipe(tmp_path, arch='8.0'), str(links))


def test_a_toolkit_whose_path_has_a_space_is_reached_by_a_link(toolkit, monkeypatch):
    folder, install = toolkit
    install('13.0')
    spaced = folder / 'with space'
    spaced.symlink_to(folder)
    monkeypatch.setenv('CUDA_HOME', str(spaced))
    env = native_build.build_environment(tiny_recipe(folder, arch='8.0'), str(folder))
    assert env['CUDA_HOME'] == str(folder / 'cuda') and os.path.samefile(env['CUDA_HOME'], folder)


def test_an_environment_whose_path_has_a_space_links(cache, tmp_path, monkeypatch):
    """torch seen through a path with a space, as in such an environment, and a cache with one."""
    site = tmp_path / 'my environment'
    site.mkdir()
    (site / 'torch').symlink_to(os.path.dirname(torch.__file__))
    monkeypatch.setenv('PYTHONPATH', str(site))
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'my cache'))
    assert os.path.getsize(build(tiny_recipe(tmp_path))) > 1000


@pytest.mark.parametrize('log, remedy', [
    ("nvcc fatal   : Unsupported gpu architecture 'compute_130'", 'CUDA_VISIBLE_DEVICES'),
    ('ValueError: Unknown CUDA arch (13.0) or GPU not supported', 'TORCH_CUDA_ARCH_LIST'),
    ('#error -- unsupported GNU version! gcc versions later than 14 are not supported!', 'with CC'),
    ('anything else', 'torch_utils.doctor')])
def test_the_remedy_fits_the_log(log, remedy):
    assert remedy in native_build._remedy_of(log)
