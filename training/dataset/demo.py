"""The demo set: procedurally drawn, captioned cartoon faces, so that everything runs without a download.

A face is a set of attributes; drawing adds a little random geometry. The same family of pictures serves twice: a
hundred fixed ones are the few-shot training set (`--data=demo`), an endless stream of others trains the demo teacher.
"""

import io
import os
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageDraw

from dnnlib import files

COLOURS = dict(red=(214, 62, 54), orange=(238, 144, 48), yellow=(240, 212, 70), green=(84, 168, 82),
               blue=(66, 116, 202), purple=(140, 86, 180), pink=(240, 150, 186), brown=(140, 96, 66),
               white=(236, 234, 228), grey=(128, 132, 138))
MOODS = ('happy', 'sad', 'surprised', 'calm')
HEADWEAR = ('a hat', 'spiky hair', 'long hair', 'no hair')
EYES = ('open', 'closed', 'one-eyed')
ATTRIBUTES = dict(skin=tuple(COLOURS), background=tuple(COLOURS), mood=MOODS, headwear=HEADWEAR, eyes=EYES)

DEMO_COUNT = 100
DEMO_SEED = 100
FRESH_COUNT = 1000
FRESH_SEED = 98           # neither that of the demo set nor one of those that the teacher trains on
OVERSAMPLING = 8            # drawn this much larger, then shrunk: smooth edges


def random_attributes(rng):
    """{attribute: value}; skin and background differ. rng: numpy Generator."""
    skin, background = rng.choice(list(COLOURS), size=2, replace=False)
    return dict(skin=str(skin), background=str(background), mood=str(rng.choice(MOODS)),
                headwear=str(rng.choice(HEADWEAR, p=[.3, .3, .25, .15])),
                eyes=str(rng.choice(EYES, p=[.6, .3, .1])))


def caption(attributes, rng=None):
    """A description of a face; with `rng`, a random part of it."""
    a = attributes
    eyes = {'open': 'open eyes', 'closed': 'closed eyes', 'one-eyed': 'one eye'}[a['eyes']]
    details = [eyes, a['headwear'], f'{a["background"]} background']
    face = [a['mood'], a['skin']]
    if rng is not None:
        details = [d for d in details if rng.random() < 0.6]
        face = [f for f in face if rng.random() < 0.8]
    return ', '.join([' '.join(['a', *face, 'face']), *details])


def draw(attributes, rng, size):
    """Attributes -> [size, size, 3] uint8 picture; `rng` gives position, proportions and shades."""
    n = size * OVERSAMPLING
    image = PIL.Image.new('RGB', (n, n), _shade(attributes['background'], rng))
    pen = Pen(PIL.ImageDraw.Draw(image), n, rng)
    skin = _shade(attributes['skin'], rng)
    hair = _shade(rng.choice(['brown', 'yellow', 'grey', 'red']), rng)
    _draw_behind(pen, attributes['headwear'], hair)
    pen.ellipse(0, 0, 1, 1.12, skin)
    _draw_headwear(pen, attributes['headwear'], hair)
    _draw_eyes(pen, attributes['eyes'])
    _draw_mouth(pen, attributes['mood'])
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BOX))


class Pen:
    """Draws in the face's own units: origin at its middle, 1 = half its width, y downwards.

    Args:
        canvas: PIL.ImageDraw.Draw of the picture.
        n:      its side in pixels.
        rng:    numpy Generator, for place and proportions.
    """

    def __init__(self, canvas, n, rng):
        self.canvas = canvas
        self.unit = n * rng.uniform(0.27, 0.33)
        self.x, self.y = n * rng.uniform(0.47, 0.53), n * rng.uniform(0.52, 0.57)
        self.eye_gap, self.eye_size = rng.uniform(0.36, 0.46), rng.uniform(0.15, 0.2)

    def at(self, x, y):
        return self.x + x * self.unit, self.y + y * self.unit

    def box(self, x, y, rx, ry):
        return [*self.at(x - rx, y - ry), *self.at(x + rx, y + ry)]

    def ellipse(self, x, y, rx, ry, fill):
        self.canvas.ellipse(self.box(x, y, rx, ry), fill=fill)

    def polygon(self, points, fill):
        self.canvas.polygon([self.at(x, y) for x, y in points], fill=fill)

    def arc(self, x, y, rx, ry, start, end, fill, width=0.12):
        self.canvas.arc(self.box(x, y, rx, ry), start, end, fill=fill, width=round(width * self.unit))


INK = (32, 28, 34)
PAPER = (250, 250, 246)


def _shade(colour, rng):
    return tuple(int(c) for c in np.clip(np.array(COLOURS[str(colour)]) + rng.uniform(-12, 12, size=3), 0, 255))


def _draw_behind(pen, headwear, hair):
    if headwear == 'long hair':
        pen.ellipse(0, 0.1, 1.3, 1.3, hair)
        pen.polygon([(-1.3, 0.1), (1.3, 0.1), (1.2, 1.4), (-1.2, 1.4)], hair)


def _draw_headwear(pen, headwear, hair):
    if headwear == 'a hat':
        pen.polygon([(-0.75, -0.7), (0.75, -0.7), (0.6, -1.5), (-0.6, -1.5)], hair)
        pen.polygon([(-1.25, -0.62), (1.25, -0.62), (1.25, -0.82), (-1.25, -0.82)], INK)
    elif headwear == 'spiky hair':
        spikes = [(-0.95, -0.45)]
        for i in range(5):
            spikes += [(-0.9 + 0.45 * i - 0.1, -1.45), (-0.7 + 0.35 * i, -0.75)]
        pen.polygon([*spikes, (0.95, -0.45)], hair)
    elif headwear == 'long hair':
        pen.arc(0, 0.05, 1.12, 1.22, 200, 340, hair, width=0.34)


def _draw_eyes(pen, eyes):
    if eyes == 'one-eyed':
        pen.ellipse(0, -0.2, 1.7 * pen.eye_size, 1.7 * pen.eye_size, PAPER)
        pen.ellipse(0, -0.2, 0.8 * pen.eye_size, 0.8 * pen.eye_size, INK)
        return
    for x in (-pen.eye_gap, pen.eye_gap):
        if eyes == 'open':
            pen.ellipse(x, -0.2, 1.25 * pen.eye_size, 1.45 * pen.eye_size, PAPER)
            pen.ellipse(x, -0.15, 0.65 * pen.eye_size, 0.8 * pen.eye_size, INK)
        else:
            pen.arc(x, -0.25, 1.3 * pen.eye_size, pen.eye_size, 20, 160, INK)


def _draw_mouth(pen, mood):
    if mood == 'happy':
        pen.canvas.chord(pen.box(0, 0.35, 0.5, 0.45), 10, 170, fill=INK)
    elif mood == 'sad':
        pen.arc(0, 0.75, 0.42, 0.35, 195, 345, INK, width=0.14)
    elif mood == 'surprised':
        pen.ellipse(0, 0.56, 0.2, 0.26, INK)
    else:
        pen.polygon([(-0.36, 0.5), (0.36, 0.5), (0.36, 0.62), (-0.36, 0.62)], INK)


def demo_images(size, count=DEMO_COUNT, seed=DEMO_SEED):
    """Yields (picture [size, size, 3] uint8, attributes) of the fixed demo set."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        attributes = random_attributes(rng)
        yield draw(attributes, rng, size), attributes


def demo_set(size):
    """Path of the demo set as a data set zip made on first use."""
    path = os.path.join(files.cache_dir('demo'), f'demo{size}.zip')
    if not os.path.isfile(path):
        write_set(path, (image for image, _attributes in demo_images(size)))
    return path


def fresh_set(size):
    """Path of a set of further drawings, on which nothing is trained, for metrics (`--metric-data=demo`)."""
    path = os.path.join(files.cache_dir('demo'), f'demo{size}-fresh.zip')
    if not os.path.isfile(path):
        write_set(path, (image for image, _attributes in demo_images(size, FRESH_COUNT, FRESH_SEED)))
    return path


def write_set(path, images):
    """Writes pictures [H, W, 3] uint8 as a data set zip."""
    with files.atomic_path(path) as temp, zipfile.ZipFile(temp, 'w', zipfile.ZIP_STORED) as archive:
        for i, image in enumerate(images):
            png = io.BytesIO()
            PIL.Image.fromarray(image).save(png, format='png', compress_level=0, optimize=False)
            archive.writestr(f'{i // 1000:05d}/img{i:08d}.png', png.getbuffer())
