"""More detectors that come as TorchScript: class probabilities of the Inception network, and VGG16."""

from .detectors import INCEPTION_URL, VGG16_URL, Detector, check_features, find_file, load_script

INCEPTION_CLASSES = 1008
VGG16_FEATURES = 4096


def load_inception_classes(device, path: str | None = None) -> Detector:
    """The class probabilities of the FID's network, for the Inception Score: its output without the bias, as the TensorFlow code took it.

    Args:
        path: a copy of the official file, or TorchScript called like it: `network(img_uint8, no_output_bias=True)` -> [N, 1008], rows that add
              up to 1; None = download to the cache on first use.
    Raises: UserError if it cannot be had, or is no such network.
    """
    file = find_file(INCEPTION_URL, path, what='Inception detector of the FID', option='--detector')
    script = load_script(file, device)
    detector = Detector(file.name, f'{file.identity()} classes', INCEPTION_CLASSES, 'inside the detector',
                        lambda img: script(img, no_output_bias=True))
    check_features(detector, device, f'{file.label}: is no Inception detector', file.remedy)
    return detector


def load_vgg16(device, path: str | None = None) -> Detector:
    """VGG16 up to its second fully connected layer, by which precision and recall are measured.

    Args:
        path: a copy of the official file, or TorchScript called like it: `network(img_uint8, return_features=True)` -> [N, 4096];
              None = download to the cache on first use.
    Raises: UserError if it cannot be had, or is no such network.
    """
    file = find_file(VGG16_URL, path, what='VGG16 of precision and recall', option='--vgg16')
    script = load_script(file, device)
    detector = Detector(file.name, file.identity(), VGG16_FEATURES, 'inside the detector', lambda img: script(img, return_features=True))
    check_features(detector, device, f'{file.label}: is no VGG16 of precision and recall', file.remedy)
    return detector
