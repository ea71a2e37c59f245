"""Checks that an exported file gives the same images as the generator."""

import torch

from dnnlib import UserError

from .export_function import network_images

TOLERANCE = 1e-3                                            # an eighth of a grey level of 8 bits, which is 2 / 255
CASES = [(1, 1.0), (2, 0.7), (5, 1.0), (3, 0.0), (4, -0.5)]       # images at a time, truncation psi


@torch.no_grad()
def largest_difference(function, export):
    """Compares `function(**inputs)`, read back from a file, with the generator itself on random latents, every class in
    turn.

    Returns: (number of images, largest difference of a pixel).
    Raises:  UserError if they differ by more than TOLERANCE of the images' largest value, which is about 1.
    """
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for n, psi in CASES:
        inputs = export.inputs(n, psi, rng)
        got, want = function(**inputs), network_images(export.G, inputs, export.noise_mode)
        if got.shape != want.shape or got.dtype != want.dtype:
            raise UserError(f'--format={export.format}: gives {got.dtype} {list(got.shape)}, the network {want.dtype} '
                            f'{list(want.shape)}')
        difference = (got - want).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, want.abs().max().item()):         # NaN is a mismatch, too
            raise UserError(f'--format={export.format}: the file does not give the images of the network (they differ '
                            f'by {difference:.2g} for {n} images, truncation {psi:g}); nothing was saved')
        worst = max(worst, difference)
    return sum(n for n, _ in CASES), worst
