"""Images and labels: what may be trained on, and how it is read.

Scripts import the data set itself from here. It is looked up when it is asked for: what dataset_tool.py needs of this
package works without torch.
"""

import importlib


def __getattr__(name):
    if name in ('DatasetError', 'ImageFolderDataset'):
        return getattr(importlib.import_module('.folder', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
