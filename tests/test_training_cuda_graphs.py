"""Recorded phases of the training, on a stand-in for a GPU."""

import functools

import pytest
import torch
from cuda_standin import cuda  # noqa: F401  (a fixture)
from graph_runs import EVERYTHING, recorded
from small_runs import KD, make_config, make_run

from dnnlib import UserError
from torch_utils import training_stats
from training.augment import pipe as augment
from training.augment import resample as augment_resample
from training.speed.cuda_graphs import Recorder
from training.speed.recorded_phase import TRIALS, WARM_UP, RecordedPhase


def steps_of(config, run_dir, count):
    """-> (training, its weights and all that a phase changes, statistics) after `count` iterations."""
    training_stats._moments.clear()
    training = make_run(config, run_dir).training
    training.speed_up(print)
    for _ in range(count):
        training.step()
    tensors = [*training.G.parameters(), *training.D.parameters(), *training.G_ema.parameters(),
               *training.loss.tensors()]
    stats = {name: moments[torch.device('cpu')].clone() for name, moments in training_stats._moments.items()}
    return training, [t.detach().clone() for t in tensors], stats


EVERY_PHASE = dict(G_reg_interval=1, D_reg_interval=1)


@pytest.mark.parametrize('args, changes', [
    (['--cfg=auto', '--aug=fixed', '--p=0.5', '--batch=4'], EVERY_PHASE),
    (['--cfg=low-shot', '--aug=diffaug', '--batch=4', '--lecam=0.3', *KD, '--kd-p=1', '--kd-share=0.2',
      '--kd-adapt=0.6'], {}),
    (['--cfg=auto', '--aug=noaug', '--chain', '--batch-gpu=4'], EVERY_PHASE)])
def test_training_with_graphs_is_the_usual_training(args, changes, tiny_data, tmp_path, capsys, monkeypatch, request):
    """Bit for bit, all phases recorded, their regularisations as well; and the statistics count every step once."""
    # As on a GPU
    monkeypatch.setattr(augment, 'warp', functools.partial(augment_resample.warp, read_margins=False))
    config = make_config(tiny_data, '--batch=8', '--fp32=1', *args, **changes)
    _, usual, usual_stats = steps_of(config, tmp_path / 'usual', EVERYTHING + 1)
    standin = request.getfixturevalue('cuda')
    config.cuda_graphs = True
    training, tensors, stats = steps_of(config, tmp_path / 'graphs', EVERYTHING + 1)
    phases = recorded(training)
    assert set(phases) == {phase.name for phase in training.phases} and '--cuda-graphs' not in capsys.readouterr().out
    assert (all(TRIALS in phase.proven.values() for phase in phases.values())
            and standin.replays == (TRIALS + 2) * len(phases))
    for got, want in zip(tensors, usual, strict=True):
        assert torch.equal(got, want)
    assert stats.keys() == usual_stats.keys() and all(torch.equal(stats[name], usual_stats[name]) for name in stats)


class Toy:
    """A phase of one parameter and one buffer, recorded by the stand-in."""

    def __init__(self, insist=False, name='Gmain'):
        self.weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
        self.mean, self.told, self.ran = torch.zeros([]), [], 0
        self.inside = lambda: None                      # what the function does in addition
        self.key = lambda: 'a'
        self.recorder = Recorder(lambda: [self.mean], insist, 1e-3, self.told.append)
        self.phase = RecordedPhase(self.function, [self.weight], lambda: self.key(), self.recorder, name)

    def function(self, x):
        self.ran += 1
        self.inside()
        (self.weight * x * torch.rand([])).sum().backward()
        self.mean.add_(x.mean())

    def run(self, count=EVERYTHING + 2):
        """Calls it with 1, 2, ...; the gradients and the buffer must be right each time."""
        for step in range(1, count + 1):
            self.weight.grad = None
            torch.manual_seed(step)
            before = self.mean.item()
            self.phase(torch.full([2], float(step)))
            torch.manual_seed(step)
            assert torch.equal(self.weight.grad, torch.full([2], float(step)) * torch.rand([]))
            assert self.mean.item() == before + step
        return self


def test_the_usual_step_runs_until_two_replays_were_equal(cuda):  # noqa: F811
    toy = Toy().run()
    assert toy.told == [] and toy.phase.proven == {'a': TRIALS}
    assert (toy.ran, cuda.replays) == (WARM_UP + 1 + TRIALS, TRIALS + 3)        # the recording calls the function, too
    toy.key = lambda: 'b'
    toy.run(WARM_UP)
    toy.key = lambda: None
    toy.run(EVERYTHING)
    assert set(toy.recorder.graphs) == {('Gmain', 'a')} and cuda.replays == TRIALS + 3
    toy.key = lambda: 'a'
    toy.run(2)
    assert cuda.replays == TRIALS + 5


def wrong_gradient(toy):
    toy.weight.grad[1] *= 1.01


def wrong_buffer(toy):
    toy.mean += 0.1


@pytest.mark.parametrize('spoil', [wrong_gradient, wrong_buffer])
@pytest.mark.parametrize('at', [1, 2])
def test_a_graph_that_gives_something_else_is_not_used(spoil, at, cuda, monkeypatch):  # noqa: F811
    toy = Toy()
    grads = []
    monkeypatch.setattr(RecordedPhase, '_replay', lambda self, *args, run=RecordedPhase._replay: (
        run(self, *args), grads.append(1), len(grads) == at and spoil(toy)))
    toy.run()
    line, = toy.told
    assert (line.startswith('--cuda-graphs: Gmain differs by ')
            and line.endswith('of which 0.001 would be rounding; it runs as usual.'))
    assert cuda.replays == at and toy.phase.proven.get('a', 0) == at - 1
    grads.clear()
    with pytest.raises(UserError, match='--cuda-graphs=1: Gmain differs by .*; use --cuda-graphs=auto, with which the '
                                        'same command'):
        toy = Toy(insist=True)
        toy.run()


def test_what_is_drawn_in_python_is_found_in_the_second_replay(cuda):  # noqa: F811
    toy, factor = Toy(), iter([1.0] * (WARM_UP + 2) + [2.0] * 9)
    toy.function = lambda x, plain=toy.function: plain(x * next(factor))
    toy.phase.function = toy.function
    with pytest.raises(AssertionError):                 # of the toy's gradients, in the call in which the factor is 2
        toy.run()
    assert 'differs by 5.0e-01 when it is replayed' in toy.told[0] and toy.phase.given_up


def test_a_step_with_something_infinite_proves_nothing(cuda):  # noqa: F811
    toy = Toy()
    for step in range(EVERYTHING + 3):
        toy.weight.grad = None
        toy.phase(torch.tensor([1.0, float('inf') if step < EVERYTHING else 1.0]))
        assert toy.phase.proven.get('a', 0) == max(min(step - EVERYTHING + 1, TRIALS), 0)
        toy.mean.zero_()
    assert toy.told == []


def test_a_phase_that_waits_is_found_before_it_is_recorded(cuda):  # noqa: F811
    toy = Toy()
    toy.inside = lambda: toy.weight.sum().item()
    toy.run()
    assert toy.told == ['--cuda-graphs: Gmain cannot be recorded (aten._local_scalar_dense.default waits for the '
                        'device); it runs as usual.']
    assert cuda.get_sync_debug_mode() == 0 and toy.recorder.graphs == {} and not toy.recorder.off
    with pytest.raises(UserError, match='--cuda-graphs=1: Gmain cannot be recorded .*waits for the device'):
        toy = Toy(insist=True)
        toy.inside = lambda: toy.weight.sum().item()
        toy.run()
    assert cuda.get_sync_debug_mode() == 0


def fails_while_recording(cuda, toy, cause, at_end=None):  # noqa: F811
    """As if something in the function could not be recorded."""
    def inside():
        if cuda.stream == 'side':
            raise cause
    cuda.cause, cuda.at_end, toy.inside = cause, at_end, inside
    return toy


def test_a_recording_that_fails_and_ends_leaves_out_its_phase(cuda):  # noqa: F811
    toy = fails_while_recording(cuda, Toy(), RuntimeError('Cannot copy\nto the CPU')).run()
    assert toy.told == ['--cuda-graphs: Gmain cannot be recorded (Cannot copy to the CPU); it runs as usual.']
    assert not toy.recorder.off and cuda.stream == 'main' and toy.ran == EVERYTHING + 3


NOT_ENDED = RuntimeError('operation failed due to a previous error during capture')


def test_after_a_recording_that_does_not_end_everything_runs_as_usual(cuda):  # noqa: F811
    """What the user reads is why, not that it could not be ended. torch's books are put in order: stream, memory,
    random numbers."""
    other = Toy(name='Dmain').run()
    toy = Toy()
    toy.recorder = toy.phase.recorder = other.recorder
    toy.recorder.tell = toy.told.append
    toy.recorder.state = lambda: [toy.mean, other.mean]
    fails_while_recording(cuda, toy, RuntimeError('operation not permitted when stream is capturing'), NOT_ENDED).run()
    assert toy.told == ['--cuda-graphs: Gmain cannot be recorded (operation not permitted when stream is capturing); '
                        'all phases run as usual.']
    assert cuda.stream == 'main' and cuda.ended_pools == ['pool'] and torch.cuda.default_generators[0].state is not None
    assert toy.recorder.off and toy.recorder.graphs == {} and cuda.emptied == 1
    replays = cuda.replays
    other.run()
    assert cuda.replays == replays


def test_where_torch_cannot_go_on_the_run_ends_with_the_reason(cuda):  # noqa: F811
    cuda.recovers = False
    with pytest.raises(UserError) as caught:
        fails_while_recording(cuda, Toy(), RuntimeError('not permitted'), NOT_ENDED).run()
    assert str(caught.value) == ('--cuda-graphs: Gmain cannot be recorded (not permitted), after which torch cannot go '
                                 'on; give the same command with --cuda-graphs=0, which continues the run if it has a '
                                 'state')
    assert cuda.stream == 'main'


def test_who_insists_gets_an_error_with_the_remedy(cuda):  # noqa: F811
    for at_end in (None, NOT_ENDED):
        with pytest.raises(UserError) as caught:
            fails_while_recording(cuda, Toy(insist=True), RuntimeError('not permitted'), at_end).run()
        assert str(caught.value) == ('--cuda-graphs=1: Gmain cannot be recorded (not permitted); use '
                                     '--cuda-graphs=auto, with which the same command continues the run')
        assert cuda.stream == 'main'


def test_out_of_memory_while_recording(cuda):  # noqa: F811
    """It frees what the graphs hold; who insists gets the advice on memory, which needs the error itself."""
    error = torch.OutOfMemoryError('CUDA out of memory.')
    toy = fails_while_recording(cuda, Toy(), error).run()
    assert (toy.told == ['--cuda-graphs: Gmain cannot be recorded (CUDA out of memory.); all phases run as usual.']
            and toy.recorder.off)
    with pytest.raises(torch.OutOfMemoryError):
        fails_while_recording(cuda, Toy(insist=True), error).run()


def test_nothing_is_recorded_where_it_does_not_fit_beside_the_usual_step(cuda):  # noqa: F811
    cuda.free = 2 ** 30
    toy = Toy().run()
    assert toy.told == ['--cuda-graphs: Gmain would need up to 2.0 GiB more, and 1.0 GiB are free; all phases run '
                        'as usual.']
    assert cuda.replays == 0 and Toy(insist=True).run().phase.proven == {'a': TRIALS}
