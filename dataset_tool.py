"""Makes a data set for training, square images of one size and their labels, from your own pictures or from a public
data set."""

import contextlib

import click

from dnnlib.commands import SETTINGS, PlainOrCommand
from dnnlib.util import UserError, user_errors
from kd_plugin.prompts import class_names_of
from training.dataset.building import imagenet as imagenet_source
from training.dataset.building import public as public_data
from training.dataset.building import subsets
from training.dataset.building.build import AS_THEY_ARE, build, check_dest, is_trainable, power_of_two
from training.dataset.building.sources import open_source
from training.dataset.convert import LEVELS, RESIZE_FILTERS, TRANSFORMS, WHITE, check_levels, pixel_limit
from training.dataset.headers import SMALLEST_SIDE

LEVEL = click.IntRange(*LEVELS)
fraction_option = click.option('--fraction', metavar='PERCENT', type=float,
                               help='Take only this percentage of the images, drawn with seed 0.')
count_option = click.option('--count', metavar='N', type=int, help='Take only N images, drawn with seed 0.')


def check_options(opts: dict) -> None:
    """Refuses options that cannot give square images with a power of two on each side."""
    width, height, transform = opts['width'], opts['height'], opts['transform']
    check_levels(opts['black'], opts['white'])
    if transform and not (width and height):
        missing = '--width and --height' if not (width or height) else '--height' if width else '--width'
        raise UserError(f'--transform={transform} needs {missing} too; for example --width=256 --height=256')
    if width and height:
        if transform == 'center-crop-wide' and height >= width:
            raise UserError(f'--height={height} is not less than --width={width}; center-crop-wide is for wide '
                            'pictures: use a smaller --height, or --transform=center-crop')
        result = (width, width) if transform == 'center-crop-wide' else (width, height)
        if not is_trainable(*result):
            side = power_of_two(max(result))
            raise UserError(f'--width={width} --height={height}: training needs square images whose side is a power of '
                            f'two ({SMALLEST_SIDE} or more); use --width={side} --height={side}')


@click.group(cls=PlainOrCommand, invoke_without_command=True, subcommand_metavar='',
             context_settings=dict(SETTINGS, allow_extra_args=False))
@click.option('--source', metavar='PATH', required=True, help='Folder, .zip archive, cifar-10-python.tar.gz or '
                                                              'cifar-100-python.tar.gz.')
@click.option('--dest', metavar='PATH', required=True, help='New folder, or new archive ending in .zip.')
@click.option('--max-images', metavar='N', type=click.IntRange(min=1),
              help='Take only the first N images of the source, of class folders the same number of each.')
@click.option('--split', metavar='FOLDER', help='Take only the images under this folder of the source; of a CIFAR '
                                                'archive: train (default) or test.')
@click.option('--transform', type=click.Choice(TRANSFORMS),
              help='center-crop: the centre square; center-crop-wide: the centre band of a wide picture, on a black '
              'square (for landscapes; give --height less than --width). Without it, images are stretched to --width x '
              '--height.')
@click.option('--width', metavar='PIXELS', type=click.IntRange(min=1),
              help="Width of the result; default: the images' own.")
@click.option('--height', metavar='PIXELS', type=click.IntRange(min=1),
              help="Height of the result; default: the images' own.")
@click.option('--resize-filter', type=click.Choice(list(RESIZE_FILTERS)), default='lanczos', show_default=True,
              help='How to resize.')
@click.option('--color', type=click.Choice(['rgb', 'grey']), help='Make all images RGB or grey, transparent parts '
                                                                  'white; default: as they are.')
@click.option('--black', metavar='VALUE', type=LEVEL, default=0, show_default=True,
              help='The value of grey pixels of 16 or 32 bits that becomes black, and all below: -1024 for CT.')
@click.option('--white', metavar='VALUE', type=LEVEL, default=WHITE, show_default=True,
              help='The value that becomes white, and all above: 4095 for 12 bits.')
@click.option('--pages', type=click.Choice(['first', 'all']), default='first', show_default=True,
              help='Of files with several pages or frames (TIFF stacks, animations): the first, or an image of each.')
@click.option('--max-pixels', metavar='N', type=click.IntRange(min=1),
              help="Refuse pictures of more pixels, width times height  [default: Pillow's limit, 178,956,970]")
@click.option('--on-error', type=click.Choice(['fail', 'skip']), default='fail', show_default=True,
              help='When images cannot be used: stop and write nothing, or go on without them. All are listed '
                   'either way.')
def main(**opts):
    """Make a data set for training: square images of one size, and their labels.

    Labels come from a dataset.json in the source, {"labels": [["folder/name.jpg", 3], ...]}, or else from folders: all
    images of cats/ are one class, all images of dogs/ another, numbered in alphabetical order. The class names are
    kept.

    \b
    Examples:
      python dataset_tool.py --source=photos --dest=photos.zip --width=256 --height=256 --transform=center-crop
      python dataset_tool.py --source=cifar-10-python.tar.gz --dest=cifar10-test.zip --split=test

    Public data sets have commands: dataset_tool.py fetch --help, dataset_tool.py imagenet --help
    """
    with user_errors():
        convert(opts)


def convert(opts):
    """What the command does; options as of the command."""
    check_options(opts)
    check_dest(opts['dest'], opts['source'])
    with pixel_limit(opts['max_pixels']), contextlib.closing(open_source(opts['source'], opts['split'])) as source:
        build(source, opts)


@main.command('fetch', context_settings=SETTINGS, short_help='Download a public data set and make it ready.')
@click.argument('name', metavar='NAME', type=click.Choice(list(public_data.PUBLIC_DATA)))
@click.option('--dest', metavar='PATH', help='New folder, or new archive ending in .zip  [default: NAME.zip, '
                                             'NAME-5000.zip of a subset, NAME-test.zip with --ref]')
@click.option('--source', metavar='FILE', help='The archive, where it was downloaded by other means.')
@click.option('--ref', is_flag=True, help='The 10,000 test images of CIFAR instead: what the FID compares with.')
@fraction_option
@count_option
def fetch(**opts):
    """Download a public data set and make it ready for training, as the literature on few images does.

    The low-shot sets (100 images of obama, grumpy_cat and panda, 160 of animalface-cat, 389 of animalface-dog) become
    256x256, without labels; cifar10 and cifar100 stay 32x32, with labels. A download that was cut off goes on with the
    same command; archives are kept in ~/.cache/kdgan/downloads ($KDGAN_CACHE_DIR). A subset is drawn uniformly, not
    class by class, and is the same every time.

    \b
    Examples:
      python dataset_tool.py fetch obama
      python dataset_tool.py fetch cifar10 --fraction=10
      python dataset_tool.py fetch cifar10 --ref
    """
    with user_errors():
        fetch_public(**opts)


def fetch_public(name, dest, source, ref, fraction, count):
    """What the command does; options as of the command."""
    data = public_data.PUBLIC_DATA[name]
    if ref and not data.test_images:
        raise UserError(f'--ref: {name} has no test images, its FID compares with the training images; leave --ref out')
    if ref and not (fraction is None and count is None):
        raise UserError('--ref: the FID always compares with all test images; leave --fraction and --count out')
    wanted = subsets.count_of(fraction, count, data.images)
    dest = dest or (f'{name}-test.zip' if ref else f'{name}.zip' if wanted == data.images else f'{name}-{wanted}.zip')
    check_dest(dest)
    with contextlib.closing(public_data.open_public(name, public_data.locate(name, source), ref)) as images:
        subsets.select(images, fraction, count)
        split = None if not data.test_images else 'test' if ref else 'train'
        build(images, dict(AS_THEY_ARE, dest=dest, split=split, width=data.size, height=data.size, color='rgb'))


@main.command('imagenet', context_settings=SETTINGS, short_help='Make ImageNet at 64x64, or a subset of it.')
@click.option('--source', metavar='DIR', required=True, help='The training images of ILSVRC-2012: one folder per class '
                                                             '(n01440764, ...).')
@click.option('--dest', metavar='PATH', required=True, help='New folder, or new archive ending in .zip.')
@fraction_option
@count_option
def imagenet(**opts):
    """Make ImageNet at 64x64, or a subset of it, in the preparation of BigGAN: centred square, resized bilinearly, 1000
    labels.

    A subset is the beginning of one fixed shuffled order of all 1,281,167 images: 10, 5 and 2.5 percent are 128,117,
    64,058 and 32,029; --count=100000, 50000 and 25000 are what the paper's text calls them.

    \b
    Examples:
      python dataset_tool.py imagenet --source=ILSVRC/Data/CLS-LOC/train --dest=imagenet64-10.zip --fraction=10
      python dataset_tool.py imagenet --source=ILSVRC/Data/CLS-LOC/train --dest=imagenet64.zip
    """
    with user_errors():
        make_imagenet(**opts)


def make_imagenet(source, dest, fraction, count):
    """What the command does; options as of the command."""
    # Wrong options are reported before a million files are listed
    subsets.count_of(fraction, count, imagenet_source.NUM_IMAGES)
    check_dest(dest, source)
    images = imagenet_source.ImageNetSource(source, class_names_of('imagenet'))
    subsets.select(images, fraction, count)
    build(images, dict(AS_THEY_ARE, dest=dest, width=64, height=64, resize_filter='bilinear', color='rgb'))


if __name__ == '__main__':
    main()
