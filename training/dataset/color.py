"""Colour profiles: pixels become those of sRGB, which training, teachers and metrics take all pixels for."""

import functools
import io

import numpy as np
import PIL.Image
import PIL.ImageCms

SPACES = {'RGB ': ('RGB',), 'GRAY': ('L',), 'CMYK': ('CMYK',)}     # of profiles -> modes of pictures that they describe
NO_OPTIMIZATION = 0x0100            # of LittleCMS, which else interpolates between 33 values
SAME = 1                            # of 255: a profile that changes no colour by more is sRGB under another name


class UnusableProfile(ValueError):
    """Why a profile cannot be used, as half a sentence."""


def profile_of(img: PIL.Image.Image) -> bytes | None:
    """The colour profile embedded in an opened picture; b'' for one that is no profile at all (a broken TIFF tag)."""
    profile = img.info.get('icc_profile')
    return profile if profile is None or isinstance(profile, bytes) else b''


def to_srgb(img: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """The picture with its colours in sRGB: 'CMYK' becomes 'RGB'; 'RGB', 'RGBA', 'L' and 'LA' stay what they are.

    A profile that cannot be used leaves the pixels as they are; see `profile_problem`.
    """
    alpha = img.getchannel('A') if img.mode in ('RGBA', 'LA') else None
    color = img.convert(img.mode[:-1]) if alpha else img
    try:
        correct = _correction(profile, color.mode) if profile is not None else None
    except UnusableProfile:
        correct = None
    if correct is None:
        return img
    color = correct(color)
    if alpha:
        color.putalpha(alpha)
    return color


def profile_problem(img: PIL.Image.Image) -> str | None:
    """What may make the colours of a picture wrong ('a colour profile that is damaged, ...'); None = nothing."""
    profile, mode = profile_of(img), img.mode
    if profile is None:
        return 'CMYK pixels without a colour profile, so that their colours are a guess' if mode == 'CMYK' else None
    if mode.startswith('I') or mode in ('LA', 'La', '1'):
        mode = 'L'
    elif mode in ('P', 'PA', 'RGBA', 'RGBa'):
        mode = 'RGB'
    try:
        _correction(profile, mode)
    except UnusableProfile as err:
        return f'a colour profile that {err}, so that their pixels are taken as they are'
    return None


@functools.lru_cache(maxsize=32)                            # photos of one camera share a profile
def _correction(profile: bytes, mode: str):
    """Function that gives a picture of `mode` the colours of sRGB; None = they are the same. Raises UnusableProfile."""
    try:
        source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if space == 'RGB ' and mode == 'L' and _correction(profile, 'RGB') is None:
            return None                                     # left behind by the program that made the picture grey
        if mode not in SPACES.get(space, ()):
            raise UnusableProfile(f'is for {space.strip()} pixels')
        flags = NO_OPTIMIZATION if mode == 'L' else 0       # 256 values take no time, and become exact
        transform = PIL.ImageCms.buildTransform(source, PIL.ImageCms.createProfile('sRGB'), mode, 'RGB', flags=flags)
    except (PIL.ImageCms.PyCMSError, OSError) as err:
        raise UnusableProfile('is damaged') from err
    except ImportError as err:
        raise UnusableProfile('needs LittleCMS, which this Pillow lacks') from err
    values = _all_values(mode)
    changed = PIL.ImageCms.applyTransform(values, transform)
    if mode != 'CMYK' and np.abs(np.asarray(changed).astype(int) - np.asarray(values.convert('RGB'))).max() <= SAME:
        return None
    if mode == 'L':
        table = np.asarray(changed)[0, :, 1].tolist()
        return lambda img: img.point(table)
    return lambda img: PIL.ImageCms.applyTransform(img, transform)


def _all_values(mode: str) -> PIL.Image.Image:
    """A picture of all greys, or of colours spread over the whole cube."""
    if mode == 'L':
        return PIL.Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return PIL.Image.fromarray(cube).convert(mode)
