"""What happens on the first CUDA tensor, on a machine whose tools are incomplete. A tensor that says it is on a GPU
stands in for one."""

import os
import platform
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from torch_utils import custom_ops
from torch_utils.native import build as native_build
from torch_utils.native import nvrtc
from torch_utils.ops import _library, bias_act, upfirdn2d


class SaysItIsOnGpu(torch.Tensor):
    is_cuda = property(lambda self: True)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A process that has seen no CUDA tensor yet, torch for CUDA 13.0, one GPU of architecture 9.0, an empty cache."""
    monkeypatch.setattr(custom_ops, '_problems', {})
    monkeypatch.setattr(custom_ops, '_installed', {})
    monkeypatch.setattr(nvrtc, 'find_library', lambda major: None)
    monkeypatch.setattr('torch.version.cuda', '13.0')
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    monkeypatch.setattr('torch.cuda.current_device', lambda: 0)
    monkeypatch.setattr('torch.cuda.get_device_capability', lambda i: (9, 0))
    monkeypatch.setattr('torch.cuda.get_arch_list', lambda: ['sm_75', 'sm_80', 'sm_86', 'sm_90', 'sm_100', 'sm_120',
                                                             'compute_120'])
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    for name in ('TORCH_CUDA_ARCH_LIST', 'CUDA_HOME', 'CUDA_PATH', 'CXX', 'CC', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)


def forget_registrations():
    """Takes back what a test had torch call instead of a kernel."""
    while custom_ops._registrations:
        custom_ops._registrations.pop()._destroy()
    custom_ops._installed.clear()


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)


@pytest.fixture
def tools(gpu, monkeypatch, tmp_path):
    """A PATH with nvcc, ninja and a compiler, from which a test may delete."""
    folder = tmp_path / 'bin'
    script(folder / 'nvcc', 'echo release 13.0')
    script(folder / 'ninja', f'exec {native_build.find_ninja() or "false"} "$@"')
    script(folder / 'c++', f'exec {native_build.find_compiler() or "false"} "$@"')
    for name in ('sh', 'as', 'ld'):
        os.symlink(shutil.which(name) or '/bin/false', folder / name)
    monkeypatch.setenv('PATH', str(folder))
    monkeypatch.setitem(sys.modules, 'ninja', None)
    monkeypatch.setattr(native_build, 'DEFAULT_CUDA_HOME', str(tmp_path / 'nowhere'))
    return folder


def assert_runs_with_one_warning(*words):
    """Both operators give the reference's results; exactly one warning has all the words."""
    x, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(2):
            y = bias_act.bias_act(x.as_subclass(SaysItIsOnGpu), b, act='lrelu')
            torch.testing.assert_close(torch.Tensor(y), bias_act.bias_act(x, b, act='lrelu', impl='ref'))
            y = upfirdn2d.upsample2d(x.as_subclass(SaysItIsOnGpu), f)
            torch.testing.assert_close(torch.Tensor(y), upfirdn2d.upsample2d(x, f, impl='ref'))
    assert [w.category for w in caught] == [RuntimeWarning]
    message = str(caught[0].message)
    assert all(word in message for word in words), message
    assert 'To mend it: ' in message
    return message


@pytest.mark.parametrize('tool, problem, remedy', [
    ('nvcc', 'nvcc is missing', 'install the CUDA toolkit 13.0'), ('ninja', 'ninja is missing', 'pip install ninja'),
    ('c++', 'the C++ compiler c++ is missing', 'apt install g++')])
def test_a_missing_tool_costs_one_warning(tools, tool, problem, remedy):
    (tools / tool).unlink()
    assert_runs_with_one_warning(f'bias_act, upfirdn2d and scaled_bias_act run without their CUDA kernels on '
                                 f'{platform.node()},', problem, remedy)
    with pytest.raises(RuntimeError, match=f'there is no kernel: {problem.replace("+", ".")}'):
        custom_ops.require('bias_act', torch.device('cuda'))


def test_nvcc_missing_where_CUDA_HOME_says(tools, monkeypatch, tmp_path):
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'old-cuda'))
    assert_runs_with_one_warning(f'nvcc is missing from {tmp_path}/old-cuda, which CUDA_HOME names')


@pytest.mark.skipif(native_build.find_compiler() is None or native_build.find_ninja() is None,
                    reason='needs a C++ compiler and ninja')
def test_a_compiler_error_costs_one_warning_with_its_last_lines(tools, monkeypatch, tmp_path):
    source = tmp_path / 'ops' / 'broken.cpp'
    source.parent.mkdir()
    source.write_text('int broken() { return seven; }\n')
    monkeypatch.setattr(custom_ops, 'FOLDER', str(source.parent))
    # Torch without CUDA prepares no build with CUDA
    monkeypatch.setattr(custom_ops, 'architectures', lambda: '')
    message = assert_runs_with_one_warning('compiling kdgan_ops failed', 'broken.cpp:1:', 'seven', 'torch_utils.doctor')
    assert len(message.splitlines()) < 20


def test_torch_without_cuda_says_so(gpu, monkeypatch):
    monkeypatch.setattr('torch.version.cuda', None)
    assert_runs_with_one_warning('is not built for CUDA')


def test_a_cache_that_cannot_be_written_costs_one_warning(tools, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'file' / 'cache'))
    x = torch.zeros(1, 1).as_subclass(SaysItIsOnGpu)
    with pytest.warns(RuntimeWarning, match='cannot be written: a part of the path is a file; choose another folder'):
        bias_act.bias_act(x, act='relu')


def test_the_first_process_of_each_machine_warns_of_a_build(gpu, monkeypatch):
    monkeypatch.setattr('torch.version.cuda', None)
    monkeypatch.setattr('torch_utils.distributed.get_rank', lambda: 9)
    with monkeypatch.context() as second:
        second.setenv('LOCAL_RANK', '1')
        # A warning would be an error here
        bias_act.bias_act(torch.zeros(1, 1).as_subclass(SaysItIsOnGpu), act='relu')
    monkeypatch.setattr(custom_ops, '_problems', {})
    assert_runs_with_one_warning('is not built for CUDA')


def test_where_warnings_are_errors_only_the_first_call_fails(gpu, monkeypatch):
    monkeypatch.setattr('torch.version.cuda', None)
    x = torch.zeros(1, 1).as_subclass(SaysItIsOnGpu)
    with pytest.raises(RuntimeWarning, match='is not built for CUDA'):
        bias_act.bias_act(x, act='relu')
    monkeypatch.setattr(custom_ops, 'load_library', None)           # nothing calls it again
    bias_act.bias_act(x, act='relu')


@pytest.fixture
def damaged(gpu, monkeypatch, tmp_path):
    """A path that `build` gives, of a damaged library from 2001; a build makes what the test puts into the list."""
    path, products = tmp_path / 'kdgan_ops.so', []
    path.write_text('half a library')
    os.utime(path, (1e9, 1e9))

    def build(recipe, time_limit_sec):
        if not path.exists():
            path.write_bytes(products.pop())
        return str(path)
    monkeypatch.setattr(native_build, 'build', build)
    return path, products


@pytest.mark.skipif(native_build.find_compiler() is None, reason='needs a C++ compiler')
def test_a_library_that_does_not_load_is_built_anew(damaged, tmp_path):
    path, products = damaged
    subprocess.run([native_build.find_compiler(), '-shared', '-o', tmp_path / 'whole.so', '-x', 'c++',
                    os.devnull], check=True)
    products.append((tmp_path / 'whole.so').read_bytes())
    assert custom_ops.load_library() == str(path) and products == []
    torch.ops.loaded_libraries.discard(str(path))


def test_if_that_does_not_load_either_the_warning_has_the_reason(damaged):
    path, products = damaged
    products += [b'not built', b'damaged, too']
    assert_runs_with_one_warning('does not load', 'too short', 'LD_LIBRARY_PATH')
    assert products == [b'not built']


def test_nothing_is_looked_for_without_a_cuda_tensor(gpu):
    bias_act.bias_act(torch.zeros(2, 3), torch.zeros(3), act='relu')
    assert custom_ops._problems == {}


def test_the_architectures_are_the_users_or_those_of_the_gpus(gpu, monkeypatch):
    assert custom_ops.architectures() == '9.0'
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0;8.6+PTX')
    assert custom_ops.architectures() == '8.0;8.6+PTX'
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', 'native')            # older torch does not know the word
    assert custom_ops.architectures() == '9.0'
    assert custom_ops.recipe('8.0').key() != custom_ops.recipe('9.0').key()


def test_one_gpu_of_each_architecture_is_checked_the_current_one_among_them(gpu, monkeypatch):
    kinds = [(8, 0), (9, 0), (9, 0), (9, 0), (12, 0)]
    monkeypatch.setattr('torch.cuda.device_count', lambda: 5)
    monkeypatch.setattr('torch.cuda.current_device', lambda: 2)
    monkeypatch.setattr('torch.cuda.get_device_capability', lambda i: kinds[i])
    assert sorted(device.index for device in custom_ops._different_gpus()) == [0, 2, 4]
    assert all(device.type == 'cuda' for device in custom_ops._different_gpus())


@pytest.mark.parametrize('capability, counts', [((6, 1), False), ((7, 5), True), ((8, 9), True), ((10, 3), True),
                                                ((11, 0), False), ((12, 1), True), ((13, 0), True)])
def test_a_second_gpu_that_torch_has_no_code_for_does_not_count(gpu, monkeypatch, capability, counts):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.get_device_capability', lambda i: [(9, 0), capability][i])
    assert len(custom_ops._different_gpus()) == 1 + counts
    assert custom_ops.architectures() == (';'.join(sorted(['9.0', '{}.{}'.format(*capability)])) if counts else '9.0')
    # Then the error is its own
    monkeypatch.setattr('torch.cuda.current_device', lambda: 1)
    assert '{}.{}'.format(*capability) in custom_ops.architectures()


def test_the_second_kind_of_gpu_counts_too(monkeypatch):
    """On a CPU and a device without a kernel: what is right on the first does not hide the second."""
    monkeypatch.setattr(custom_ops, '_failures', lambda kernel, device: ['wrong'] if device.type == 'mps' else [])
    assert custom_ops._check('bias_act', [torch.device('cpu')]) is None
    assert 'wrong (on mps)' in custom_ops._check('bias_act', [torch.device('cpu'), torch.device('mps')]).reason
    forget_registrations()


def test_a_library_with_other_results_is_not_used(gpu, monkeypatch):
    """The wrong kernel is registered for the CPU; the rest is what happens to one for CUDA. Any rank says so."""
    monkeypatch.setattr('torch_utils.distributed.get_rank', lambda: 3)
    monkeypatch.setattr(custom_ops, 'load_library', lambda time_limit_sec: None)
    monkeypatch.setattr(custom_ops, 'OPERATORS', {'upfirdn2d': ['upfirdn2d']})
    monkeypatch.setattr(custom_ops, '_different_gpus', lambda: [torch.device('cpu')])
    x, f = torch.randn(1, 1, 4, 4), upfirdn2d.setup_filter([1, 3, 3, 1])
    with torch.library._scoped_library('kdgan', 'IMPL') as wrong:
        wrong.impl('upfirdn2d', lambda *args: custom_ops.references['upfirdn2d'](*args) * 1.01, 'CPU')
        # As a kernel in C++: one in Python, torch 2.6 does not let another replace
        torch.library._impls.discard('kdgan/upfirdn2d/CPU')
        with pytest.warns(RuntimeWarning, match='upfirdn2d runs without its CUDA kernel on rank 3: .*wrong '
                                                'results.*the error is .*on cpu'):
            assert 'wrong results' in custom_ops.problem_of('upfirdn2d').reason
        try:
            torch.testing.assert_close(upfirdn2d.upsample2d(x, f), upfirdn2d.upsample2d(x, f, impl='ref'))
        finally:
            forget_registrations()


def test_a_library_without_a_kernel_is_not_used():
    assert 'the library has no kernel for upfirdn2d' in custom_ops._check('upfirdn2d', [torch.device('mps')]).reason
    forget_registrations()


def test_the_names_of_operators_are_complete():
    assert sorted(name for names in custom_ops.OPERATORS.values() for name in names) == sorted(custom_ops.references)


def test_an_operator_without_a_kernel_is_plain_torch_on_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(custom_ops, 'references', dict(custom_ops.references))
    twice = _library.define('without_a_kernel(Tensor x) -> Tensor', lambda x: x * 2, torch.empty_like)
    with warnings.catch_warnings():
        warnings.simplefilter('error')              # nothing is looked for
        assert twice(torch.ones([2]).as_subclass(SaysItIsOnGpu)).tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="without_a_kernel: impl is 'cuda', but there is no kernel: none is written"):
        custom_ops.require('without_a_kernel', torch.device('cuda'))
