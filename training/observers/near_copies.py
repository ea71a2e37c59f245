"""How many fakes are nearly a training image, or nearly each other."""

import numpy as np
import torch

from torch_utils import distributed, training_stats
from torch_utils.images import to_float

from .observer import Observer

QUANTILE = 0.05             # of the distances between training images: what is closer counts as near
SAME = 1e-6                 # closer images are duplicates and do not count
MAX_REALS = 2000            # training images to compare with; from larger sets, so many are drawn by the seed
PIXELS = 32                 # side to which images are averaged where no method has features to offer


class NearCopies(Observer):
    """At the end of each tick, fakes of the averaged generator, always of the same latents, against the training images
    and each other.

    Reports `Health/copies`, the share of fakes whose nearest training image is nearer than the 5 % quantile of such
    distances between training images, and `Health/repeats`, the share whose nearest other fake is nearer than that
    quantile, both among as many images. New photos of the same kind would have about 0.05. Where training images are
    mirrored, the nearer of an image and its mirror image counts. Distances are between the directions of the features
    of the first term that has `image_features` (the teacher of distillation), else between pixels averaged to 32x32.
    The metric `memorization` is the same with all training images and the features of Inception.

    Args:
        num_fakes: how many.
    """

    columns = (training_stats.Column('copies', 'Health/copies', 7, 2),
               training_stats.Column('repeats', 'Health/repeats', 8, 2))

    def __init__(self, num_fakes):
        self.num_fakes = num_fakes

    def start(self, training):
        c, dataset = training.config, training.dataset
        self.offered = next((term.image_features for term in training.loss.terms.values()
                             if term.image_features is not None), None)
        self.mirrored = dataset.xflip
        items = np.random.RandomState(c.random_seed).permutation(dataset.num_images)[:MAX_REALS]
        imgs = lambda numbers: np.stack([dataset[int(items[i])][0] for i in numbers])
        read = lambda numbers: to_float(torch.from_numpy(imgs(numbers)).to(training.device))
        reals = self._features(training, len(items), read)
        self.reals, self.count = reals[0], min(len(items), self.num_fakes)
        self.near_real, self.near_other = near(reals), near(reals[:, :self.count])
        random = torch.Generator().manual_seed(c.random_seed)
        self.z, self.c = training.prior.sample(self.num_fakes, random)

    def report(self, training):
        make = lambda numbers: training.G_ema(self.z[numbers], self.c[numbers], noise_mode='const').clamp(-1, 1)
        fakes = self._features(training, self.num_fakes, make)
        training_stats.report('Health/copies', distances(fakes, self.reals).amin(dim=1) < self.near_real)
        training_stats.report('Health/repeats', to_nearest_other(fakes[:, :self.count]) < self.near_other)

    @torch.no_grad()
    def _features(self, training, total, images):
        """[views, total, F] of the images that `images(numbers)` gives, [n, C, H, W]; each process computes a share of
        them."""
        own, size = list(range(training.rank, total, training.num_ranks)), training.config.batch_gpu
        parts = ([self._views(images(own[i:i + size])) for i in range(0, len(own), size)]
                 or [self._views(images([0]))[:, :0]])
        part = torch.cat(parts, dim=1)
        features = part.new_zeros([len(part), total, part.shape[2]])
        features[:, own] = part
        return distributed.all_reduce_sum(features)

    def _views(self, img):
        """[1 or 2, n, F]: features of images and, where the training mirrors, of their mirror images."""
        views = [img, img.flip(3)] if self.mirrored else [img]
        return torch.stack([pixels(view) if self.offered is None else torch.nn.functional.normalize(self.offered(view))
                            for view in views])


def pixels(img):
    """[n, C, H, W] -> [n, F], so scaled that distances are the root of the mean squared difference."""
    small = torch.nn.functional.adaptive_avg_pool2d(img, min(PIXELS, img.shape[2])).flatten(1)
    return small / small.shape[1] ** 0.5


def distances(views, others):
    """[views, Q, F], [N, F] -> [Q, N], of the nearest view: as matrix products, in float64, which is exact enough near
    0."""
    return torch.cdist(views.to(torch.float64), others.to(torch.float64)[None],
                       compute_mode='use_mm_for_euclid_dist').amin(dim=0)


def to_nearest_other(views):
    """[views, N, F] -> [N]: how far the nearest of the other images is."""
    return distances(views, views[0]).fill_diagonal_(torch.inf).amin(dim=1)


def near(views):
    """The largest distance that counts as near among these images; 0 (nothing is near) if no two of them differ."""
    nearest = to_nearest_other(views)
    nearest = nearest[(nearest > SAME) & nearest.isfinite()]
    return nearest.quantile(QUANTILE) if len(nearest) > 0 else nearest.new_zeros([])
