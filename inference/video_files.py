"""Writes a sequence of pictures as an mp4 file (package imageio-ffmpeg), or as one PNG each."""

import contextlib
import itertools
import os
import re
import subprocess
import tempfile

import PIL.Image

from dnnlib import UserError, files
from torch_utils import image_grid

REMEDY = 'pip install imageio-ffmpeg'
MAX_SIDE = 16384                # of H.264
QUALITY = ['-crf', '16', '-preset', 'slow']         # of x264: small images show every artefact


def check_mp4(remedy):
    """Raises UserError where mp4 files cannot be written; `remedy` is what to do other than to install the package."""
    try:
        import imageio_ffmpeg
        imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError as err:
        raise UserError(f'mp4: the package imageio-ffmpeg cannot be imported ({err}); {REMEDY}, or {remedy}') from err
    except RuntimeError as err:
        raise UserError(f'mp4: imageio-ffmpeg has no ffmpeg for this machine; install ffmpeg, or {remedy}') from err


def check_size(width, height):
    """Raises UserError for frames that are too large to make or to play."""
    if max(width, height) > MAX_SIDE:
        raise UserError(f'--zoom, --grid: the frames would have {width}x{height} pixels, {MAX_SIDE} a side is the '
                        'most; choose smaller numbers')


def write_mp4(pictures, path, fps):
    """H.264 with the 4:2:0 colours that every player shows; a side of odd length gets an additional black line.

    Args:
        pictures: iterable of PIL images, all of one size; taken one at a time.
        path:     appears when it is complete.
        fps:      pictures per second.
    Returns:      the number of pictures.
    Raises:       UserError if the file cannot be written.
    """
    pictures = map(_even, pictures)
    first = next(pictures)
    with files.atomic_path(path) as temp, tempfile.TemporaryFile() as messages:
        with open(temp, 'wb'):
            pass    # without ffmpeg, the message about a folder that cannot be written to is better
        count, code = _encode(itertools.chain([first], pictures), _command(temp, first.size, fps), messages)
        if code != 0:
            messages.seek(0)
            lines = messages.read().decode(errors='replace').strip().splitlines()
            raise UserError(f'{path}: cannot be written: ffmpeg says '
                            f'{lines[-1] if lines else f"nothing but code {code}"}')
    return count


def _command(path, size, fps):
    import imageio_ffmpeg
    source = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{size[0]}x{size[1]}', '-r', str(fps), '-i', '-']
    return [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-v', 'error', *source, '-c:v', 'libx264', '-pix_fmt', 'yuv420p',
            *QUALITY, '-f', 'mp4', path]


def _encode(pictures, command, messages):
    """-> number of pictures, exit code. Runs ffmpeg directly, since imageio-ffmpeg's writer does not report a failure
    at the end."""
    count = 0
    ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=messages)
    try:
        with contextlib.suppress(BrokenPipeError):  # its exit code and message say why
            for picture in pictures:
                ffmpeg.stdin.write(picture.tobytes())
                count += 1
    except BaseException:
        ffmpeg.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            ffmpeg.stdin.close()
        ffmpeg.wait()
    return count, ffmpeg.returncode


def _even(picture):
    """RGB with sides of even length."""
    width, height = picture.size
    if width % 2 == height % 2 == 0:
        return picture.convert('RGB')
    larger = PIL.Image.new('RGB', (width + width % 2, height + height % 2))
    larger.paste(picture, (0, 0))
    return larger


def write_pngs(pictures, folder):
    """frame00000.png, frame00001.png, ... -> their number. Raises UserError if there are such files already: the last
    frames of a longer video would remain."""
    files.make_dir(folder)
    if any(re.fullmatch(r'frame\d{5,}\.png', name) for name in os.listdir(folder)):
        raise UserError(f'{folder}: there are frames of a video in it; delete them or choose another folder')
    count = 0
    for picture in pictures:
        image_grid.save_image(picture, os.path.join(folder, f'frame{count:05d}.png'))
        count += 1
    return count
