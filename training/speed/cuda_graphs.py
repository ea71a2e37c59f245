"""--cuda-graphs: the main phases recorded once as CUDA graphs and replayed, which spares the host the launching of every kernel.

A recorded phase sees new numbers only through its tensors: what a term decides in Python is part of the key that a graph is kept under.
All graphs share one memory pool: they run one after the other, and what a phase leaves behind, its gradients, is used up before the next.
"""

import functools

import torch

from dnnlib import UserError
from torch_utils import misc

WARM_UP = 3                 # runs as usual before recording: libraries choose algorithms, statistics get their memory


def record_phases(accumulate, phases, loss, tell):
    """Has the main phases recorded from their fourth call on. Says which are not, as far as it is known before: one with a regularisation
    in it, one with a term that decides in Python.

    Args:
        accumulate: {name of a phase: function of tensors that makes its gradients}; those recorded are replaced.
        phases:     list of `Phase`.
        loss:       `StyleGAN2Loss`, before its first step.
        tell:       function of a line of text.
    """
    pool = torch.cuda.graph_pool_handle()
    for phase in phases:
        name = phase.name
        if name.endswith('reg'):
            continue
        deciding = [term for term in loss.terms if loss.terms[term].recording_key(name) is None]
        if loss.regularises(name) or deciding:
            tell(f'--cuda-graphs: {name} runs as usual; it is not recorded with {", ".join(deciding) or "the regularisation that is part of it"}.')
        else:
            key = functools.partial(loss.recording_key, name)
            accumulate[name] = RecordedPhase(accumulate[name], phase.params, key, pool, tell, name)


class RecordedPhase:
    """Calls `function(*tensors)`, which adds to the gradients of `params`; from the fourth call of a key on as a CUDA graph.

    Gradients must be None before each call, and must have been used before another graph of the same pool runs. Where a recording fails
    and ends as it should, it says so, and calls `function` from then on; one that does not even end raises UserError.

    Args:
        function: of tensors on a GPU, without host synchronisation.
        params:   whose gradients it makes.
        key:      function without arguments: a hashable of all that `function` depends on but for its tensors and the GPU's memory;
                  None = it must not be recorded now.
        pool:     of `torch.cuda.graph_pool_handle()`.
        tell:     function of a line of text; `name` is what it calls the phase.
    """

    def __init__(self, function, params, key, pool, tell, name):
        self.function, self.params, self.key, self.pool, self.tell, self.name = function, params, key, pool, tell, name
        self.calls, self.graphs = {}, {}
        self.failed_graph = None

    def __call__(self, *tensors):
        key = None if self.failed_graph is not None else self.key()
        if key is not None and key not in self.graphs:
            self.calls[key] = self.calls.get(key, 0) + 1
            if self.calls[key] > WARM_UP:
                self._record(key, tensors)
        if self.failed_graph is not None or key not in self.graphs:
            self.function(*tensors)
        else:
            self._replay(*self.graphs[key], tensors)

    def _record(self, key, tensors):
        inputs = [tensor.clone() for tensor in tensors]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode='thread_local'):    # the threads that pin images are not recorded
                self.function(*inputs)
        except (RuntimeError, ValueError) as err:           # torch's own errors, of CUDA, too
            self._clear_gradients()
            self._give_up(graph, stream, err)
        else:
            self.graphs[key] = graph, inputs, [param.grad for param in self.params]
            self._clear_gradients()

    def _give_up(self, graph, stream, err):
        """After a failed recording. torch goes back to `stream` only once it has ended one as it should.

        Else its random generator and its allocator may go on recording, and whatever ran next would fail.
        """
        if torch.cuda.current_stream() != stream:
            torch.cuda.set_stream(stream)
            cause = err.__context__ or err                  # `err` may be that of the attempt to end it
            remedy = 'use a smaller --batch-gpu, or leave it out' if misc.out_of_memory(cause) else 'leave it out'
            raise UserError(f'--cuda-graphs=1: {self.name} cannot be recorded ({misc.one_line(cause)}); {remedy}, '
                            'with --fork-from=RUN if the run has a state') from err
        if misc.out_of_memory(err):
            raise err
        self.failed_graph = graph                                 # kept, for the pool may not fall out of use while others want to share it
        self.tell(f'--cuda-graphs: {self.name} cannot be recorded ({misc.one_line(err)}); it runs as usual.')

    def _replay(self, graph, inputs, grads, tensors):
        torch._foreach_copy_(inputs, list(tensors))
        graph.replay()
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad                               # the memory that the graph writes to

    def _clear_gradients(self):
        for param in self.params:
            param.grad = None
