"""What a method has to be to take part in training, and the record of a step that it sees."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from .gan_losses import GAN_LOSSES, GanLoss


@dataclass
class Step:
    """One micro-batch of a training step. `real_*` and `gen_*` rows are paired by position.

    In the D step the fakes carry no gradient to G; in the G step they do.
    """
    real_img: torch.Tensor                      # [N, C, H, W] in [-1, 1], before augmentation
    real_c: torch.Tensor                        # [N, c_dim]
    # [N] int64: number of the image in the data set, its mirror image counted apart
    real_idx: torch.Tensor | None
    gen_z: torch.Tensor                         # [N, z_dim]
    gen_c: torch.Tensor
    round_idx: int = 0                          # number of the micro-batch in its step
    gain: float = 1.0                           # factor on the losses of the phase before they are differentiated
    gan_loss: GanLoss = GAN_LOSSES['logistic']  # what the phase trains besides the terms
    pseudo: torch.Tensor | None = None          # [N] bool: rows of real_img that are not from the data set; None = none
    gen_img: torch.Tensor | None = None         # [N, C, H, W]; None in a D step without fakes
    real_aug: torch.Tensor | None = None        # what D is fed: the images after augmentation (D step)
    gen_aug: torch.Tensor | None = None
    logits: torch.Tensor | None = None          # [N, 1] of the pass at hand
    features: Any = None                        # `DiscriminatorFeatures` of the pass at hand
    kept: dict = field(default_factory=dict)    # for a term to keep something from one hook to the next


class Term(torch.nn.Module):
    """Base class of a method that adds to the D step or the G step; all hooks are optional.

    Parameters that require gradients are trained by D's optimiser; all parameters and buffers are part of the training
    state. A hook that returns {name: value} gives losses: each value is one per sample [N] or a scalar, its weight
    included; it is reported as `Loss/{name}` and added to the loss.
    """

    notes: tuple = ()               # lines that a run prints at its start
    columns: tuple = ()             # `training_stats.Column`s that the table of ticks gets for what it reports
    has_teacher = False             # whether a frozen network takes part that metrics may use as well
    tag = ''                        # on the Hub, of models that were trained with it
    # Or a method, images [N, C, H, W] in [-1, 1] -> [N, F]: features to compare images by
    image_features = None

    @classmethod
    def build(cls, device, D, **kwargs) -> 'Term':
        """The term for a training of `D` on `device`. kwargs: as the configuration has them; by default the
        constructor's."""
        return cls(**kwargs)

    @classmethod
    def summary(cls, kwargs: dict) -> str:
        """What the first sentence of the model card adds, such as 'knowledge distillation'; '' = nothing. kwargs: as
        the configuration has them."""
        return ''

    @classmethod
    def card_rows(cls, kwargs: dict, stats: dict) -> list[tuple[str, str]]:
        """Rows (name, value) of the model card; [] = it is listed among the further methods, with its arguments.

        stats: {statistic: {'mean': number}} of the last tick; any may be missing.
        """
        return []

    def bind(self, loss) -> None:
        """Once, before the training: the `StyleGAN2Loss` that the term takes part in, for its networks and its
        augmentation."""

    def networks_loaded(self) -> None:
        """In a run that starts from the state of another one: G and D have got its weights. What fits of that run's
        terms follows."""

    def start_step(self, cur_nimg: int) -> None:
        """Before the first micro-batch of an optimiser step; `cur_nimg` images have been seen. Draws that must agree on
        all processes."""

    def recording_key(self, phase: str) -> Hashable | None:
        """For CUDA graphs: a hashable of everything that the hooks of a phase ('Gmain', 'Dreg', ...) decide in Python.
        Tensors are exempt: their values may change, their addresses may not. State that a hook changes must be a
        buffer. None, as here, keeps the phase from being recorded: this time, or for good if returned before the first
        step."""
        return None

    def replace_reals(self, step: Step) -> None:
        """At the start of a D step, also of one for regularisation only. May put other images into the record, with
        `pseudo` and labels. The fakes, `step.gen_img`, are there only where D sees them in the same pass (`one_pass`).
        """

    def prepare(self, step: Step) -> None:
        """Before the fake pass of a D step, when all images are known."""

    def d_fake(self, step: Step) -> dict[str, torch.Tensor]:
        """After D has seen the fakes."""
        return {}

    def d_real(self, step: Step) -> dict[str, torch.Tensor]:
        """After D has seen the reals."""
        return {}

    def g_main(self, step: Step) -> dict[str, torch.Tensor]:
        """In the G step, after D has seen the fakes."""
        return {}

    def finish_step(self, batch_idx: int) -> None:
        """After all phases of iteration number `batch_idx` (from 0); the place to exchange data with other
        processes."""
