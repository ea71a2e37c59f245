"""Colour profiles: the numbers of a picture become those of sRGB, which is what training, teachers and metrics take all pixels for."""

import functools
import io

import numpy as np
import PIL.Image
import PIL.ImageCms

SPACES = {'RGB ': ('RGB',), 'GRAY': ('L',), 'CMYK': ('CMYK',)}         # of profiles -> modes of pictures that they describe
SAME = 1                            # of 255: a profile that changes no colour by more is sRGB under another name


class UnusableProfile(ValueError):
    """Why a profile cannot be used, as half a sentence."""


def profile_of(img: PIL.Image.Image) -> bytes | None:
    """The colour profile embedded in an opened picture; b'' for one that is no profile at all (a broken TIFF tag)."""
    profile = img.info.get('icc_profile')
    return profile if profile is None or isinstance(profile, bytes) else b''


def to_srgb(img: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """The picture with the colours of its profile in sRGB: 'CMYK' becomes 'RGB'; of 'RGB', 'RGBA', 'L' and 'LA' the mode stays.

    A profile that cannot be used leaves the pixels as they are; `profile_problem` tells.
    """
    alpha = img.getchannel('A') if img.mode in ('RGBA', 'LA') else None
    color = img.convert(img.mode[:-1]) if alpha else img
    try:
        transform = _transform(profile, color.mode) if profile is not None else None
    except UnusableProfile:
        transform = None
    if transform is None:
        return img
    color = PIL.ImageCms.applyTransform(color, transform)
    color = color.getchannel('G') if img.mode in ('L', 'LA') else color
    if alpha:
        color.putalpha(alpha)
    return color


def profile_problem(img: PIL.Image.Image) -> str | None:
    """What an opened picture has ('a colour profile that is damaged, ...') because of which its colours may be wrong; None = they are right."""
    profile, mode = profile_of(img), img.mode
    if profile is None:
        return 'CMYK pixels without a colour profile, so that their colours are a guess' if mode == 'CMYK' else None
    mode = 'L' if mode.startswith('I') or mode in ('LA', '1') else 'RGB' if mode in ('P', 'PA', 'RGBA') else mode
    try:
        _transform(profile, mode)
    except UnusableProfile as err:
        return f'a colour profile that {err}, so that their pixels are taken as they are'
    return None


@functools.lru_cache(maxsize=32)                            # photos of one camera share a profile
def _transform(profile: bytes, mode: str) -> PIL.ImageCms.ImageCmsTransform | None:
    """From the colours of a profile to those of sRGB ('RGB' in any case); None = they are the same. Raises UnusableProfile."""
    try:
        source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if space == 'RGB ' and mode == 'L' and _transform(profile, 'RGB') is None:
            return None                                     # left behind by the program that made the picture grey
        if mode not in SPACES.get(space, ()):
            raise UnusableProfile(f'is for {space.strip()} pixels')
        transform = PIL.ImageCms.buildTransform(source, PIL.ImageCms.createProfile('sRGB'), mode, 'RGB')
    except (PIL.ImageCms.PyCMSError, OSError) as err:
        raise UnusableProfile('is damaged') from err
    return None if mode != 'CMYK' and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: PIL.ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours spread over the whole cube, or all greys, stay what they are."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3) if mode == 'RGB' else np.arange(256, dtype=np.uint8)[None]
    img = PIL.Image.fromarray(colors)
    got = np.asarray(PIL.ImageCms.applyTransform(img, transform)).astype(int)
    return bool(np.abs(got - np.asarray(img.convert('RGB'))).max() <= SAME)
