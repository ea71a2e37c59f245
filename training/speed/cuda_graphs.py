"""--cuda-graphs: which phases are recorded as CUDA graphs; the others run as usual.

All graphs share one memory pool: they run one after the other, and what a phase leaves behind, its gradients, is
used up before the next.
"""

import contextlib
import functools

import torch

from dnnlib import UserError
from torch_utils import distributed

from .recorded_phase import RecordedPhase

# Half precision -> the largest `difference` that the order of atomic additions explains
TOLERANCE = {False: 1e-3, True: 1e-2}


def record_phases(accumulate, phases, loss, insist, half, tell):
    """Makes all phases be recorded from their fourth call on. Prints which phases are known not to be.

    Args:
        accumulate: {name of a phase: function of tensors that makes its gradients}; those recorded are replaced.
        phases:     list of `Phase`.
        loss:       `StyleGAN2Loss`, before its first step.
        insist:     a phase that cannot be recorded is an error (--cuda-graphs=1).
        half:       networks compute in half precision.
        tell:       function of a line of text.
    Raises:         UserError where the caller insists on what a method does not allow.
    """
    recorder = Recorder(loss.tensors, insist, TOLERANCE[half], tell)
    usual = {}                              # why -> phases that run as usual
    for phase in phases:
        name = phase.name
        if not loss.makes_gradients(name):
            continue
        deciding = [term for term, acting in loss.acting_terms(name).items() if acting.recording_key(name) is None]
        if deciding:
            usual.setdefault(f'{", ".join(deciding)} decide in Python', []).append(name)
        elif loss.exchanges(name) and distributed.get_world_size() > 1:
            usual.setdefault('the processes exchange numbers in the midst of it', []).append(name)
        else:
            key = functools.partial(loss.recording_key, name)
            accumulate[name] = RecordedPhase(accumulate[name], phase.params, key, recorder, name)
    for why, names in usual.items():
        if insist:
            raise UserError(f'--cuda-graphs=1: {", ".join(names)} cannot be recorded: {why}; use --cuda-graphs=auto, '
                            'which records the others')
        tell(f'--cuda-graphs: not recorded: {", ".join(names)}; {why}.')


class Recorder:
    """What the recorded phases of a run share.

    Args:
        state: function without arguments: the tensors that phases change besides gradients and statistics.
        insist:    a failure raises UserError; else it is printed, and the phase runs as usual.
        tolerance: up to what difference a replay counts as equal to what it replaces.
        tell:      function of a line of text.
    Attributes:
        pool:      memory of all graphs.
        graphs:    {(phase, key): what is recorded}.
        off: recording and replaying are over.
    """

    def __init__(self, state, insist, tolerance, tell):
        self.state, self.insist, self.tolerance, self.tell = state, insist, tolerance, tell
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs, self.off, self._failed = {}, False, []

    def fail(self, name, why, remedy='use --cuda-graphs=auto'):
        """Reports that a phase cannot be recorded; the caller runs it as usual. Raises UserError if the user
        insists."""
        if self.insist:
            raise UserError(f'--cuda-graphs=1: {name} {why}; {remedy}, with which the same command continues the run')
        self.tell(f'--cuda-graphs: {name} {why}; it runs as usual.')

    def stop(self, name, why):
        """Ends all recording because of one phase, and frees the memory of all graphs. Raises as `fail`."""
        self.off = True
        self.graphs.clear()
        torch.cuda.empty_cache()
        if self.insist:
            self.fail(name, why)
        self.tell(f'--cuda-graphs: {name} {why}; all phases run as usual.')

    def keep(self, graph):
        """Keeps a graph whose recording failed, so that the shared pool stays in use while others need it."""
        self._failed.append(graph)

    def lacks_memory(self):
        """Before the first recording, when all phases have run as usual: why the graphs would not fit into memory as
        well; None = they fit. The pool takes at most what the phases took in turn, and the usual step keeps that.
        """
        needed = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        free, _total = torch.cuda.mem_get_info()
        if self.insist or self.graphs or needed <= free:
            return None
        return f'would need up to {needed / 2 ** 30:.1f} GiB more, and {free / 2 ** 30:.1f} GiB are free'

    def leave(self, name, why, stream, random_state):
        """After a recording that could not be ended: for torch it is still under way.

        Goes back to `stream`, has the allocator leave the pool, gives the device's generator a state that no graph
        knows, with the numbers of `random_state`, and tries whether drawing, allocating and waiting work. Earlier
        graphs cannot be used any more. Raises UserError if one of these fails, or this version of torch has no way to
        do it.
        """
        torch.cuda.set_stream(stream)
        device = torch.cuda.current_device()
        try:
            # Until torch 2.7
            end = getattr(torch._C, '_cuda_endAllocateToPool', None) or torch._C._cuda_endAllocateCurrentStreamToPool
            with contextlib.suppress(RuntimeError):         # if the recording had been ended that far
                end(device, self.pool)
            torch.cuda.default_generators[device].graphsafe_set_state(torch.Generator('cuda').graphsafe_get_state())
            torch.cuda.set_rng_state(random_state)
            torch.rand([1024], device='cuda').sum().item()
            torch.cuda.set_rng_state(random_state)
        except (RuntimeError, AttributeError) as err:
            raise UserError(f'--cuda-graphs: {name} {why}, after which torch cannot go on; give the same command with '
                            '--cuda-graphs=0, which continues the run if it has a state') from err
