"""LPIPS diversity: how far apart two images of the generator are on average."""

import torch

from dnnlib import UserError
from torch_utils import distributed
from torch_utils.images import to_uint8

from . import draws, metric_utils


def pair_distances(opts, num_gen: int, same_class: bool = False) -> torch.Tensor:
    """[num_gen / 2] squared distances of the features of generated images 0 and 1, 2 and 3, ...: no image is in two
    pairs, so that all are independent and their mean has the standard error std / sqrt(num_gen / 2). The same on all
    processes.

    Args:
        opts:       `metric_utils.MetricOptions`; the detector's squared distance is LPIPS.
        num_gen:    number of generated images, even.
        same_class: both images of a pair have the same label, drawn as often as in the data set; otherwise each has its
                    own.
    Raises: UserError if num_gen is odd, or the network has no classes where they are asked for.
    """
    if num_gen % 2 != 0:
        raise UserError(f'LPIPS diversity of {num_gen} images: they are compared in pairs; use an even number')
    if same_class and opts.G.c_dim == 0:
        raise UserError('LPIPS diversity within classes: the network has no classes; use the diversity across '
                        'all images')
    distances = torch.zeros([num_gen // 2], device=opts.device)
    for items in draws.batches(opts, num_gen, max(opts.batch_size // 2, 1) * 2, 'Distances of images'):
        img = metric_utils.generate_batch(opts, items, same_class)
        finite = img.isfinite().flatten(1).all(dim=1, keepdim=True)
        feats = opts.detector(to_uint8(img)).where(finite, torch.nan)
        distances[items.start // 2:items.stop // 2] = (feats[0::2] - feats[1::2]).square().sum(dim=1)
    return distributed.all_reduce_sum(distances)


def compute_lpips_diversity(opts, num_gen: int, same_class: bool = False) -> dict:
    """Mean LPIPS over num_gen / 2 pairs of generated images, at their own size. Arguments as above.

    0 = all images are equal; higher is more diverse. KD-DLGAN (Cui et al., CVPR 2023), Table 5, names AlexNet LPIPS but
    neither the number of pairs, nor whether they are within a class or across, nor the size of the images: the choices
    here may differ from theirs.

    Returns: value and standard_error, NaN if the generator gives NaN; generated: the protocol. The same on all
             processes.
    """
    distances = pair_distances(opts, num_gen, same_class).double()
    protocol = dict(pairs=len(distances), pairs_within='one class' if same_class else 'all images')
    return dict(value=float(distances.mean()),
                standard_error=float(distances.std(correction=0) / len(distances) ** 0.5), generated=protocol)
