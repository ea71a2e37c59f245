"""The base class of all ways to distil, which `table.DISTILLERS` lists."""

from collections.abc import Hashable
from typing import NamedTuple

import torch


class Pass(NamedTuple):
    """The embeddings of one pass of the D step, over fakes or over reals, of a process's own micro-batch."""
    kind: str                   # 'fake' or 'real'
    student: torch.Tensor       # [N, M] by the student
    own: torch.Tensor           # [N, M] by the teacher, of the same images
    other: torch.Tensor         # [N, M] by the teacher, of the other kind of images, paired by row

    # `own` and `other` are plain embeddings for a method that compares them with texts, else targets (`targets.py`).


class Distiller(torch.nn.Module):
    """Base class: a subclass names itself, says which settings it reads, and defines `loss`, or `d_losses` if it has
    several.

    Its parameters are trained with D; parameters and buffers are part of the training state. Its weight is the setting
    `weight_{name}`.

    Args:
        settings:   `settings.Preset`.
        text_feats: [K, M] the teacher's embeddings of the texts; may be None where `min_texts` is 0.
        seed:       of draws.
    """

    name = ''                   # in --kd and in the names of the losses
    fields = ()                 # settings, other than the weight, that have no effect without this method
    min_texts = 0               # with fewer texts it has no gradient
    # Whether it compares the images of a micro-batch, and so needs more than one
    couples = False
    in_g_step = False           # whether there are `g_losses`

    @classmethod
    def compares_directions(cls, settings) -> bool:
        """Whether the length of the teacher's features is all the same to it, as where they are compared with texts."""
        return cls.min_texts > 0

    def __init__(self, settings, text_feats=None, seed=0):
        super().__init__()
        self.settings = settings
        self.seed = seed
        self.register_buffer('text_feats', text_feats if self.min_texts > 0 else None, persistent=False)

    def start_step(self, cur_nimg: int) -> None:
        """Before an optimiser step. Draws that must agree on all processes: functions of the seed and of `cur_nimg`."""

    def drawn(self) -> Hashable:
        """The result of the draw in `start_step`, as a number: part of the key of a CUDA graph."""
        return None

    def loss(self, rows: Pass) -> torch.Tensor:
        """Loss per sample [N], or a scalar where the formula couples samples."""
        raise NotImplementedError

    def d_losses(self, rows: Pass) -> dict[str, tuple[torch.Tensor, float]]:
        """{name: (loss, weight)} of a pass of the D step."""
        return {f'{self.name}_{rows.kind}': (self.loss(rows), getattr(self.settings, f'weight_{self.name}'))}

    def g_losses(self, gen: torch.Tensor, real: torch.Tensor) -> dict[str, tuple[torch.Tensor, float]]:
        """The same of the G step, from the teacher's embeddings [N, M] of fakes, which carry gradient to G, and of
        reals."""
        return {}
