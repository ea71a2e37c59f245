"""The network classes that configurations, snapshots and other tools name."""

from .stylegan2_discriminator import Discriminator, DiscriminatorBlock, DiscriminatorEpilogue, DiscriminatorFeatures
from .stylegan2_generator import Generator, MappingNetwork, SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGBLayer
from .stylegan2_layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    MinibatchStdLayer,
    modulated_conv2d,
    normalize_2nd_moment,
)

__all__ = [
    'Conv2dLayer', 'Discriminator', 'DiscriminatorBlock', 'DiscriminatorEpilogue', 'DiscriminatorFeatures',
    'FullyConnectedLayer', 'Generator', 'MappingNetwork', 'MinibatchStdLayer', 'SynthesisBlock', 'SynthesisLayer',
    'SynthesisNetwork', 'ToRGBLayer', 'modulated_conv2d', 'normalize_2nd_moment',
]
