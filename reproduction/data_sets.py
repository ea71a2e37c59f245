"""The data sets of the tables: how each is made, how long the paper trains on it, and what its FID compares with."""

from typing import NamedTuple


class Data(NamedTuple):
    """A column."""
    title: str
    preparation: tuple              # commands that make its files
    file: str                       # in the folder that --data names
    cfg: str                        # a row of the presets
    kimg: int
    images: int
    reference: str | None = None    # file of the real images of FID; None = those of the training
    reference_images: int | None = None
    texts: str | None = None        # of distillation, where those of its preset are of other data
    note: str = ''                  # what the paper leaves open, or we do otherwise


LOW_SHOT = 'The snapshot with the lowest FID is taken to be the one in print; the paper does not say.'
DRAW = 'Subsets are drawn with seed 0, not class by class.'
TEXTS = "The authors' program has the texts of CIFAR-10 here, ours those of CIFAR-100."
IMAGENET = 1_281_167            # images of ILSVRC-2012 for training
TRANSFER = 'No recipe at 64 pixels is published; ours is that of IC-GAN. Nor are the number of fakes and the draw.'


def _low_shot(name, title, images, kimg):
    return Data(f'{title}, {images}', (f'dataset_tool.py fetch {name}',), f'{name}.zip', 'low-shot', kimg, images,
                note=LOW_SHOT)


def _cifar(number, percent, kimg):
    name, count = f'cifar{number}', 500 * percent
    part = '' if percent == 100 else f' --fraction={percent}'
    texts, note = ('cifar100', f'{DRAW} {TEXTS}') if number == 100 else (None, DRAW)
    return Data(f'CIFAR-{number}, {percent} %',
                (f'dataset_tool.py fetch {name}{part}', f'dataset_tool.py fetch {name} --ref'),
                f'{name}.zip' if percent == 100 else f'{name}-{count}.zip', 'biggan-cifar', kimg, count,
                f'{name}-test.zip', 10_000, texts, note)


def _imagenet(percent):
    make = 'dataset_tool.py imagenet --source=ILSVRC/Data/CLS-LOC/train'
    file = f'imagenet64-{percent:g}.zip'
    return Data(f'ImageNet at 64, {percent:g} %',
                (f'{make} --dest={file} --fraction={percent:g}', f'{make} --dest=imagenet64.zip'),
                file, 'biggan-imagenet64', 128_000, round(IMAGENET * percent / 100), 'imagenet64.zip', IMAGENET,
                note=TRANSFER)


DATA = {
    'obama': _low_shot('obama', 'Obama', 100, 300),
    'grumpy_cat': _low_shot('grumpy_cat', 'Grumpy cat', 100, 300),
    'panda': _low_shot('panda', 'Panda', 100, 300),
    'animalface-cat': _low_shot('animalface-cat', 'Cat', 160, 500),
    'animalface-dog': _low_shot('animalface-dog', 'Dog', 389, 500),
    'cifar10': _cifar(10, 100, 50_000), 'cifar10-20': _cifar(10, 20, 50_000), 'cifar10-10': _cifar(10, 10, 25_000),
    'cifar100': _cifar(100, 100, 100_000), 'cifar100-20': _cifar(100, 20, 50_000),
    'cifar100-10': _cifar(100, 10, 25_000),
    'imagenet64-10': _imagenet(10), 'imagenet64-5': _imagenet(5), 'imagenet64-2.5': _imagenet(2.5),
}
