"""What makes a step fast must not change it: no waiting for the device, torch.compile, CUDA graphs."""

import contextlib
import functools
from types import SimpleNamespace

import pytest
import torch
from test_training_loop import KD, make_config, make_trainer, trained
from torch.utils._python_dispatch import TorchDispatchMode

from training.compiling import compile_main_phases
from training.cuda_graphs import WARM_UP, RecordedPhase

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
WAITING = {'_local_scalar_dense', 'is_nonzero', 'nonzero', 'masked_select', 'equal', 'unique_consecutive', '_unique2', 'repeat_interleave'}


class NoWaiting(TorchDispatchMode):
    """Fails at operators by which the host reads what the device has computed: `.item()`, `if tensor`, x[mask], ..."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == 'index' and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        assert name not in WAITING and not by_mask, f'{func} waits for the device'
        return func(*args, **(kwargs or {}))


METHODS = ['--aug=diffaug', '--lecam=0.1', '--apa', '--insgen', '--vision-aided=demo', '--vision-aided-warmup=0', *KD]


@pytest.mark.parametrize('args', [['--aug=ada', *KD], ['--aug=fixed', '--p=0.5', '--cfg=cifar', '--cond=1', *KD, '--kd-preset=released'], METHODS])
def test_no_host_synchronisation_in_an_iteration(tiny_data, tmp_path, args):
    trainer = make_trainer(make_config(tiny_data, '--batch=8', '--kimg=1', *args, grid_images=4), tmp_path)
    trainer.progress = type('Progress', (), dict(advance=lambda self, nimg: None))()
    with NoWaiting():
        for _ in range(4):                      # ADA moves p in the fourth
            trainer._iteration()
    with pytest.raises(AssertionError, match='_local_scalar_dense'), NoWaiting():
        trainer.G.mapping.w_avg[0].item()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('args', [['--aug=ada', *KD], METHODS])
def test_no_host_synchronisation_on_a_gpu(tiny_data, tmp_path, args):
    config = make_config(tiny_data, '--batch=8', '--kimg=1', *args, device='cuda')
    trainer = make_trainer(config, tmp_path, 'cuda')
    trainer.progress = type('Progress', (), dict(advance=lambda self, nimg: None))()
    trainer._iteration()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(16):
            trainer._iteration()
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
    def record(graph, capture_error_mode):
        assert capture_error_mode == 'thread_local'
        recording.append(graph)
        yield
        recording.pop()

    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Graph)
    monkeypatch.setattr(torch.cuda, 'graph', record)
    phase = RecordedPhase(function, [weight], lambda: key[0], told.append, 'Dmain')
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
    """The draw of AGKD makes two graphs; weights that grow make none."""
    loss = make_trainer(make_config(tiny_data, '--batch=4', *KD, '--kd-warmup=1', '--kd-p=0.5'), tmp_path).loss
    keys = [(loss.start_step(nimg), loss.recording_key())[1] for nimg in (500, *range(1000, 2000, 4))]
    assert keys[0] is None and {key[0][0] for key in keys[1:]} == {False, True} and len(set(keys[1:])) == 2
    loss = make_trainer(make_config(tiny_data, '--batch=4', '--lecam=0.3', '--lecam-start=1'), tmp_path).loss
    assert [(loss.start_step(nimg), loss.recording_key())[1] for nimg in (996, 1000)] == [(False,), (True,)]


def test_what_cannot_be_recorded_is_announced(monkeypatch):
    told, ran = [], []
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: None)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)

    @contextlib.contextmanager
    def refuse(_graph, **_kwargs):
        yield
        raise RuntimeError('operation not permitted when stream is capturing')
    monkeypatch.setattr(torch.cuda, 'graph', refuse)
    phase = RecordedPhase(lambda x: ran.append(x.item()), [], lambda: (), told.append, 'Gmain')
    for step in range(WARM_UP + 3):
        phase(torch.tensor(step))
    assert [x for x in ran if ran.count(x) == 1] == [0, 1, 2, 4, 5] and ran.count(3) == 2
    assert told == ['--cuda-graphs: Gmain cannot be recorded (operation not permitted when stream is capturing); it runs as usual.']


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('args', [[], KD])
def test_recorded_phases_train_alike(tiny_data, tmp_path, capsys, args):
    config = make_config(tiny_data, '--cfg=stylegan2', '--batch=4', '--kimg=0.04', '--fp32=1', *args, grid_images=4, device='cuda')
    plain, _ = trained(config, tmp_path / 'plain', 'cuda')
    config.cuda_graphs = True
    recorded, _ = trained(config, tmp_path / 'recorded', 'cuda')
    assert 'cannot be recorded' not in capsys.readouterr().out
    compare({name: plain[name] for name in plain if name.startswith(('G.', 'D.'))}, recorded, tolerance=1e-3)
