"""Kernels from source: compiler, cache of built libraries, NVRTC and the CUDA driver."""
