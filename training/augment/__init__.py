"""Augmentations of what D sees, and how often they are applied.

Scripts import the pipeline of ADA from here.
"""

from .pipe import AugmentPipe, augpipe_specs

__all__ = ['AugmentPipe', 'augpipe_specs']
