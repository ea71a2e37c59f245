"""Which phases are recorded, and recorded phases on a GPU."""

import pytest
import torch
from cuda_standin import cuda  # noqa: F401  (a fixture)
from graph_runs import EVERYTHING, recorded
from small_runs import KD, make_config, make_run

from dnnlib import UserError
from torch_utils.devices import out_of_memory
from training.speed.cuda_graphs import Recorder
from training.speed.recorded_phase import TRIALS, WARM_UP, RecordedPhase, difference

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def test_the_difference_of_two_results():
    grads, buffers = [torch.tensor([3.0, 4.0]), None, torch.tensor([0.001])], [torch.tensor([10.0, 0.0])]
    assert difference((grads, buffers), (grads, buffers)) == 0
    assert difference(([torch.tensor([3.0, 4.5]), None, grads[2]], buffers), (grads, buffers)) == pytest.approx(0.1)
    # A tenth of 5
    assert difference(([grads[0], None, torch.tensor([0.002])], buffers),
                      (grads, buffers)) == pytest.approx(0.001 / 0.5, rel=1e-3)
    assert difference((grads, [torch.tensor([10.0, 1.0])]), (grads, buffers)) == pytest.approx(0.1)
    # A tenth, of one number
    assert difference((grads, [torch.tensor(0.01)]), (grads, [torch.tensor(0.0)])) == pytest.approx(0.1)
    assert difference(([*grads[:2], None], buffers), (grads, buffers)) == float('inf')
    assert difference(([torch.tensor([float('nan'), 4]), *grads[1:]], buffers), (grads, buffers)) == float('inf')
    assert difference((grads, buffers), ([torch.tensor([float('inf'), 4]), *grads[1:]], buffers)) is None


def test_what_a_graph_is_kept_under(tiny_data, tmp_path):
    """The draw of AGKD makes two graphs of the phase that it acts in; the weights, which grow in a tensor, none;
    regularisations have no part."""
    loss = make_run(make_config(tiny_data, '--batch=4', *KD, '--kd-warmup=1', '--kd-p=0.5'), tmp_path).training.loss
    keys = [(loss.start_step(nimg), loss.recording_key('Dmain'), loss.recording_key('Gmain'))[1:]
            for nimg in (500, *range(1000, 2000, 4))]
    assert {D[0][0] for D, _ in keys} == {False, True} and len({D for D, _ in keys}) == 2
    assert {G for _, G in keys} == {((),)} and loss.recording_key('Greg') == loss.recording_key('Dreg') == ()
    loss = make_run(make_config(tiny_data, '--batch=4', *KD, '--kd-warmup=1', '--kd-pd=generator'),
                    tmp_path).training.loss
    assert [(loss.start_step(nimg), loss.recording_key('Gmain'))[1] for nimg in (500, 1000)] == [((None,),)] * 2
    loss = make_run(make_config(tiny_data, '--batch=4', '--lecam=0.3', '--lecam-start=1'), tmp_path).training.loss
    assert [(loss.start_step(nimg), loss.recording_key('Dmain'))[1] for nimg in (996, 1000)] == [((False, 0.99),),
                                                                                                 ((True, 0.99),)]
    assert [(loss.start_step(nimg), loss.recording_key('Gmain'))[1] for nimg in (996, 1000)] == [((),), ((),)]


@pytest.mark.parametrize('args, world, names, told', [
    (['--cfg=stylegan2', '--lecam=0.3', *KD, '--kd-warmup=1'], 1, ['Gmain', 'Greg', 'Dmain', 'Dreg'], []),
    (['--cfg=stylegan2'], 2, ['Gmain', 'Dmain', 'Dreg'], ['Greg; the processes exchange numbers in the midst of it.']),
    (['--cfg=cifar', '--gamma=0'], 1, ['Gmain', 'Dmain'], []),         # nothing to do in the others
    (['--cfg=low-shot'], 2, ['Gboth', 'Dboth'], []),
    (['--cfg=stylegan2', '--apa', *KD], 1, ['Greg'], ['Gmain, Dmain, Dreg; apa decide in Python.']),
    (['--cfg=stylegan2', '--apa', '--insgen'], 1, ['Greg'], ['Gmain, Dmain; apa, insgen decide in Python.',
                                                             'Dreg; apa decide in Python.']),
])
def test_which_phases_are_recorded(args, world, names, told, tiny_data, tmp_path, capsys, monkeypatch,
                                   cuda):  # noqa: F811
    training = make_run(make_config(tiny_data, '--batch=4', *args, cuda_graphs='auto'), tmp_path).training
    capsys.readouterr()
    monkeypatch.setattr('torch_utils.distributed.get_world_size', lambda: world)
    training.speed_up(print)
    assert list(recorded(training)) == names
    assert capsys.readouterr().out.splitlines() == [f'--cuda-graphs: not recorded: {line}' for line in told]
    training.config.cuda_graphs = True
    if told:
        with pytest.raises(UserError, match='--cuda-graphs=1: G.* cannot be recorded: .*; use --cuda-graphs=auto, '
                                            'which records the others'):
            training.speed_up(print)


def test_what_counts_as_out_of_memory():
    told = [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
            RuntimeError('CUDA error: out of memory'),
            RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)'),
            RuntimeError("Cuda failure 2 'out of memory'")]
    assert all(out_of_memory(err) for err in told)
    assert not any(out_of_memory(err)
                   for err in (RuntimeError('Connection closed by peer'), ValueError('out of memory')))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('args, tolerance', [(['--fp32=1'], 1e-3), (['--fp32=1', *KD, '--kd-p=1'], 1e-3), ([], 1e-2)])
def test_recorded_phases_give_the_same_gradients_on_a_gpu(tiny_data, tmp_path, capsys, args, tolerance):
    """Up to the order of atomic additions, which half precision rounds in; training on would multiply the difference.
    Other draws give others."""
    config = make_config(tiny_data, '--device=cuda', '--cfg=stylegan2', '--batch=4', '--cuda-graphs=1', '--aug=fixed',
                         '--p=0.5', *args, G_reg_interval=1, D_reg_interval=1)
    training = make_run(config, tmp_path, 'cuda').training
    capsys.readouterr()
    training.speed_up(print)
    for _ in range(EVERYTHING):
        training.step()
    assert capsys.readouterr().out == ''
    phases = {phase.name: phase for phase in training.phases}
    for name, phase in recorded(training).items():
        assert phase.proven and set(phase.proven.values()) == {TRIALS}
        batch, (z, c) = training.reals.batch(16), training.prior.sample(4)
        grads, before = {}, phase._state()
        for seed in (1, 2):
            for way in (phase.function, phase):
                phases[name].begin()
                torch.manual_seed(seed)
                way(*batch, z, c)
                grads[seed, way] = torch.cat([param.grad.flatten() for param in phases[name].params
                                              if param.grad is not None])
                phase._restore(before)              # the mean length of paths moves by a hundredth, and Greg with it
            usual, replayed = grads[seed, phase.function], grads[seed, phase]
            assert (usual - replayed).norm() <= tolerance * usual.norm() and usual.norm() > 0
        assert (grads[1, phase] - grads[2, phase]).norm() > 10 * tolerance * grads[1, phase].norm()
        for param in phases[name].params:
            param.requires_grad_(False)


@pytest.mark.gpu
@needs_gpu
def test_after_a_recording_that_is_broken_off_a_gpu_goes_on():
    """A wait in the midst of it: the stream, random numbers and memory must be as before."""
    weight, told = torch.nn.Parameter(torch.ones(3, device='cuda')), []
    recorder = Recorder(lambda: [], False, 1e-3, told.append)
    calls = []

    def function(x):
        calls.append(1)
        if len(calls) > WARM_UP and torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        (weight * x * torch.rand([], device='cuda')).sum().backward()
    phase = RecordedPhase(function, [weight], lambda: (), recorder, 'Gmain')
    for step in range(EVERYTHING + 2):
        weight.grad = None
        torch.manual_seed(step)
        phase(torch.full([3], 2.0, device='cuda'))
        torch.manual_seed(step)
        assert torch.equal(weight.grad, 2 * torch.rand([], device='cuda').expand(3))
    assert len(told) == 1 and told[0].endswith('all phases run as usual.') and recorder.off
