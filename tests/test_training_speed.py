"""What makes a step fast must not change it: no waiting for the device, torch.compile."""

import functools
from types import SimpleNamespace

import pytest
import torch
from cuda_standin import NoWaiting
from small_runs import KD, make_config, make_run, trained

from torch_utils import distributed
from training.networks.biggan_norm import PlainNorm
from training.speed.compiling import compile_main_phases

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
WEIGHTS = ['--kd-share=0.2', '--kd-adapt=0.6', '--kd-warmup=1']
METHODS = ['--aug=diffaug', '--lecam=0.1', '--apa', '--insgen', '--vision-aided=demo', '--vision-aided-warmup=0', *KD]


@pytest.mark.parametrize('args', [
    ['--aug=ada', *KD, *WEIGHTS],
    ['--aug=fixed', '--p=0.5', '--cfg=cifar', '--cond=1', *KD, '--kd-preset=released'], METHODS])
def test_no_host_synchronisation_in_an_iteration(tiny_data, tmp_path, args):
    job = make_run(make_config(tiny_data, '--batch=8', '--kimg=30', *args, grid_images=4), tmp_path)
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
    config = make_config(tiny_data, '--device=cuda', '--batch=8', '--kimg=30', *args)
    job = make_run(config, tmp_path, 'cuda')            # its phases are not recorded: `run` would have that done
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
        torch.testing.assert_close(others[name], value, rtol=tolerance, atol=tolerance,
                                   msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.filterwarnings('ignore')              # torch's own, of its compiler
@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.soak)])
def test_compiled_phases_train_alike(tiny_data, tmp_path, capsys, monkeypatch, backend):
    """The code generator itself takes minutes; what comes before it, the tracing of both directions, is where a network
    can fail to suit it."""
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=backend))
    config = make_config(tiny_data, '--cfg=stylegan2', '--batch=4', '--kimg=0.008', '--fp32=1', '--aug=noaug',
                         grid_images=4)
    plain, _ = trained(config, tmp_path / 'plain')
    config.compile = True
    compiled, _ = trained(config, tmp_path / 'compiled')
    assert 'fails here' not in capsys.readouterr().out
    weights = [name for name in plain if name.startswith(('G.', 'D.'))]
    compare({name: plain[name] for name in weights}, compiled, tolerance=1e-3)
    # Another order of additions: it was at work
    assert any(not torch.equal(plain[name], compiled[name]) for name in weights)


class Network(torch.nn.Module):
    num_ws, w_dim, c_dim = 1, 3, 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones([3]), requires_grad=False)

    def forward(self, x, _c=None):
        return x * self.weight


@pytest.mark.filterwarnings('ignore')              # torch's own, of its compiler
def test_compiling_again_and_again_compiles(monkeypatch):
    """As --batch-gpu=auto does. Above its limit of versions of a function the compiler would leave it as it is, without
    an error."""
    compiled, told = [], []

    def backend(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=backend))
    counts = []
    for batch_size in range(2, 12):
        compile_main_phases(SimpleNamespace(device=torch.device('cpu'), terms=[], one_pass=False, G_synthesis=Network(),
                                            D=Network()), batch_size, told.append)
        counts.append(len(compiled))
    assert told == [] and counts == [counts[0] * (i + 1) for i in range(10)] and counts[0] >= 3


class Normalising(Network):
    def __init__(self):
        super().__init__()
        self.norm = PlainNorm(2, sync=True).requires_grad_(False)

    def forward(self, x, _c=None):
        return self.norm((x * self.weight).repeat(1, 2, 1)[..., None])


@pytest.mark.filterwarnings('ignore')              # torch's own, of its compiler
def test_compiling_is_alone_and_holds_for_all_processes(monkeypatch):
    """No process waits for one whose compiler fails. In the training the synchronised norms exchange their statistics,
    for which nothing is compiled anew."""
    compiled, exchanged = [], []

    def backend(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=backend))
    for name, value in dict(is_initialized=True, get_world_size=2, get_rank=0).items():
        monkeypatch.setattr(distributed.dist, name, lambda value=value: value)
    monkeypatch.setattr(distributed.dist, 'all_reduce', lambda x: exchanged.append(x.mul_(2)))      # the other is equal
    G = Normalising()
    loss = SimpleNamespace(device=torch.device('cpu'), terms=[], one_pass=False, G_synthesis=G, D=Network())
    compile_main_phases(loss, 4, pytest.fail)
    number = len(compiled)
    assert exchanged == [] and number > 0
    x = torch.randn([4, 1, 3])
    with torch.no_grad():
        torch.testing.assert_close(loss.main_synthesis(x), G(x))
    assert len(exchanged) == 4 and len(compiled) == number


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
