"""What makes a step fast must not change it: no waiting for the device, torch.compile, CUDA graphs."""

import contextlib
import functools
from types import SimpleNamespace

import pytest
import torch
from test_training_loop import KD, make_config, make_run, trained
from torch.utils._python_dispatch import TorchDispatchMode

from dnnlib import UserError
from torch_utils import misc
from training.speed.compiling import compile_main_phases
from training.speed.cuda_graphs import WARM_UP, RecordedPhase

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
WAITING = {'_local_scalar_dense', 'is_nonzero', 'nonzero', 'masked_select', 'equal', 'unique_consecutive', '_unique2', 'repeat_interleave'}


class NoWaiting(TorchDispatchMode):
    """Fails at operators by which the host reads what the device has computed: `.item()`, `if tensor`, x[mask], ..."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == 'index' and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        assert name not in WAITING and not by_mask, f'{func} waits for the device'
        return func(*args, **(kwargs or {}))


WEIGHTS = ['--kd-share=0.2', '--kd-adapt=0.6', '--kd-warmup=1']
METHODS = ['--aug=diffaug', '--lecam=0.1', '--apa', '--insgen', '--vision-aided=demo', '--vision-aided-warmup=0', *KD]


@pytest.mark.parametrize('args', [
    ['--aug=ada', *KD, *WEIGHTS],
    ['--aug=fixed', '--p=0.5', '--cfg=cifar', '--cond=1', *KD, '--kd-preset=released'], METHODS])
def test_no_host_synchronisation_in_an_iteration(tiny_data, tmp_path, args):
    job = make_run(make_config(tiny_data, '--batch=8', '--kimg=1', *args, grid_images=4), tmp_path)
    job.progress = type('Progress', (), dict(advance=lambda self, nimg: None))()
    with NoWaiting():
        for _ in range(4):                      # ADA moves p in the fourth
            job._iteration()
    with pytest.raises(AssertionError, match='_local_scalar_dense'), NoWaiting():
        job.training.G.mapping.w_avg[0].item()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('args', [['--aug=ada', *KD, *WEIGHTS], METHODS])
def test_no_host_synchronisation_on_a_gpu(tiny_data, tmp_path, args):
    config = make_config(tiny_data, '--device=cuda', '--batch=8', '--kimg=1', *args)
    job = make_run(config, tmp_path, 'cuda')
    job.progress = type('Progress', (), dict(advance=lambda self, nimg: None))()
    job._iteration()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(16):
            job._iteration()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def compare(states, others, tolerance):
    for name, value in states.items():
        torch.testing.assert_close(others[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.filterwarnings('ignore')              # torch's own, of its compiler
@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.soak)])
def test_compiled_phases_train_alike(tiny_data, tmp_path, capsys, monkeypatch, backend):
    """The code generator itself takes minutes; what comes before it, the tracing of both directions, is where a network can fail to suit it."""
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=backend))
    config = make_config(tiny_data, '--cfg=stylegan2', '--batch=4', '--kimg=0.008', '--fp32=1', '--aug=noaug', grid_images=4)
    plain, _ = trained(config, tmp_path / 'plain')
    config.compile = True
    compiled, _ = trained(config, tmp_path / 'compiled')
    assert 'fails here' not in capsys.readouterr().out
    weights = [name for name in plain if name.startswith(('G.', 'D.'))]
    compare({name: plain[name] for name in weights}, compiled, tolerance=1e-3)
    assert any(not torch.equal(plain[name], compiled[name]) for name in weights)         # another order of additions: it was at work


class Network(torch.nn.Module):
    num_ws, w_dim, c_dim = 1, 3, 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones([3]), requires_grad=False)

    def forward(self, x, _c=None):
        return x * self.weight


@pytest.mark.filterwarnings('ignore')              # torch's own, of its compiler
def test_compiling_again_and_again_compiles(monkeypatch):
    """As --batch-gpu=auto does. Above its limit of versions of a function the compiler would leave it as it is, without an error."""
    compiled, told = [], []

    def backend(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=backend))
    counts = []
    for batch_size in range(2, 12):
        compile_main_phases(SimpleNamespace(device=torch.device('cpu'), terms=[], G_synthesis=Network(), D=Network()), batch_size, told.append)
        counts.append(len(compiled))
    assert told == [] and counts == [counts[0] * (i + 1) for i in range(10)] and counts[0] >= 3


def test_a_failing_compiler_is_announced(tiny_data, tmp_path, capsys, monkeypatch):
    def compiler(network, **_kwargs):
        def fail(*args, **kwargs):
            raise RuntimeError('no C++ compiler\nfound')
        return fail
    monkeypatch.setattr(torch, 'compile', compiler)
    config = make_config(tiny_data, '--batch=4', '--kimg=0.008', '--compile=1', grid_images=4)
    state, _ = trained(config, tmp_path / 'a')
    assert '--compile: torch.compile fails here (RuntimeError: no C++ compiler found)' in capsys.readouterr().out
    config.compile = False
    plain, _ = trained(config, tmp_path / 'b')
    compare(plain, state, tolerance=0)


def test_a_compiler_out_of_memory_is_no_failing_compiler(tiny_data, tmp_path, monkeypatch):
    def compiler(network, **_kwargs):
        def fail(*args, **kwargs):
            raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)')
        return fail
    monkeypatch.setattr(torch, 'compile', compiler)
    job = make_run(make_config(tiny_data, '--batch=4', '--compile=1'), tmp_path)
    with pytest.raises(RuntimeError, match='ALLOC_FAILED'):
        job.training.speed_up(print)


def test_recorded_phase_keeps_its_books(monkeypatch):
    """Warm-up, one graph per key, new numbers through the same memory, gradients, and nothing recorded where a key is None."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    calls, told, recording, key = [], [], [], ['a']

    class Graph:
        def __init__(self):
            self.tensors = None

        def replay(self):
            calls.append('replay')
            weight.grad = None
            function(*self.tensors, replayed=self)

    def function(x, replayed=None):
        if recording:
            recording[-1].tensors = [x]
        elif replayed is None:
            calls.append('plain')
        grad = x * 3
        if replayed is None:
            weight.grad = grad
            if recording:
                recording[-1].grad = grad
        else:
            replayed.grad.copy_(grad)

    @contextlib.contextmanager
    def record(graph, pool, capture_error_mode):
        assert (pool, capture_error_mode) == ('pool', 'thread_local')
        recording.append(graph)
        yield
        recording.pop()

    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Graph)
    monkeypatch.setattr(torch.cuda, 'graph', record)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: 'main')
    phase = RecordedPhase(function, [weight], lambda: key[0], 'pool', told.append, 'Dmain')
    for step in range(WARM_UP + 2):
        weight.grad = None
        phase(torch.tensor([float(step)]))
        assert weight.grad.item() == 3 * step
    assert calls == ['plain'] * WARM_UP + ['replay'] * 2
    key[0] = 'b'
    phase(torch.tensor([7.0]))
    assert calls[-1] == 'plain' and weight.grad.item() == 21
    key[0] = None
    for _ in range(WARM_UP + 2):
        phase(torch.tensor([1.0]))
    assert calls[-WARM_UP - 2:] == ['plain'] * (WARM_UP + 2) and list(phase.graphs) == ['a'] and not told
    key[0] = 'a'
    phase(torch.tensor([5.0]))
    assert calls[-1] == 'replay' and weight.grad.item() == 15


def test_what_a_graph_is_kept_under(tiny_data, tmp_path):
    """The draw of AGKD makes two graphs of the phase that it acts in; the weights, which grow in a tensor, none."""
    loss = make_run(make_config(tiny_data, '--batch=4', *KD, '--kd-warmup=1', '--kd-p=0.5'), tmp_path).loss
    keys = [(loss.start_step(nimg), loss.recording_key('Dmain'), loss.recording_key('Gmain'))[1:] for nimg in (500, *range(1000, 2000, 4))]
    assert {D[0][0] for D, _ in keys} == {False, True} and len({D for D, _ in keys}) == 2
    assert {G for _, G in keys} == {((),)}
    loss = make_run(make_config(tiny_data, '--batch=4', *KD, '--kd-warmup=1', '--kd-pd=generator'), tmp_path).loss
    assert [(loss.start_step(nimg), loss.recording_key('Gmain'))[1] for nimg in (500, 1000)] == [((None,),)] * 2
    loss = make_run(make_config(tiny_data, '--batch=4', '--lecam=0.3', '--lecam-start=1'), tmp_path).loss
    assert [(loss.start_step(nimg), loss.recording_key('Dmain'))[1] for nimg in (996, 1000)] == [(False,), (True,)]
    assert [(loss.start_step(nimg), loss.recording_key('Gmain'))[1] for nimg in (996, 1000)] == [((),), ((),)]


@pytest.mark.parametrize('args, recorded, told', [
    (['--cfg=stylegan2', '--lecam=0.3', *KD, '--kd-warmup=1'], ['Gmain', 'Dmain'], []),
    (['--cfg=low-shot'], ['Gboth'], ['Dboth runs as usual; it is not recorded with the regularisation that is part of it.']),
    (['--cfg=low-shot', '--gamma=0'], ['Gboth', 'Dboth'], []),
    (['--cfg=stylegan2', '--apa', '--insgen', *KD], [], ['Gmain runs as usual; it is not recorded with apa, insgen.',
                                                         'Dmain runs as usual; it is not recorded with apa, insgen.']),
])
def test_which_phases_are_recorded(args, recorded, told, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: 'pool')
    job = make_run(make_config(tiny_data, '--batch=4', *args, cuda_graphs=True), tmp_path)
    capsys.readouterr()
    job.training.speed_up(print)
    assert [name for name, function in job.training.accumulate.items() if isinstance(function, RecordedPhase)] == recorded
    assert capsys.readouterr().out.splitlines() == [f'--cuda-graphs: {line}' for line in told]


@pytest.fixture
def failing_recording(monkeypatch):
    """-> function that makes the recording of a `RecordedPhase` fail, (cause, error at its end or None) -> the phase, what ran, what was told;
    and a record of the current stream. As in `torch.cuda.graph`, the stream is left only after a recording that could be ended."""
    stream = ['main']
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', object)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: stream[-1])
    monkeypatch.setattr(torch.cuda, 'set_stream', stream.append)

    def fail(cause, at_end=None):
        class Recording:
            def __init__(self, _graph, **_kwargs):
                pass

            def __enter__(self):
                stream.append('side')

            def __exit__(self, *_error):
                if at_end is not None:
                    raise at_end
                stream.append('main')
        monkeypatch.setattr(torch.cuda, 'graph', Recording)
        told, ran = [], []

        def function(x):
            ran.append(x.item())
            if stream[-1] == 'side':
                raise cause
        return RecordedPhase(function, [], lambda: (), 'pool', told.append, 'Gmain'), ran, told
    return fail, stream


def test_what_cannot_be_recorded_is_announced(failing_recording):
    fail, stream = failing_recording
    phase, ran, told = fail(RuntimeError('Cannot copy\nto the CPU'))
    for step in range(WARM_UP + 3):
        phase(torch.tensor(step))
    assert [x for x in ran if ran.count(x) == 1] == [0, 1, 2, 4, 5] and ran.count(3) == 2 and stream[-1] == 'main'
    assert told == ['--cuda-graphs: Gmain cannot be recorded (Cannot copy to the CPU); it runs as usual.']


@pytest.mark.parametrize('cause, remedy', [('operation not permitted when stream is capturing', 'leave it out'),
                                           ('CUDA out of memory.', 'use a smaller --batch-gpu, or leave it out')])
def test_a_recording_that_does_not_end_ends_the_run(cause, remedy, failing_recording):
    """What the user reads is why, not that it could not be ended."""
    fail, stream = failing_recording
    phase, ran, told = fail(RuntimeError(cause), RuntimeError('operation failed due to a previous error during capture'))
    for step in range(WARM_UP):
        phase(torch.tensor(step))
    with pytest.raises(UserError) as caught:
        phase(torch.tensor(WARM_UP))
    assert str(caught.value) == f'--cuda-graphs=1: Gmain cannot be recorded ({cause}); {remedy}, with --fork-from=RUN if the run has a state'
    assert stream[-1] == 'main' and told == [] and len(ran) == WARM_UP + 1


def test_a_recording_out_of_memory_is_no_reason_to_go_on(failing_recording):
    fail, stream = failing_recording
    phase, _ran, told = fail(torch.OutOfMemoryError('CUDA out of memory.'))
    with pytest.raises(torch.OutOfMemoryError):
        for step in range(WARM_UP + 1):
            phase(torch.tensor(step))
    assert stream[-1] == 'main' and told == []


def test_what_counts_as_out_of_memory():
    told = [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), RuntimeError('CUDA error: out of memory'),
            RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)'),
            RuntimeError("Cuda failure 2 'out of memory'")]
    assert all(misc.out_of_memory(err) for err in told)
    assert not any(misc.out_of_memory(err) for err in (RuntimeError('Connection closed by peer'), ValueError('out of memory')))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('args, tolerance', [(['--fp32=1'], 1e-3), (['--fp32=1', *KD, '--kd-p=1'], 1e-3), ([], 1e-2)])
def test_recorded_phases_give_the_same_gradients(tiny_data, tmp_path, capsys, args, tolerance):
    """Up to the order of atomic additions, which half precision rounds in; training on would multiply the difference. Other draws give others."""
    config = make_config(tiny_data, '--device=cuda', '--cfg=stylegan2', '--batch=4', '--cuda-graphs=1', '--aug=fixed', '--p=0.5', *args)
    job = make_run(config, tmp_path, 'cuda')
    capsys.readouterr()
    job.training.speed_up(print)
    for _ in range(WARM_UP + 1):
        job.training.step()
    assert capsys.readouterr().out == ''
    phases = {phase.name: phase for phase in job.training.phases}
    for name in ('Gmain', 'Dmain'):
        recorded = job.training.accumulate[name]
        assert len(recorded.graphs) == 1
        batch, (z, c) = job.training.reals.batch(16), job.training.prior.sample(4)
        grads = {}
        for seed in (1, 2):
            for way in (recorded.function, recorded):
                phases[name].begin()
                torch.manual_seed(seed)
                way(*batch, z, c)
                grads[seed, way] = torch.cat([param.grad.flatten() for param in phases[name].params if param.grad is not None])
            plain, replayed = grads[seed, recorded.function], grads[seed, recorded]
            assert (plain - replayed).norm() <= tolerance * plain.norm() and plain.norm() > 0
        assert (grads[1, recorded] - grads[2, recorded]).norm() > 10 * tolerance * grads[1, recorded].norm()
        for param in phases[name].params:
            param.requires_grad_(False)
