import subprocess
import sys

import pytest
import torch

from dnnlib import UserError
from torch_utils import custom_ops, doctor
from torch_utils.native import build as native_build
from torch_utils.native.cache import Problem

HAS_CUDA = torch.cuda.is_available()


@pytest.mark.skipif(HAS_CUDA, reason='tells of a machine without a GPU')
def test_a_machine_without_a_gpu_is_healthy(capsys, monkeypatch):
    monkeypatch.setattr(doctor, 'driver_version', lambda: None)
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    for word in ('python ', f'torch       {torch.__version__}', 'driver ', 'nvcc ', 'NVRTC ', 'ninja ', 'compiler ',
                 'device      cpu', 'bias_act    plain torch: ', 'upfirdn2d   plain torch: ',
                 'scaled_bias_act plain torch: ',
                 'check       cpu: right to the second derivative',
                 'Everything is in order.'):
        assert word in out
    assert 'Problem' not in out


@pytest.mark.skipif(HAS_CUDA, reason='tells of a machine without a GPU')
def test_tools_that_are_missing_do_not_matter_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(doctor, 'driver_version', lambda: None)
    for name in ('find_nvcc', 'find_ninja', 'find_compiler'):
        monkeypatch.setattr(doctor.native_build, name, lambda: None)
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.count('not found') == 3


def test_a_gpu_that_torch_does_not_see_is_a_problem_with_a_fix(monkeypatch):
    monkeypatch.setattr('torch.version.cuda', None)
    (problem, fix), = doctor.machine_problems('580.1', has_cuda=False)
    assert 'torch is built for the CPU' in problem and 'install torch for CUDA' in fix
    monkeypatch.setattr('torch.version.cuda', '13.0')
    (problem, fix), = doctor.machine_problems('580.1', has_cuda=False)
    assert 'sees no GPU (driver 580.1)' in problem and 'newer driver' in fix
    assert list(doctor.machine_problems(None,
                                        has_cuda=False)) == list(doctor.machine_problems('580.1', has_cuda=True)) == []


def test_a_failed_build_is_a_problem_with_its_fix(monkeypatch, capsys):
    problem = Problem('nvcc is missing', 'install the CUDA toolkit 13.0')
    monkeypatch.setattr(custom_ops, '_problems', {'bias_act': problem, 'upfirdn2d': None, 'scaled_bias_act': None})
    monkeypatch.setattr(custom_ops, '_backends', dict.fromkeys(['upfirdn2d', 'scaled_bias_act'],
                                                               'kernel compiled by NVRTC 13.0 (nvcc is missing)'))
    found = doctor.backends(has_cuda=True)
    assert found['bias_act'] == ('plain torch: the CUDA kernel is not in use', problem)
    assert found['upfirdn2d'] == ('kernel compiled by NVRTC 13.0 (nvcc is missing) on cuda, plain torch on cpu', None)
    monkeypatch.setattr(doctor, 'backends', lambda *args: found)
    monkeypatch.setattr(doctor, 'driver_version', lambda: None)
    assert doctor.main([]) == 1
    assert 'Problem: bias_act: nvcc is missing\nFix:     install the CUDA toolkit 13.0' in capsys.readouterr().out


KERNELS = 'bias_act, upfirdn2d, scaled_bias_act'


@pytest.mark.parametrize('error, text', [
    (native_build.BuildError('ninja is missing', 'pip install ninja'),
     f'Problem: {KERNELS}: ninja is missing\nFix:     pip install ninja\n'),
    (native_build.BuildError('it failed', 'look', 'x.cu:1: error: y'),
     f'Problem: {KERNELS}: it failed\nx.cu:1: error: y\nFix:     look\n'),
    (UserError('/full: no space'), f'Problem: {KERNELS}: /full: no space\nFix:     KDGAN_CACHE_DIR'),
    (UserError('/old', 'no space', 'delete it'), f'Problem: {KERNELS}: /old: no space\nFix:     delete it\n'),
    (PermissionError('/other: not yours'), f'Problem: {KERNELS}: PermissionError: /other: not yours\nFix:     '
                                           'KDGAN_CACHE_DIR')])
@pytest.mark.parametrize('args, limit', [([], native_build.TIME_LIMIT_SEC), (['--build'], doctor.PATIENT_SEC)])
def test_whatever_building_raises_is_one_problem_with_a_fix(error, text, args, limit, monkeypatch, capsys):
    limits = []

    def fail(time_limit_sec):
        limits.append(time_limit_sec)
        raise error
    monkeypatch.setattr(custom_ops, '_problems', {})
    monkeypatch.setattr(custom_ops, 'load_library', fail)
    monkeypatch.setattr(custom_ops, '_load_nvrtc', fail)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr(doctor, 'driver_version', lambda: None)
    monkeypatch.setattr(doctor, 'devices', lambda: [])
    monkeypatch.setattr(doctor, 'numeric_check', lambda kernel, device: [])
    assert doctor.main(args) == 1
    out = capsys.readouterr().out
    assert text in out and out.endswith('\n1 problems found\n') and limits == [limit, limit]


def test_a_wrong_operator_fails_the_check(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'driver_version', lambda: None)
    monkeypatch.setattr(doctor, 'backends', lambda *args: {})
    with torch.library._scoped_library('kdgan', 'IMPL') as wrong:
        wrong.impl('bias_act_slope', lambda dy, *args: custom_ops.references['bias_act_slope'](dy, *args) * 1.01, 'CPU')
        assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert ('wrong to the second derivative' in out and 'Problem: bias_act_slope of BiasActCase' in out
            and 'Fix: ' in out)


def test_runs_as_a_module():
    result = subprocess.run([sys.executable, '-m', 'torch_utils.doctor', '--help'], capture_output=True, text=True)
    assert result.returncode == 0 and '--build' in result.stdout
