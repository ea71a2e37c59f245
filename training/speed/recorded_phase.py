"""A phase as a CUDA graph: recorded once, compared with the usual step, then replayed, so that the host need not launch
every kernel.

A graph sees new values only in its tensors, so everything that a term decides in Python is part of the key of its
graph.
"""

import warnings

import torch

from dnnlib.text import one_line
from torch_utils import training_stats
from torch_utils.devices import out_of_memory

WARM_UP = 3                 # usual runs before: libraries choose algorithms, statistics get their memory
TRIALS = 2                  # replays that must equal the usual step before they replace it
FLOOR = 0.1                 # relative to all: a small tensor need not be exact to as many digits of its own


class RecordedPhase:
    """Calls `function(*tensors)`, which adds to the gradients of `params`; from the sixth call of a key on as a CUDA
    graph.

    The fourth call records. In the fourth and fifth the replay comes first, then `function` from the same state, whose
    results count; a graph is only used if it gave the same. Gradients must be None before each call, and must have been
    used before another graph of the pool runs. If anything fails, `Recorder.fail` decides; unless it raises, `function`
    runs from then on.

    Args:
        function: of tensors on a GPU, without host synchronisation.
        params:   whose gradients it makes.
        key:      function without arguments: a hashable of all that `function` depends on except for its tensors and
                  the GPU's memory; None = it must not be recorded now.
        recorder: `Recorder`.
        name:     what messages call the phase.
    """

    def __init__(self, function, params, key, recorder, name):
        self.function, self.params, self.key, self.recorder, self.name = function, params, key, recorder, name
        self.calls, self.proven = {}, {}
        self.given_up = False

    def __call__(self, *tensors):
        key = None if self.given_up or self.recorder.off else self.key()
        if key is None:
            self.function(*tensors)
        elif self.proven.get(key, 0) >= TRIALS:
            self._replay(key, tensors)
        else:
            self._approach(key, tensors)

    def _approach(self, key, tensors):
        """The calls before a graph is trusted: their gradients always come from `function`."""
        self.calls[key] = count = self.calls.get(key, 0) + 1
        if count > WARM_UP and ((self.name, key) in self.recorder.graphs or self._record(key, tensors)):
            self._try(key, tensors)
        elif count != WARM_UP or not self._runs_without_waiting(tensors):
            self.function(*tensors)

    def _fail(self, why):
        self.given_up = True
        self.recorder.fail(self.name, why)

    # -- before

    def _runs_without_waiting(self, tensors):
        """Runs `function`. -> False, with everything as it was before, if it waits for the GPU: that would abort a
        recording in a way from which torch does not recover by itself."""
        before, mode = self._state(), torch.cuda.get_sync_debug_mode()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')         # torch warns that it does not notice all waiting
                torch.cuda.set_sync_debug_mode('error')
            self.function(*tensors)
        except RuntimeError as err:
            if out_of_memory(err):
                raise
            waits = err
        else:
            return True
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        self._restore(before)
        self._fail(f'cannot be recorded ({one_line(waits)})')
        return False

    def _record(self, key, tensors):
        """-> whether there is a graph now. If there is none, everything is as it was before."""
        if (shortage := self.recorder.lacks_memory()) is not None:
            self.recorder.stop(self.name, shortage)
            return False
        inputs = [tensor.clone() for tensor in tensors]
        graph, stream, random_state = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), torch.cuda.get_rng_state()
        try:
            # "thread_local": threads that pin images may go on
            with torch.cuda.graph(graph, pool=self.recorder.pool, capture_error_mode='thread_local'):
                self.function(*inputs)
        except (RuntimeError, ValueError) as err:           # torch's own errors, of CUDA, too
            self._clear_gradients()
            self._recording_failed(graph, stream, random_state, err)
            return False
        self.recorder.graphs[self.name, key] = graph, inputs, [param.grad for param in self.params]
        self._clear_gradients()
        return True

    def _recording_failed(self, graph, stream, random_state, err):
        """torch returns to `stream` only after it has ended a recording properly."""
        ended = torch.cuda.current_stream() == stream
        cause = err if ended else err.__context__ or err        # `err` may come from the attempt to end it
        why = f'cannot be recorded ({one_line(cause)})'
        if not ended:
            self.recorder.keep(graph)
            self.recorder.leave(self.name, why, stream, random_state)
        if out_of_memory(cause) and self.recorder.insist:
            raise cause                                         # the advice on memory is the caller's
        if out_of_memory(cause) or not ended:
            self.recorder.stop(self.name, why)
        else:
            self.recorder.keep(graph)
            self._fail(why)

    # -- the graph

    def _try(self, key, tensors):
        """Replays, and then runs `function` from the same state."""
        before = self._state()
        try:
            self._replay(key, tensors)
            replayed = self._results()
        except RuntimeError as err:
            replayed = None
            why = f'cannot be replayed ({one_line(err)})'
        self._restore(before)
        self.function(*tensors)
        if replayed is not None:
            error = difference(replayed, self._results())
            # A step that is left out because of infinite values cannot be compared
            if error is None:
                return
            why = f'differs by {error:.1e} when it is replayed, of which {self.recorder.tolerance:g} would be rounding'
        if replayed is None or error > self.recorder.tolerance:
            self.recorder.keep(self.recorder.graphs.pop((self.name, key))[0])
            self._fail(why)
        else:
            self.proven[key] = self.proven.get(key, 0) + 1

    def _replay(self, key, tensors):
        graph, inputs, grads = self.recorder.graphs[self.name, key]
        torch._foreach_copy_(inputs, list(tensors))
        graph.replay()
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad                               # the memory that the graph writes to

    def _results(self):
        """Copies of the gradients, and of everything else that a phase changes."""
        copy = lambda tensor: None if tensor is None else tensor.detach().clone()
        return [copy(param.grad) for param in self.params], [copy(t) for t in self.recorder.state()
                                                             if t.is_floating_point()]

    # -- what is put back

    def _state(self):
        tensors = [*self.recorder.state(), *training_stats.accumulators()]
        return [(tensor, tensor.clone()) for tensor in tensors], torch.cuda.get_rng_state()

    def _restore(self, state):
        copies, random_state = state
        with torch.no_grad():
            for tensor, value in copies:
                tensor.copy_(value)
        torch.cuda.set_rng_state(random_state)
        self._clear_gradients()

    def _clear_gradients(self):
        for param in self.params:
            param.grad = None


def difference(results, expected):
    """How much two results of `RecordedPhase._results` differ; None where `expected` is not finite, infinite where a
    gradient is missing.

    The largest norm of a difference, relative to that of the tensor; at least relative to `FLOOR` times the norm of all
    gradients, and for other tensors to `FLOOR` for each number.
    """
    norm = lambda tensor: tensor.double().norm()
    largest = []
    for got, want, of_gradients in zip(results, expected, (True, False), strict=True):
        if [g is None for g in got] != [w is None for w in want]:
            return float('inf')
        pairs = [(g, w) for g, w in zip(got, want, strict=True) if w is not None]
        if not pairs:
            continue
        norms, errors = torch.stack([norm(w) for _, w in pairs]), torch.stack([norm(g - w) for g, w in pairs])
        if not norms.isfinite().all():
            return None
        floor = norms.norm() if of_gradients else norms.new_tensor([w.numel() for _, w in pairs]).sqrt()
        relative = errors / torch.maximum(norms, FLOOR * floor).clamp(min=torch.finfo(norms.dtype).tiny)
        largest.append(relative.nan_to_num(nan=float('inf')).max().item())
    return max(largest, default=0.0)
