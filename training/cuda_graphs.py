"""--cuda-graphs: the main phases recorded once as CUDA graphs and replayed, which spares the host the launching of every kernel.

A recorded phase sees new numbers only through its tensors: what a term decides in Python is part of the key that a graph is kept under.
"""

import torch

WARM_UP = 3                 # runs as usual before recording: libraries choose algorithms, statistics get their memory


class RecordedPhase:
    """Calls `function(*tensors)`, which adds to the gradients of `params`; from the fourth call of a key on as a CUDA graph.

    Gradients must be None before each call. Where recording fails it says so, and calls `function` from then on.

    Args:
        function: of tensors on a GPU, without host synchronisation.
        params:   whose gradients it makes.
        key:      function without arguments: a hashable of all that `function` depends on but for its tensors and the GPU's memory;
                  None = it must not be recorded now.
        tell:     function of a line of text; `name` is what it calls the phase.
    """

    def __init__(self, function, params, key, tell, name):
        self.function, self.params, self.key, self.tell, self.name = function, params, key, tell, name
        self.calls, self.graphs = {}, {}
        self.failed = False

    def __call__(self, *tensors):
        key = None if self.failed else self.key()
        if key is not None and key not in self.graphs:
            self.calls[key] = self.calls.get(key, 0) + 1
            if self.calls[key] > WARM_UP:
                self._record(key, tensors)
        if self.failed or key not in self.graphs:
            self.function(*tensors)
        else:
            self._replay(*self.graphs[key], tensors)

    def _record(self, key, tensors):
        inputs = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode='thread_local'):       # the threads that pin images are not recorded
                self.function(*inputs)
        except (RuntimeError, ValueError) as err:           # torch's own errors, of CUDA, too
            torch.cuda.synchronize()
            self._clear_gradients()
            self.failed = True
            self.tell(f'--cuda-graphs: {self.name} cannot be recorded ({" ".join(str(err).split())[:200]}); it runs as usual.')
        else:
            self.graphs[key] = graph, inputs, [param.grad for param in self.params]
            self._clear_gradients()

    def _replay(self, graph, inputs, grads, tensors):
        torch._foreach_copy_(inputs, list(tensors))
        graph.replay()
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad                               # the memory that the graph writes to

    def _clear_gradients(self):
        for param in self.params:
            param.grad = None
