"""What CUDA graphs are made of in torch.cuda, on a CPU: a recording keeps the operators that torch dispatches, a replay
runs them again into the same memory, and nothing that is recorded changes anything."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {'_local_scalar_dense', 'is_nonzero', 'nonzero', 'masked_select', 'equal', 'unique_consecutive', '_unique2',
           'repeat_interleave'}


class NoWaiting(TorchDispatchMode):
    """Fails at operators by which the host reads what the device has computed: `.item()`, `if tensor`, x[mask], ..."""

    def __init__(self, error=AssertionError):
        super().__init__()
        self.error = error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = (name == 'index'
                   and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]))
        if name in WAITING or by_mask:
            raise self.error(f'{func} waits for the device')
        return func(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """In the place of torch.cuda.CUDAGraph. `spoil`: function that runs after each replay."""

    def __init__(self, cuda):
        super().__init__()
        self.cuda, self.calls, self.outside, self.made = cuda, [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(value):
                    self._note(tensor.untyped_storage())
        result = func(*args, **kwargs)
        tensors = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        aliases = [r.alias_info for r in func._schema.returns]
        if all(alias is None for alias in aliases):
            self.made.update(t.untyped_storage()._cdata for t in tensors)
        if all(alias is None or alias.is_write for alias in aliases):
            self.calls.append((func, args, kwargs, tensors))
        return result

    def _note(self, storage):
        """Memory from before the recording, which the recording does not change."""
        if storage._cdata not in self.made and storage._cdata not in self.outside:
            self.outside[storage._cdata] = storage, storage.clone()

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, tensors in self.calls:
                again = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, torch.Tensor)]
                for tensor, value in zip(tensors, again, strict=True):
                    if tensor is not value and tensor.numel() > 0:
                        tensor.copy_(value.reshape(tensor.shape))       # an in-place squeeze came after it
        self.cuda.replays += 1
        self.cuda.spoil()


class Cuda:
    """What tests set and see.

    Attributes:
        cause:   None, or what a recording fails with.
        at_end:  None, or what ending it fails with, upon which the stream is not left, as in `torch.cuda.graph`.
        spoil:   function that runs after each replay.
        recovers: whether torch can go on after a recording that was not ended.
        free:    bytes of memory.
        stream:  the current one.
    """

    def __init__(self):
        self.cause = self.at_end = None
        self.spoil, self.recovers, self.free = lambda: None, True, 2 ** 40
        self.stream, self.replays, self.ended_pools, self.emptied = 'main', 0, [], 0
        self._mode = 0, None

    def current_stream(self):
        return self.stream

    def set_stream(self, stream):
        self.stream = stream

    def get_sync_debug_mode(self):
        return self._mode[0]

    def set_sync_debug_mode(self, mode):
        if self._mode[1] is not None:
            self._mode[1].__exit__(None, None, None)
        self._mode = mode, NoWaiting(RuntimeError) if mode == 'error' else None
        if self._mode[1] is not None:
            self._mode[1].__enter__()

    def end_pool(self, _device, pool):
        self.ended_pools.append(pool)
        if not self.recovers:
            raise AttributeError('there is no such function')

    def empty_cache(self):
        self.emptied += 1

    def graph(self, tape, pool, capture_error_mode):
        assert (pool, capture_error_mode) == ('pool', 'thread_local')
        return Recording(self, tape)


class Recording:
    """In the place of torch.cuda.graph."""

    def __init__(self, cuda, tape):
        self.cuda, self.tape = cuda, tape

    def __enter__(self):
        self.cuda.stream, self.random_state = 'side', torch.get_rng_state()
        self.tape.__enter__()
        if self.cuda.cause is not None:
            self.tape.__exit__(None, None, None)
            self.tape = None

    def __exit__(self, *error):
        if self.tape is not None:
            self.tape.__exit__(*error)
            for storage, content in self.tape.outside.values():
                storage.copy_(content)
            torch.set_rng_state(self.random_state)
        if self.cuda.at_end is not None:
            raise self.cuda.at_end
        self.cuda.stream = 'main'


class Generator:
    """A device's generator, of which only the state's owner is looked at."""
    state = None

    def __init__(self, _device=None):
        pass

    def graphsafe_get_state(self):
        return self

    def graphsafe_set_state(self, state):
        self.state = state


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda as far as recording goes; what fails is set in it. -> `Cuda`."""
    made = Cuda()
    for name in ('current_stream', 'set_stream', 'get_sync_debug_mode', 'set_sync_debug_mode', 'empty_cache', 'graph'):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: Tape(made))
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: 'pool')
    monkeypatch.setattr(torch.cuda, 'get_rng_state', torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, 'set_rng_state', torch.set_rng_state)
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda: 3 * 2 ** 30)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda: 2 ** 30)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (made.free, 2 ** 40))
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'default_generators', (Generator(),))
    monkeypatch.setattr(torch, 'Generator', Generator)
    monkeypatch.setattr(torch._C, '_cuda_endAllocateToPool', made.end_pool, raising=False)
    rand = torch.rand
    monkeypatch.setattr(torch, 'rand', lambda *args, device=None,
                        **kwargs: rand(*args, device=None if device == 'cuda' else device, **kwargs))
    return made
