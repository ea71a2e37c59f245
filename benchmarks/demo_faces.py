"""How good the faces of `make demo` are, against fresh drawings: python benchmarks/demo_faces.py NETWORK..."""

import os
import sys

import click
import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dnnlib.util import user_errors  # noqa: E402
from kd_plugin.teacher import load_teacher  # noqa: E402
from metrics.frechet_distance import frechet_distance  # noqa: E402
from torch_utils.images import to_float, to_uint8  # noqa: E402
from training import model_files  # noqa: E402
from training.dataset import demo as demo_data

COUNT, PROBE_COUNT, SIZE = 1000, 4000, 32


def drawings(seed, count):
    """-> uint8 [count, 3, SIZE, SIZE], attributes. The seeds here are none of the demo set or of the teacher."""
    rng = np.random.default_rng([99, seed])
    attributes = [demo_data.random_attributes(rng) for _ in range(count)]
    return as_tensor([demo_data.draw(a, rng, SIZE) for a in attributes]), attributes


def as_tensor(images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@torch.no_grad()
def fakes(path):
    G = model_files.load_generator(path, device='cpu')
    z = torch.from_numpy(np.random.RandomState(0).randn(COUNT, G.z_dim)).float()
    return torch.cat([to_uint8(G(part, None)) for part in z.split(100)])


class Judge:
    """Knows fresh drawings; `line(images)` describes others."""

    def __init__(self):
        self.teacher = load_teacher('demo')
        images, attributes = drawings(0, PROBE_COUNT)
        ones = self._with_one(self.feats(images))
        self.probes = {}
        for name, values in demo_data.ATTRIBUTES.items():
            target = torch.tensor([[float(a[name] == value) for value in values] for a in attributes],
                                  dtype=torch.float64)
            self.probes[name] = torch.linalg.lstsq(ones, target).solution
        self.fresh = self.feats(drawings(1, COUNT)[0])
        self.train = as_tensor([image for image, _attributes in demo_data.demo_images(SIZE)])
        self.close = self.nearest(drawings(2, COUNT)[0]).quantile(0.01)

    @torch.no_grad()
    def feats(self, images):
        parts = images.split(250)
        return torch.cat([self.teacher.encode_image(to_float(part)) for part in parts]).double()

    @staticmethod
    def _with_one(feats):
        return torch.cat([feats, torch.ones(len(feats), 1, dtype=feats.dtype)], dim=1)

    def values(self, feats):
        """{attribute: int64 [N]}: which of its values the probe sees."""
        return {name: (self._with_one(feats) @ probe).argmax(1) for name, probe in self.probes.items()}

    def nearest(self, images):
        return torch.cdist(images.flatten(1).float(),
                           self.train.flatten(1).float()).min(1)[0] / (3 * SIZE * SIZE) ** 0.5

    def line(self, images):
        feats, near = self.feats(images), self.nearest(images)
        stats = [x for f in (self.fresh, feats) for x in (f.mean(0), torch.cov(f.T))]
        kinds = '  '.join(f'{name} {number_of_kinds(seen):.1f}' for name, seen in self.values(feats).items())
        return (f'Fréchet {frechet_distance(*stats):5.1f}  kernel {1000 * kernel_distance(self.fresh, feats):5.0f}  '
                f'{kinds}  nearest {near.median():.0f}  copies {(near < self.close).double().mean():.3f}')


def number_of_kinds(seen):
    share = torch.bincount(seen).double() / len(seen)
    return float(torch.special.entr(share).sum().exp())


def kernel_distance(a, b):
    """Unbiased squared MMD with the cubic kernel (Binkowski et al., ICLR 2018), of all of both."""
    k = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    within = [(k(x, x).sum() - k(x, x).trace()) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(sum(within) - 2 * k(a, b).mean())


@click.command()
@click.argument('networks', nargs=-1)
def main(networks):
    """Print how good the faces of NETWORKS are, of `make demo` or others at 32x32, against fresh drawings.

    Per network, over 1000 fakes: the Fréchet distance and the kernel distance (x 1000) to 1000 fresh drawings in the
    demo teacher's features; for each attribute how many of its values there are (the exponential of the entropy), by a
    linear probe of those features that has learnt from 4000 other drawings; the median distance to the nearest of the
    100 training images, root mean square over pixels from 0 to 255, and the share that is nearer than all but 1 % of
    fresh drawings are: copies. Fresh drawings of another seed are in the first line.
    """
    with user_errors():
        compare(networks)


def compare(networks):
    judge = Judge()
    images, attributes = drawings(3, COUNT)
    print('fresh drawings', judge.line(images), flush=True)
    for name, seen in judge.values(judge.feats(images)).items():
        right = np.mean([demo_data.ATTRIBUTES[name][i] == a[name]
                         for i, a in zip(seen.tolist(), attributes, strict=True)])
        print(f'the probe is right about {name}: {right:.3f}')
    print('the 100', judge.line(judge.train), flush=True)
    for path in networks:
        print(path, judge.line(fakes(path)), flush=True)


if __name__ == '__main__':
    main()
