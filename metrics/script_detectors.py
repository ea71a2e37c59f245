"""More detectors that come as TorchScript: class probabilities of the Inception network, and VGG16."""

from .detectors import INCEPTION_URL, VGG16_URL, Detector, script_detector

INCEPTION_CLASSES = 1008
VGG16_FEATURES = 4096


def load_inception_classes(device, path: str | None = None) -> Detector:
    """The class probabilities of the FID's network, for the Inception Score: its output without the bias, as the
    TensorFlow code took it.

    Args:
        path: a copy of the official file, or TorchScript called like it: `network(img_uint8, no_output_bias=True)` ->
              [N, 1008], rows that add up to 1; None = download to the cache on first use.
    Raises: UserError if it cannot be had, or is no such network.
    """
    return script_detector(INCEPTION_URL, path, device, INCEPTION_CLASSES,
                           lambda script, img: script(img, no_output_bias=True),
                           what='Inception detector of the FID', option='--detector', noun='Inception detector',
                           output=' classes')


def load_vgg16(device, path: str | None = None) -> Detector:
    """VGG16 up to its second fully connected layer, by which precision and recall are measured.

    Args:
        path: a copy of the official file, or TorchScript called like it: `network(img_uint8, return_features=True)` ->
              [N, 4096]; None = download to the cache on first use.
    Raises: UserError if it cannot be had, or is no such network.
    """
    return script_detector(VGG16_URL, path, device, VGG16_FEATURES,
                           lambda script, img: script(img, return_features=True),
                           what='VGG16 of precision and recall', option='--vgg16', noun='VGG16 of precision and recall')
