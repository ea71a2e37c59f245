"""Intermediate features of a frozen teacher: maps from within its image encoder, and the embedding at its end."""

import contextlib
import math

import torch

from .. import gradient_scale


class FeatureLevels:
    """Features of a teacher at a third and at two thirds of its depth and at the end, e.g. of blocks 4, 8 and 12 of a
    ViT-B.

    Depth counts the blocks of the longest row of blocks of one class within the image encoder, found by running it
    once. A teacher without a row of at least three gives its embedding only.

    Args:
        encode: method of the teacher by which it sees images, [N, 1 or 3, H, H] in [-1, 1] -> [N, dim];
                None = `encode_image`.
    Attributes:
        channels: of every map, and the width of the embedding last.
        sides:    of every map.
    """

    def __init__(self, teacher, encode=None):
        self.teacher, self.encode = teacher, encode or teacher.encode_image
        blocks = self._blocks()
        self.blocks = [blocks[len(blocks) * part // 3 - 1] for part in (1, 2)] if blocks else []
        outputs, embedding = self._run(self.blocks, self._one_image())
        # OpenAI's transformers put the tokens first
        self.batch_dim = 0 if all(x.shape[0] == 1 for x in outputs) else 1
        maps = [as_map(x, self.batch_dim) for x in outputs]
        self.channels, self.sides = [*[x.shape[1] for x in maps], embedding.shape[1]], [x.shape[3] for x in maps]

    def __call__(self, img):
        """img as `encode` takes it -> [[N, C, h, w], [N, C, h, w], [N, dim]], float32, differentiable."""
        maps, embedding = self._run(self.blocks, img)
        return [*[as_map(x, self.batch_dim) for x in maps], embedding]

    def _run(self, modules, img):
        """-> outputs of the modules in the order given (None where one did not run), embedding."""
        seen = {}
        with contextlib.ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(lambda m, _args, out: seen.update({m: out})).remove)
            embedding = self.encode(img)
        first = lambda out: out[0] if isinstance(out, tuple) else out
        return [first(seen.get(module)) for module in modules], embedding

    def _blocks(self):
        containers = [m for m in self.teacher.encoder.modules()
                      if isinstance(m, (torch.nn.ModuleList, torch.nn.Sequential))]
        rows = sorted((list(m) for m in containers if len(m) >= 3 and len({type(block) for block in m}) == 1), key=len,
                      reverse=True)
        for row in rows:
            outputs, _embedding = self._run(row, self._one_image())
            if all(isinstance(x, torch.Tensor) and x.ndim in (3, 4) for x in outputs):
                return row
        return []

    @torch.no_grad()
    def _one_image(self):
        size = self.teacher.preprocess.size
        return torch.zeros([1, 3, size, size], device=self.teacher.mean.device)


class LastLevel:
    """The end of a teacher alone, as it is: its embedding, or the map that it is the mean of where it offers that.

    Attributes:
        channels: of the map, or width of the embedding.
        side:     of the map; 0 = there is none.
    """

    def __init__(self, teacher):
        self.teacher = teacher
        with torch.no_grad():
            x = teacher.encode_end_by_area(torch.zeros([1, 3, 8, 8], device=teacher.mean.device))
        self.channels, self.side = x.shape[1], x.shape[3] if x.ndim == 4 else 0

    def __call__(self, img):
        """img [N, 1 or 3, H, H] in [-1, 1] -> [[N, C, h, w]] or [[N, dim]], float32, differentiable."""
        return [self.teacher.encode_end_by_area(img)]


def as_map(x, batch_dim):
    """Output of a block -> [N, C, h, w] float32. Tokens, [N, L, C] or [L, N, C], are laid out as a square; those before
    it are left out."""
    if x.ndim == 3:
        x = x.movedim(batch_dim, 0)
        side = math.isqrt(x.shape[1])
        x = x[:, -side * side:].transpose(1, 2).unflatten(2, [side, side])
    return gradient_scale.leave(x)
