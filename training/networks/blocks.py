"""Resolutions, number formats and memory formats of the networks' blocks."""

import math

import torch

from torch_utils import persistence

HALF_DTYPES = dict(float16=torch.float16, bfloat16=torch.bfloat16)
FLOAT32_CHANNELS_LAST = True    # on a CPU it is faster in any precision; StyleGAN2-ADA has it in half precision only


class Block(torch.nn.Module):
    """A part of a network with its own number format and memory format: plain attributes, which tools read and
    change."""

    def __init__(self, use_fp16, half_dtype, channels_last):
        super().__init__()
        if half_dtype not in HALF_DTYPES:
            raise ValueError(f'half_dtype is {half_dtype!r}, it must be one of {", ".join(HALF_DTYPES)}')
        self.use_fp16 = use_fp16                # in half precision
        self.half_dtype = half_dtype
        self.channels_last = channels_last and (use_fp16 or FLOAT32_CHANNELS_LAST)

    def cast(self, x, force_fp32):
        """[N, C, H, W] -> the same values in the formats of this block."""
        dtype = HALF_DTYPES[self.half_dtype] if self.use_fp16 and not force_fp32 else torch.float32
        # A GPU convolves float32 in channels_last several times slower than in the contiguous format.
        last = self.channels_last and (dtype != torch.float32 or x.device.type == 'cpu')
        return x.to(dtype=dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def block_resolutions(img_resolution):
    """[4, 8, ..., img_resolution]. Raises ValueError unless it is a power of two of at least 4."""
    log2 = int(math.log2(max(img_resolution, 1)))
    if img_resolution < 4 or 2 ** log2 != img_resolution:
        raise ValueError(f'the resolution is {img_resolution}, it must be a power of two of at least 4')
    return [2 ** i for i in range(2, log2 + 1)]


def half_resolutions(img_resolution, num_fp16_res):
    """The set of the `num_fp16_res` highest block resolutions, never with 4: small maps need the precision and gain no
    speed."""
    return {res for res in block_resolutions(img_resolution)[1:] if res * 2 ** num_fp16_res > img_resolution}


@persistence.persistent_class
class NotIncluded(torch.nn.Module):
    """Stands in a pickle for a network that the snapshot does not have: other tools expect a module under each name."""
