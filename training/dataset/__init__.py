"""Images and labels: what may be trained on, and how it is read.

Scripts import the data set itself from here. It is looked up when it is asked for: what dataset_tool.py needs of this
package works without torch.
"""

from dnnlib import lazy

__getattr__ = lazy.attributes(__name__, {'DatasetError': '.folder:DatasetError',
                                         'ImageFolderDataset': '.folder:ImageFolderDataset'})
