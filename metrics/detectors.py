"""Detectors turn images into the features that a metric compares: the Inception network of the FID, or a teacher."""

import contextlib
import os
import warnings
from typing import Callable, NamedTuple

import torch

import dnnlib
from dnnlib import UserError, files
from dnnlib.text import gist
from torch_utils import distributed
from torch_utils.images import to_float

# The network of the first FID code ("TF 2015"), as TorchScript; it resizes to 299x299 inside, the way TensorFlow 1 did.
INCEPTION_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt'
INCEPTION_FEATURES = 2048
# TorchScript too: features, and with return_lpips=True those whose squared distance is the LPIPS of StyleGAN's path
# length.
VGG16_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/vgg16.pt'


class Detector(NamedTuple):
    """A fixed function from images to features.

    name:         for people.
    identity:     what its features depend on: digest of the file, or name, digest and precision of a teacher.
    num_features: width F of the features; None = it depends on the size of the images.
    resize: how images are resized to its input size.
    network:      uint8 [N, 3, H, W] -> [N, F]; those of LPIPS and the teachers also take floats in 0..255, of which
                  they pass gradients on.
    """
    name: str
    identity: str
    num_features: int | None
    resize: str
    network: Callable[[torch.Tensor], torch.Tensor]

    @torch.no_grad()
    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """[N, 1 or 3, H, W] -> [N, num_features] float32; one channel is repeated. Float32 computations are done
        without TF32."""
        with full_float32():
            return self.network(img.expand(-1, 3, -1, -1)).to(torch.float32)


@contextlib.contextmanager
def full_float32():
    """The features must not depend on the kind of GPU or on how the generator was trained."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allow in zip(backends, before, strict=True):
            backend.allow_tf32 = allow


class ModelFile(NamedTuple):
    """A file that a detector is made of: where it is, its name without folder and ending, its name in messages, and
    their advice."""
    path: str
    name: str
    label: str
    remedy: str

    def identity(self) -> str:
        return f'sha256:{files.sha256_of_file(self.path)}'


def find_file(url: str, path: str | None, *, what: str, option: str) -> ModelFile:
    """The user's file `path`, or else the official one of `url`, which is downloaded to the cache on first use;
    arguments as of `files.download`.

    Raises: UserError if it cannot be had.
    """
    address = files.split_digest(url)[0]
    name = os.path.splitext(os.path.basename(path or address))[0]
    if path is None:
        with distributed.main_process_first():
            path = files.download(url, what=what, option=option)
        return ModelFile(path, name, path, f'delete it, and {address} is fetched again')
    check_file(url, path, option)
    return ModelFile(path, name, f'{option}={path}', f'use a copy of {address}')


def check_file(url: str, path: str, option: str) -> None:
    """Raises UserError if the user's copy of a file is not there; arguments as of `find_file`."""
    if not os.path.isfile(path):
        address = files.split_digest(url)[0]
        raise UserError(f'{option}={path}: there is no such file; download {address} and name it, or leave '
                        f'{option} out')


def load_script(file: ModelFile, device) -> torch.jit.ScriptModule:
    """The TorchScript in a file.

    TorchScript is a program that runs when it is called. Only two kinds of files are ever loaded: the official ones,
    whose SHA-256 is recorded at the first download and must not change, and those that the user names.
    """
    try:
        with warnings.catch_warnings():             # no other loader reads this format
            warnings.filterwarnings('ignore', message='.*torch.jit.load', category=DeprecationWarning)
            script = torch.jit.load(file.path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as err:
        raise UserError(f'{file.label}: is not a TorchScript file, or damaged; {file.remedy}') from err
    for param in script.parameters():
        param.requires_grad = False
    return script


def load_inception(device, path: str | None = None) -> Detector:
    """The Inception network of the FID.

    Args:
        path: a copy of the official file, or TorchScript called like it: `network(img_uint8, return_features=True)` ->
              [N, 2048]; None = download to the cache on first use.
    Raises: UserError if it cannot be had, or is no such network.
    """
    return script_detector(INCEPTION_URL, path, device, INCEPTION_FEATURES,
                           lambda script, img: script(img, return_features=True),
                           what='Inception detector of the FID', option='--detector', noun='Inception detector')


def script_detector(url: str, path: str | None, device, num_features: int, call: Callable, *, what: str,
                    option: str, noun: str, output: str = '') -> Detector:
    """A detector of the TorchScript in the user's file `path`, or in the official one of `url`.

    Args:
        num_features: width of the features.
        call:         (script, img uint8 [N, 3, H, W]) -> [N, num_features]; resizing is the script's business.
        what, option: as of `find_file`.
        noun:         for the error message: '... is no {noun}'.
        output:       distinguishes the identity from that of other outputs of the same file.
    Raises: UserError if it cannot be had, or is no such network.
    """
    file = find_file(url, path, what=what, option=option)
    script = load_script(file, device)
    detector = Detector(file.name, file.identity() + output, num_features, 'inside the detector',
                        lambda img: call(script, img))
    check_features(detector, device, f'{file.label}: is no {noun}', file.remedy)
    return detector


def check_features(detector: Detector, device, complaint: str, remedy: str) -> None:
    """Tries the detector on two black images. Raises UserError if it fails, or if its features have the wrong shape."""
    try:
        features = detector(torch.zeros([2, 3, 64, 64], dtype=torch.uint8, device=device))
    except Exception as err:                        # a foreign program may raise anything
        raise UserError(f'{complaint}: it fails on 64x64 images ({gist(err, line=-1)}); {remedy}') from err
    if features.ndim != 2 or len(features) != 2 or detector.num_features not in (None, features.shape[1]):
        expected = f'[2, {detector.num_features or "F"}]'
        raise UserError(f'{complaint}: features of two images have shape {list(features.shape)}, expected {expected}; '
                        f'{remedy}')


def load_teacher_detector(device, teacher_kwargs: dict) -> Detector:
    """The image encoder of a teacher, with unchanged features.

    Args:
        teacher_kwargs: func_name of a function that takes `device` and the other entries and returns the teacher: an
                        object with `encode_image(img [N, 3, H, W] in [-1, 1])`, dim, identity, dtype and
                        preprocess.size.
    Raises: UserError if the teacher cannot be had.
    """
    with distributed.main_process_first():
        teacher = dnnlib.util.call_func_by_name(device=device, **teacher_kwargs)
    size = teacher.preprocess.size
    return Detector(teacher.identity, f'{teacher.identity} {teacher.precision}', teacher.dim,
                    f'bicubic with antialiasing to {size}x{size}',
                    lambda img: teacher.encode_image(to_float(img)))
