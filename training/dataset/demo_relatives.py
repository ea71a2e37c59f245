"""Other drawn faces than those of the demo: python -m training.dataset.demo_relatives --dest=relatives.zip

The network from which `make demo` starts was trained on them (`make demo-network`). They resemble the demo faces
(`demo.py`), so that something carries over, but none of them is one: skins, clothes and backgrounds have any colour
instead of ten named ones, heads go from narrow to wide, and hats, hair, eyes, mouths and cheeks are others.
"""

import colorsys

import click
import numpy as np
import PIL.Image
import PIL.ImageDraw

from dnnlib.util import user_errors

from .demo import INK, OVERSAMPLING, PAPER, Pen, write_set

SEED = 7
TOPS = ('cone', 'beanie', 'crown', 'mohawk', 'curls', 'bob', 'nothing')
EYES = ('round', 'narrow', 'asleep', 'winking')
MOUTHS = ('smile', 'grin', 'frown', 'ring', 'tongue')


def draw_relative(rng, size):
    """-> [size, size, 3] uint8 picture of a face; everything about it comes from `rng`, a numpy Generator."""
    n = size * OVERSAMPLING
    skin, background = _colours(rng, 120)
    image = PIL.Image.new('RGB', (n, n), background)
    pen = Pen(PIL.ImageDraw.Draw(image), n, rng)
    width, top, cloth = rng.uniform(0.85, 1.05), str(rng.choice(TOPS)), _colour(rng)
    if top == 'bob':
        pen.ellipse(0, -0.1, width + 0.28, 1.25, cloth)
        pen.polygon([(-width - 0.28, -0.1), (width + 0.28, -0.1), (width + 0.28, 0.7), (-width - 0.28, 0.7)], cloth)
    pen.ellipse(0, 0, width, 1.08, skin)
    _draw_top(pen, top, cloth)
    if rng.random() < 0.4:
        for side in (-1, 1):
            pen.ellipse(0.62 * side, 0.25, 0.18, 0.14, _mix(skin, (240, 70, 90), 0.5))
    _draw_eyes(pen, str(rng.choice(EYES, p=[.4, .25, .2, .15])))
    _draw_mouth(pen, str(rng.choice(MOUTHS)))
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BOX))


def _colour(rng):
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.45, 0.98)))


def _colours(rng, apart):
    """Two colours whose channels differ by at least `apart` in all."""
    while True:
        first, second = _colour(rng), _colour(rng)
        if np.abs(np.subtract(first, second)).sum() >= apart:
            return first, second


def _mix(colour, other, share):
    return tuple(int(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def _draw_top(pen, top, cloth):
    if top == 'cone':
        pen.polygon([(-0.6, -0.75), (0.6, -0.75), (0, -1.6)], cloth)
        pen.ellipse(0, -1.55, 0.16, 0.16, PAPER)
    elif top == 'beanie':
        pen.canvas.chord(pen.box(0, -0.5, 0.98, 0.9), 180, 360, fill=cloth)
        pen.polygon([(-1.02, -0.42), (1.02, -0.42), (1.02, -0.62), (-1.02, -0.62)], _mix(cloth, INK, 0.6))
    elif top == 'crown':
        tips = [(-0.85, -1.35), (-0.4, -0.95), (0, -1.4), (0.4, -0.95), (0.85, -1.35)]
        pen.polygon([(-0.8, -0.6), *tips, (0.8, -0.6)], cloth)
    elif top == 'mohawk':
        pen.polygon([(-0.25, -0.6), (-0.3, -1.45), (0, -1.55), (0.3, -1.45), (0.25, -0.6)], cloth)
    elif top == 'curls':
        for x, y in ((-0.85, -0.5), (-0.55, -0.9), (0, -1.05), (0.55, -0.9), (0.85, -0.5)):
            pen.ellipse(x, y, 0.34, 0.34, cloth)
    elif top == 'bob':
        pen.canvas.chord(pen.box(0, -0.25, 1.0, 0.9), 190, 350, fill=cloth)


def _draw_eyes(pen, eyes):
    for x in (-pen.eye_gap, pen.eye_gap):
        if eyes == 'asleep' or (eyes == 'winking' and x > 0):
            pen.arc(x, -0.12, 1.2 * pen.eye_size, pen.eye_size, 200, 340, INK)
        else:
            height = 0.9 if eyes == 'narrow' else 1.35
            pen.ellipse(x, -0.18, 1.35 * pen.eye_size, height * pen.eye_size, PAPER)
            pen.ellipse(x, -0.18, 0.75 * pen.eye_size, 0.75 * pen.eye_size, INK)


def _draw_mouth(pen, mouth):
    if mouth == 'smile':
        pen.arc(0, 0.4, 0.42, 0.35, 15, 165, INK, width=0.14)
    elif mouth == 'grin':
        pen.canvas.chord(pen.box(0, 0.38, 0.5, 0.42), 0, 180, fill=PAPER)
    elif mouth == 'frown':
        pen.canvas.chord(pen.box(0, 0.8, 0.4, 0.35), 180, 360, fill=INK)
    elif mouth == 'ring':
        pen.ellipse(0, 0.55, 0.26, 0.24, INK)
        pen.ellipse(0, 0.55, 0.13, 0.12, (224, 82, 96))
    else:
        pen.polygon([(-0.35, 0.45), (0.35, 0.45), (0.35, 0.56), (-0.35, 0.56)], INK)
        pen.ellipse(0.1, 0.64, 0.17, 0.16, (224, 82, 96))


def relatives(size, count, seed=SEED):
    """Yields [size, size, 3] uint8 pictures."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield draw_relative(rng, size)


@click.command()
@click.option('--dest', help='Zip to write', required=True, metavar='ZIP')
@click.option('--size', help='Side of the pictures', type=click.IntRange(min=8), default=32, show_default=True)
@click.option('--count', help='Number of pictures', type=click.IntRange(min=1), default=5000, show_default=True)
def main(dest, size, count):
    """Write a data set of drawn faces that are not those of --data=demo."""
    with user_errors():
        write_set(dest, relatives(size, count))


if __name__ == '__main__':
    main()
