"""Images and labels: what may be trained on, and how it is read.

Scripts import the data set itself from here.
"""

from .folder import DatasetError, ImageFolderDataset

__all__ = ['DatasetError', 'ImageFolderDataset']
