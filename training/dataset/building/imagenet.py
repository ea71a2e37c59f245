"""The training images of ILSVRC-2012 from their class folders, in the preparation of BigGAN."""

import os
import re

import numpy as np
import PIL.Image

from ..convert import open_image
from ..names import DatasetError, is_image

NUM_IMAGES, NUM_CLASSES = 1_281_167, 1000
WORDNET_ID = re.compile(r'n\d{8}')


class ImageNetSource:
    """The images of DIR/n01440764/*.JPEG, ..., as centred squares; attributes as in `sources.FileSource`.

    The label of a class is its place among the sorted WordNet ids; names are in order of folder, then file.

    Args:
        path:        folder with one folder per class.
        class_names: in label order.
    Raises: DatasetError if it is not the whole training set: a fraction of anything else would be another subset.
    """

    has_class_folders = True

    def __init__(self, path: str, class_names: list[str]):
        self.path, self.name, self.notes, self.class_names = path, 'ILSVRC-2012 train', [], class_names
        self.record: dict = {}
        folders = sorted(name for name in _list(path) if WORDNET_ID.fullmatch(name)
                         and os.path.isdir(os.path.join(path, name)))
        if not folders:
            raise DatasetError(f'--source={path}: no folders named by WordNet id (n01440764, ...) in it; give the '
                               'folder that holds them, with the archive of each class unpacked into a folder of its '
                               'own')
        self.names, self.labels = [], {}
        for label, folder in enumerate(folders):
            found = [f'{folder}/{name}' for name in sorted(_list(os.path.join(path, folder)))
                     if is_image(name) and not name.startswith('.')]
            self.names += found
            self.labels.update(dict.fromkeys(found, label))
        if (len(self.names), len(folders)) != (NUM_IMAGES, NUM_CLASSES):
            raise DatasetError(f'--source={path}: {len(self.names)} images of {len(folders)} classes in it, the '
                               f'training set of ILSVRC-2012 has {NUM_IMAGES} of {NUM_CLASSES}; complete it, otherwise '
                               'the subset would be another one')

    def load(self, name: str) -> PIL.Image.Image:
        """The largest centred square of a picture, RGB, by the preparation of BigGAN: no orientation, no profile.

        Raises whatever Pillow and the file system raise.
        """
        with open(os.path.join(self.path, name), 'rb') as f:
            img = open_image(f.read()).convert('RGB')
        side = min(img.size)
        left, top = (round((length - side) / 2) for length in img.size)         # half a pixel goes to the even side
        # A new image: without its tags
        return PIL.Image.fromarray(np.asarray(img.crop((left, top, left + side, top + side))))

    def close(self) -> None:
        pass


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as err:
        raise DatasetError(f'--source={path}: cannot be listed ({err.strerror}); give the folder of the training '
                           'images of ILSVRC-2012') from err
