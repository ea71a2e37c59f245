"""Number formats of the networks, and small helpers for modules."""

import math
from typing import NamedTuple

import torch


HALF_DTYPES = dict(float16=torch.float16, bfloat16=torch.bfloat16)


class ComputeFormat(NamedTuple):
    """The dtype and memory format in which a block of a network works."""
    dtype: torch.dtype
    layout: torch.memory_format

    @classmethod
    def of(cls, half, half_dtype, channels_last):
        """half: whether in half precision; half_dtype: 'float16' or 'bfloat16'."""
        if half_dtype not in HALF_DTYPES:
            raise ValueError(f'half_dtype is {half_dtype!r}, it must be one of {", ".join(HALF_DTYPES)}')
        return cls(HALF_DTYPES[half_dtype] if half else torch.float32, torch.channels_last if channels_last else torch.contiguous_format)

    def cast(self, x, force_fp32=False):
        """[N, C, H, W] -> the same values in this format."""
        return x.to(dtype=torch.float32 if force_fp32 else self.dtype, memory_format=self.layout)


def block_resolutions(img_resolution):
    """[4, 8, ..., img_resolution]. Raises ValueError unless it is a power of two of at least 4."""
    log2 = int(math.log2(max(img_resolution, 1)))
    if img_resolution < 4 or 2 ** log2 != img_resolution:
        raise ValueError(f'the resolution is {img_resolution}, it must be a power of two of at least 4')
    return [2 ** i for i in range(2, log2 + 1)]


def half_resolutions(img_resolution, num_fp16_res):
    """The set of the `num_fp16_res` highest block resolutions, never with 4: small maps need the precision and gain no speed."""
    return {res for res in block_resolutions(img_resolution)[1:] if res * 2 ** num_fp16_res > img_resolution}
