"""What a generator and a discriminator must be to train and to be used afterwards; the row of an architecture."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

# Abilities that command lines and losses need beyond `GeneratorNetwork` and `DiscriminatorNetwork`, each with the
# message to a user whose network lacks it: "this generator ..." or "its discriminator ...".
ABILITIES = {
    'w': 'this generator has no latents w to choose, to mix or to walk through',
    'truncation': 'this generator keeps no average of w to draw towards',
    'style_mixing': 'this generator has no layers that take styles of their own',
    'noise': 'this generator has no noise in its layers',
    'projection': 'this generator has no latents w to search in',
    'path_length': 'the path length of this generator cannot be regularised',
    'pickle': 'the pickles of StyleGAN2-ADA know no such network',
    'freezing': 'this discriminator cannot keep its first layers',
    'batch_norm': 'this generator has no batch norm whose statistics could be chosen',
    'chain': 'the blocks of this discriminator do not name the convolutions that CHAIN normalises',
}


class GeneratorNetwork(Protocol):
    """z and labels -> images, in two parts, so that losses and programs can work on what lies between them.

    A `torch.nn.Module`, decorated with `persistence.persistent_class`, with parameters in float32. In eval mode an
    image does not depend on the others of its batch. `mapping` and `synthesis` may be methods or modules.

    Abilities ask for more: 'truncation' for the arguments truncation_psi and truncation_cutoff of `mapping` and of the
    call, and for `mapping.w_avg` [w_dim]; 'w' for ws that can be interpolated; 'style_mixing' for ws whose rows can
    come from different z; 'projection' for ws with equal rows that give an image, and for a module `synthesis`;
    'batch_norm' for `batch_statistics` and `standing_statistics`, see BigGAN's.
    """

    z_dim: int                      # of the latent, which is normal
    c_dim: int                      # of the label, one-hot; 0 = unconditional
    img_resolution: int
    img_channels: int
    num_ws: int                     # what `mapping` gives is [N, num_ws, w_dim]
    w_dim: int

    def mapping(self, z: torch.Tensor, c: torch.Tensor | None, skip_w_avg_update: bool = False) -> torch.Tensor:
        """z [N, z_dim], c [N, c_dim] (None or any where c_dim is 0) -> ws [N, num_ws, w_dim], float32.

        skip_w_avg_update: leave running averages of ws as they are.
        """

    def synthesis(self, ws: torch.Tensor, noise_mode: str = 'random', force_fp32: bool = False,
                  fused_modconv: bool | None = None) -> torch.Tensor:
        """ws [N, num_ws, w_dim] -> img [N, img_channels, img_resolution, img_resolution], float32, about [-1, 1].

        noise_mode:    'random', 'const' or 'none'; without effect where the network has no noise.
        force_fp32:    compute in float32.
        fused_modconv: another way to compute the same; without effect where there is no choice.
        """

    def __call__(self, z: torch.Tensor, c: torch.Tensor | None, **synthesis_kwargs: Any) -> torch.Tensor:
        """synthesis(mapping(z, c), **synthesis_kwargs)."""

    def running_averages(self) -> list[torch.Tensor]:
        """Buffers that each process updates from its part of a batch: averaged over processes after each phase."""


class DiscriminatorNetwork(Protocol):
    """Images -> logits. A `torch.nn.Module` as G is.

    Its buffers must follow from its weights alone, as those of spectral norms do: they are not averaged over processes.
    Ability 'chain' asks for `block_convolutions()`, see the discriminator of StyleGAN2.
    """

    c_dim: int
    img_resolution: int
    img_channels: int
    feature_dim: int                # of the last hidden layer, which teachers are compared with

    def __call__(self, img: torch.Tensor, c: torch.Tensor | None, return_features: bool = False,
                 force_fp32: bool = False) -> Any:
        """img [N, img_channels, img_resolution, img_resolution] in [-1, 1], c [N, c_dim] -> logits [N, 1], float32.

        return_features: -> (logits, `DiscriminatorFeatures`): trunk [N, feature_dim, h, w], the last map; epilogue
                         [N, feature_dim], the last hidden layer; cmap, the label as the logit uses it, or None.
        """

    def readout(self, features: Any) -> torch.Tensor:
        """`DiscriminatorFeatures` of the last pass -> logits [N, 1], from `epilogue` and `cmap` alone."""


def module_of(part: Any) -> torch.nn.Module:
    """The module whose weights a part of a generator uses: `mapping` and `synthesis` may be methods of it."""
    return part if isinstance(part, torch.nn.Module) else part.__self__


class DeviceFacts(NamedTuple):
    """What `Architecture.configure` has to know of the device that trains the network."""
    on_cpu: bool
    half: bool                      # half precision: bfloat16 on a CPU, on a GPU what the architecture can take
    channels_last: bool
    resolution: int                 # of the images


class Architecture(NamedTuple):
    """A row of `architectures.ARCHITECTURES`: what training, files and command lines have to know of a pair of
    networks.

    title:          what people call it, for model cards.
    tag:            of a model on the Hub.
    G, D:           class names of a `GeneratorNetwork` and a `DiscriminatorNetwork`. Files may name the classes of the
                    rows and no others.
    configure:      (`presets.Preset`, options of train.py, `DeviceFacts`) -> constructor arguments of G and of D,
                    without class_name and without those that the data set gives: c_dim, img_resolution, img_channels.
    arguments:      {class name: {argument: function of a value -> whether it may have it}}, all that a file may give,
                    those of the data set included; a table in the place of a function = the arguments of a part.
    precision_of:   constructor arguments of G or of D, with class_name -> (the table among them that has num_fp16_res,
                    the one that has half_dtype), made where they are missing. None = always float32.
    batch_multiple: (constructor arguments of D, images of a micro-batch, images of a process) -> the number of images
                    in a micro-batch must be a multiple of this. All images of the process = never split, as batch norm
                    needs it.
    abilities:      names in `ABILITIES`.
    missing:        G -> abilities of the row that a G made with unusual arguments lacks.
    """
    title: str
    tag: str
    G: str
    D: str
    configure: Callable
    arguments: dict
    precision_of: Callable | None = None
    batch_multiple: Callable = lambda D_kwargs, batch_gpu, per_process: 1
    abilities: frozenset = frozenset()
    missing: Callable = lambda G: frozenset()
