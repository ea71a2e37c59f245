"""What turns images into the features that a metric compares: the Inception network of the FID, or a teacher."""

import contextlib
import os
import warnings
from typing import Callable, NamedTuple

import torch

import dnnlib
from dnnlib import UserError, files
from torch_utils import distributed

# The network of the first FID code ("TF 2015"), as TorchScript; it resizes to 299x299 inside, the way TensorFlow 1 did.
INCEPTION_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt'
INCEPTION_FEATURES = 2048


class Detector(NamedTuple):
    """A fixed function from images to features.

    name:         for people.
    identity:     what its features depend on: digest of the file, or name, digest and precision of a teacher.
    num_features: width F of the features.
    resize:       how images get to the size that it wants.
    network:      uint8 [N, 3, H, W] -> [N, F].
    """
    name: str
    identity: str
    num_features: int
    resize: str
    network: Callable[[torch.Tensor], torch.Tensor]

    @torch.no_grad()
    def __call__(self, img_uint8: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 1 or 3, H, W] -> [N, num_features] float32; one channel is repeated. Float32 computations are done without TF32."""
        with _full_float32():
            return self.network(img_uint8.expand(-1, 3, -1, -1)).to(torch.float32)


@contextlib.contextmanager
def _full_float32():
    """The features should not depend on the kind of GPU nor on how the generator was trained."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allow in zip(backends, before, strict=True):
            backend.allow_tf32 = allow


def load_inception(device, path: str | None = None) -> Detector:
    """The Inception network of the FID.

    TorchScript is a program that runs when it is called. Only two files are ever loaded: the official one, whose SHA-256 is kept from the first
    download on and must stay the same, and one that the user names.

    Args:
        path: a copy of the official file, or TorchScript called like it: `network(img_uint8, return_features=True)` -> [N, 2048];
              None = download to the cache on first use.
    Raises: UserError if it cannot be had, or is no such network.
    """
    if path is not None and not os.path.isfile(path):
        raise UserError(f'--detector={path}: there is no such file; download {INCEPTION_URL} and name it, or leave --detector out')
    name = os.path.basename(path or INCEPTION_URL)
    what, remedy = f'--detector={path}', f'use a copy of {INCEPTION_URL}'
    if path is None:
        with distributed.main_process_first():
            path = files.download(INCEPTION_URL, what='Inception detector of the FID', option='--detector')
        what, remedy = path, f'delete it, and {INCEPTION_URL} is fetched again'
    try:
        with warnings.catch_warnings():             # no other loader reads this format
            warnings.filterwarnings('ignore', message='.*torch.jit.load', category=DeprecationWarning)
            script = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as err:
        raise UserError(f'{what}: is no TorchScript, or damaged ({_gist(err)}); {remedy}') from err
    detector = Detector(os.path.splitext(name)[0], f'sha256:{files.sha256_of_file(path)}', INCEPTION_FEATURES, 'inside the detector',
                        lambda img: script(img, return_features=True))
    _check_features(detector, device, f'{what}: is no Inception detector', remedy)
    return detector


def _check_features(detector: Detector, device, complaint: str, remedy: str) -> None:
    """Tries the detector on two black images."""
    try:
        features = detector(torch.zeros([2, 3, 64, 64], dtype=torch.uint8, device=device))
    except Exception as err:                        # it is a program of others
        raise UserError(f'{complaint}: it fails on 64x64 images ({_gist(err)}); {remedy}') from err
    if list(features.shape) != [2, detector.num_features]:
        raise UserError(f'{complaint}: features of two images have shape {list(features.shape)}, expected {[2, detector.num_features]}; {remedy}')


def _gist(err: Exception) -> str:
    """One line of a message: the last, where TorchScript has the reason, cut to a bearable length."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f'{type(err).__name__}: {lines[-1][:200]}' if lines else type(err).__name__


def load_teacher_detector(device, teacher_kwargs: dict) -> Detector:
    """The image encoder of a teacher; its features are not normalised.

    Args:
        teacher_kwargs: func_name of a function that takes `device` and the other entries and returns the teacher: an object with
                        `encode_image(img [N, 3, H, W] in [-1, 1])`, dim, identity, dtype and preprocess.size.
    Raises: UserError if the teacher cannot be had.
    """
    with distributed.main_process_first():
        teacher = dnnlib.util.call_func_by_name(device=device, **teacher_kwargs)
    size = teacher.preprocess.size
    return Detector(teacher.identity, f'{teacher.identity} {str(teacher.dtype).removeprefix("torch.")}', teacher.dim,
                    f'bicubic with antialiasing to {size}x{size}', lambda img: teacher.encode_image(img.to(torch.float32) / 127.5 - 1))
