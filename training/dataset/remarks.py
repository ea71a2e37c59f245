"""Notes on pictures: files that hold more than one, colours that may not look as their owner expects."""

from typing import Any

import numpy as np
import PIL.Image

from dnnlib.text import some

from .color import profile_problem
from .convert import is_negative

DARK = 64                           # of 255: a set without a brighter pixel is a mistake; night pictures have some
FEW = 3                             # images that a network cannot learn from, only repeat


def num_pictures(img: PIL.Image.Image) -> int:
    """Pages or frames of an opened picture. Those of a camera's MPO are previews and depth maps, and do not count."""
    if img.format == 'MPO' or not getattr(img, 'is_animated', False):
        return 1
    try:
        return img.n_frames
    except Exception:               # damaged behind the first, which is what is used
        return 1


def remarks_of(opened: PIL.Image.Image, result: PIL.Image.Image) -> dict[str, Any]:
    """What `remarks_on` wants to know of one picture, as it was opened and as it is used."""
    sixteen, extrema = opened.mode.startswith('I'), np.ravel(result.getextrema()).tolist()
    return dict(profile=profile_problem(opened), smallest=min(extrema), largest=max(extrema),
                negative=is_negative(opened), largest16=int(np.asarray(opened).max()) if sixteen else None)


def remarks_on(names: list[str], remarks: list[dict[str, Any]]) -> list[str]:
    """Notes on the pictures of a set: colour profiles that cannot be used, values that leave all black."""
    notes = wrong_colors({name: remark['profile'] for name, remark in zip(names, remarks, strict=True)})
    largest = max(remark['largest'] for remark in remarks)
    sixteen = [remark['largest16'] for remark in remarks if remark['largest16'] is not None]
    negative = all(remark['negative'] for remark in remarks)
    almost_white = negative and min(remark['smallest'] for remark in remarks) > 255 - DARK
    if (almost_white or largest < DARK) and len(sixteen) == len(remarks):
        return notes + dark_16_bits(sixteen, negative)
    if largest < DARK:
        notes.append(f'no pixel of the {len(remarks)} images is brighter than {largest} of 255: they are almost black; '
                     'if they have 16 bits of which they use 10 to 14, stretch their values to 0..65535 first')
    return notes


def wrong_colors(problems: dict[str, str | None]) -> list[str]:
    """Notes on colour profiles that cannot be used. problems: {name: what `color.profile_problem` says}."""
    by_problem: dict[str, list[str]] = {}
    for name, problem in problems.items():
        if problem is not None:
            by_problem.setdefault(problem, []).append(name)
    return [f'{len(names)} of {len(problems)} images have {problem}: {some(names, 3)}'
            for problem, names in by_problem.items()]


def dark_16_bits(largest: list[int], negative: bool = False) -> list[str]:
    """A note, if 16-bit grey pictures hold 10, 12 or 14 bits. largest: the largest value of each picture; negative:
    whether 0 is white."""
    peak = max(largest, default=65535)
    if peak > 65535 * DARK // 255:
        return []
    white = max(255, (1 << peak.bit_length()) - 1)
    reached = round(peak / 257)
    seen = f'white (at least {255 - reached} of 255)' if negative else f'black (at most {reached} of 255)'
    return [f'the 16-bit images use only the values up to {peak} of 65535, so that all are almost {seen}; '
            f'dataset_tool.py --white={white} makes {white} {"black, as 0 is white in them" if negative else "white"}']


def more_pictures(names: list[str], left_out: int | None = None) -> list[str]:
    """A note on files with several pages or frames. left_out: how many pictures are not used; None = not counted."""
    if not names:
        return []
    count = '' if left_out is None else f', {left_out} pictures are left out'
    return [f'{len(names)} files have several pages or frames, of which the first is used{count}: {some(names, 3)}; '
            'dataset_tool.py --pages=all makes an image of each']


def too_few(num_images: int) -> list[str]:
    """A note, if there are hardly any images."""
    if num_images >= FEW:
        return []
    images, them = ('1 image is', 'it') if num_images == 1 else (f'{num_images} images are', 'them')
    return [f'{images} all that there is to learn from: a network can only repeat {them}; a hundred are few']
