"""LPIPS, the learned perceptual distance of two images, as the squared distance of their features: with AlexNet and
with VGG16."""

import pickle

import torch

from dnnlib import UserError, files
from torch_utils.images import to_float

from .detectors import VGG16_URL, Detector, ModelFile, check_features, find_file, load_script

# Ends in the first digits of its SHA-256
ALEXNET_URL = 'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth'
HEADS_URL = ('https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth'
             '#sha256=df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0')
CHANNELS = 64, 192, 384, 256, 256                   # of the five stages
MIN_SIZE = 31                                       # AlexNet's second pooling needs it


class AlexNetLpips(torch.nn.Module):
    """Images -> features whose squared distance is LPIPS with AlexNet and linear heads, version 0.1.

    Every pixel of each stage's activations is scaled to unit length over the channels. The distance is the sum over
    stages of the mean over pixels of sum_c head_c (a_c - b_c)^2; as no head is negative, this is |f(a) - f(b)|^2 of the
    features f = unit * sqrt(head / pixels).

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, eq. 1;
            AlexNet in torchvision's layout (Krizhevsky, "One weird trick for parallelizing convolutional neural
            networks", 2014).
    """

    def __init__(self):
        super().__init__()
        conv, relu = torch.nn.Conv2d, torch.nn.ReLU
        self.features = torch.nn.Sequential(
            conv(3, 64, 11, stride=4, padding=2), relu(), torch.nn.MaxPool2d(3, 2),
            conv(64, 192, 5, padding=2), relu(), torch.nn.MaxPool2d(3, 2),
            conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu(),
            conv(256, 256, 3, padding=1), relu())
        for i, channels in enumerate(CHANNELS):
            self.register_buffer(f'head{i}', torch.zeros([channels, 1, 1]))
        self.register_buffer('shift', torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1))
        self.register_buffer('scale', torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, img):
        """[N, 3, H, W] in 0..255, at least 31x31 -> [N, F]; F grows with the area."""
        height, width = img.shape[2:]
        if min(height, width) < MIN_SIZE:
            raise UserError(f'LPIPS with AlexNet needs images of {MIN_SIZE}x{MIN_SIZE} or more, these are '
                            f'{width}x{height}; use another metric')
        x = (to_float(img, self.shift.dtype) - self.shift) / self.scale
        parts = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, torch.nn.ReLU):
                weight = getattr(self, f'head{len(parts)}') / (x.shape[2] * x.shape[3])
                parts.append((x / (x.norm(dim=1, keepdim=True) + 1e-10) * weight.sqrt()).flatten(1))
        return torch.cat(parts, dim=1)

    def load(self, alexnet: ModelFile, heads: ModelFile) -> 'AlexNetLpips':
        """Takes the weights from a checkpoint of torchvision's AlexNet and from one of LPIPS's heads. Raises UserError
        for other files."""
        convolutions = dict(self.named_parameters())
        for name, value in _read_tensors(alexnet,
                                         {name: list(value.shape) for name, value in convolutions.items()}).items():
            convolutions[name].copy_(value)
        shapes = {f'lin{i}.model.1.weight': [1, channels, 1, 1] for i, channels in enumerate(CHANNELS)}
        for i, (name, value) in enumerate(_read_tensors(heads, shapes).items()):
            if value.min() < 0:
                raise UserError(f'{heads.label}: {name} has negative weights, which give no distance; {heads.remedy}')
            getattr(self, f'head{i}').copy_(value[0])
        return self


def _read_tensors(file: ModelFile, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The tensors of these names and shapes in a checkpoint, which may hold other tensors. Nothing in it is run."""
    try:
        state = torch.load(file.path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as err:
        raise UserError(f'{file.label}: is no PyTorch checkpoint, or damaged ({type(err).__name__}); '
                        f'{file.remedy}') from err
    found = {name: state.get(name) if isinstance(state, dict) else None for name in shapes}
    for name, value in found.items():
        got = f'has shape {list(value.shape)}' if isinstance(value, torch.Tensor) else 'is missing'
        if got != f'has shape {shapes[name]}':
            raise UserError(f'{file.label}: {name} {got}, expected shape {shapes[name]}; {file.remedy}')
    return found


def load_alexnet_lpips(device, alexnet: str | None = None, heads: str | None = None) -> Detector:
    """LPIPS with AlexNet and the linear heads of version 0.1: the squared distance of two images' features.

    Args:
        alexnet: a copy of torchvision's checkpoint; None = download to the cache on first use.
        heads:   a copy of the linear heads of the LPIPS project; None = the same.
    Raises: UserError if they are not available, or are other files.
    """
    sources = [find_file(ALEXNET_URL, alexnet, what='AlexNet of LPIPS', option='--alexnet'),
               find_file(HEADS_URL, heads, what='Linear heads of LPIPS', option='--lpips-heads')]
    if alexnet is None:
        _check_prefix(sources[0], ALEXNET_URL)
    network = AlexNetLpips().load(*sources).to(device)
    return Detector('LPIPS 0.1 with AlexNet', ' '.join(file.identity() for file in sources), None, 'none', network)


def _check_prefix(file: ModelFile, url: str) -> None:
    """PyTorch names its checkpoints NAME-DIGITS.pth after the first digits of their SHA-256."""
    got, expected = files.sha256_of_file(file.path), url.removesuffix('.pth').rpartition('-')[2]
    if not got.startswith(expected):
        raise UserError(f'{file.label}: SHA-256 is {got}, expected {expected}...: it is damaged or another file; '
                        f'{file.remedy}')


def load_vgg16_lpips(device, path: str | None = None, option: str = '--vgg16') -> Detector:
    """LPIPS with VGG16, by which StyleGAN measures path lengths and projects images: the squared distance of two
    images' features.

    Args:
        path:   a copy of the official file, or TorchScript called like it: `network(img, resize_images=False,
                return_lpips=True)` -> [N, F]; None = download to the cache on first use.
        option: the one that names it, for messages.
    Raises: UserError if it cannot be had, or is no such network.
    """
    file = find_file(VGG16_URL, path, what='VGG16 of LPIPS', option=option)
    script = load_script(file, device)
    detector = Detector('LPIPS with VGG16', file.identity(), None, 'none',
                        lambda img: script(img.to(torch.float32), resize_images=False, return_lpips=True))
    check_features(detector, device, f'{file.label}: is no VGG16 of LPIPS', file.remedy)
    return detector
