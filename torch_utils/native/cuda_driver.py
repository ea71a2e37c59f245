"""The functions of the CUDA driver that load and launch compiled kernels, through ctypes.

The driver's library comes with the GPU's driver, so nothing has to be installed. No function here allocates memory of
the GPU or waits for it: launches may be recorded into a CUDA graph.
"""

import ctypes
import sys
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p

LIBRARY = 'nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1'
PROTOTYPES = {                          # function -> its arguments; all give a CUresult, 0 if all went well
    'cuInit': [c_uint],
    'cuDeviceGet': [POINTER(c_int), c_int],
    'cuDevicePrimaryCtxRetain': [POINTER(c_void_p), c_int],
    'cuCtxSetCurrent': [c_void_p],
    'cuModuleLoadData': [POINTER(c_void_p), c_char_p],
    'cuModuleGetFunction': [POINTER(c_void_p), c_void_p, c_char_p],
    'cuOccupancyMaxActiveBlocksPerMultiprocessor': [POINTER(c_int), c_void_p, c_int, c_size_t],
    'cuLaunchKernel': [c_void_p, *[c_uint] * 6, c_uint, c_void_p, POINTER(c_void_p), POINTER(c_void_p)],
    'cuGetErrorString': [c_int, POINTER(c_char_p)],
}


class DriverError(RuntimeError):
    """A function of the driver failed."""


class Driver:
    """The driver. Every call is for the device that `use` has named last, in its thread.

    Args:
        library: with the functions of `PROTOTYPES`; None = that of this machine.
    Raises:      DriverError, here and everywhere, with the function and the driver's words.
    """

    def __init__(self, library=None):
        self.library = _open() if library is None else library
        self.contexts = {}
        self._call('cuInit', 0)

    def use(self, index):
        """Makes the context that torch has on GPU `index` the current one: a thread that has not called CUDA yet has
        none."""
        if index not in self.contexts:
            device, context = c_int(), c_void_p()
            self._call('cuDeviceGet', ctypes.byref(device), index)
            self._call('cuDevicePrimaryCtxRetain', ctypes.byref(context), device)
            self.contexts[index] = context
        self._call('cuCtxSetCurrent', self.contexts[index])

    def load(self, image):
        """The module made of a cubin, or of PTX that ends in a zero byte."""
        module = c_void_p()
        self._call('cuModuleLoadData', ctypes.byref(module), image)
        return module

    def function(self, module, name):
        """A kernel by its name in the object file."""
        function = c_void_p()
        self._call('cuModuleGetFunction', ctypes.byref(function), module, name.encode())
        return function

    def blocks_per_multiprocessor(self, function, threads):
        """How many blocks of a kernel without dynamic shared memory a multiprocessor runs at once."""
        count = c_int()
        self._call('cuOccupancyMaxActiveBlocksPerMultiprocessor', ctypes.byref(count), function, threads, 0)
        return count.value

    def launch(self, function, blocks, threads, shared_bytes, stream, params):
        """Puts a kernel into a stream (a number as torch has it); `params`, its one argument, is copied."""
        arguments = (c_void_p * 1)(ctypes.addressof(params))
        self._call('cuLaunchKernel', function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, arguments, None)

    def _call(self, name, *args):
        code = getattr(self.library, name)(*args)
        if code != 0:
            raise DriverError(f'{name}: {self._words(code)} (CUDA error {code})')

    def _words(self, code):
        text = c_char_p()
        self.library.cuGetErrorString(code, ctypes.byref(text))
        return (text.value or b'unknown error').decode()


def _open():
    try:
        library = ctypes.CDLL(LIBRARY) if sys.platform != 'win32' else ctypes.WinDLL(LIBRARY)
        for name, arguments in PROTOTYPES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
    except (OSError, AttributeError) as err:
        raise DriverError(f'the NVIDIA driver cannot be used: {err}') from None
    return library
