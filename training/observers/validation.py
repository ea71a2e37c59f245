"""How D rates images that it never trained on: the direct sign of overfitting."""

import torch

import dnnlib
from torch_utils import distributed, training_stats
from torch_utils.misc import eval_mode
from torch_utils.seeds import step_seed

from ..dataset.real_images import RealImages
from .observer import Observer

KINDS = ('validation', 'training', 'fake')


class Validation(Observer):
    """At the end of each tick, D's logits of all images that `--val-fraction` holds out, and of as many training images
    and fakes of G.

    All pass the training's augmentation, in batches of batch_gpu images; the last one is filled up with held-out images
    that only affect the minibatch statistics. Processes share the batches. Reports `Health/scores/KIND` (logits) and
    `Health/signs/KIND` of KINDS, and `Health/overfitting`, the heuristic r_v of ADA (Karras et al., NeurIPS 2020,
    section 3.1, equation 1; there with the running means of the training instead of images drawn for it): 0 = D treats
    held-out images like training images, 1 = like fakes.
    """

    columns = (training_stats.Column('r_v', 'Health/overfitting', 6, 2),)

    def start(self, training):
        c = training.config
        held_out = dnnlib.util.construct_class_by_name(**{**c.training_set_kwargs, 'part': 'validation',
                                                          'max_size': None, 'xflip': False})
        where = training.device, training.rank, training.num_ranks, c.random_seed
        self.images = RealImages(held_out, c.batch_gpu, *where, **c.data_loader_kwargs)
        # The training's own stream is read ahead: asked for other images, it would start its workers again, twice a
        # tick.
        self.trained = training.reals if training.reals.in_memory else \
            RealImages(training.dataset, training.batch_rank, *where, num_workers=0, memory_limit_gb=0)

    def report(self, training):
        logits = {kind: torch.cat(parts) for kind, parts in self._logits(training).items()}
        for kind, values in logits.items():
            training_stats.report(f'Health/scores/{kind}', values)
            training_stats.report(f'Health/signs/{kind}', values.sign())
        sums = torch.stack([torch.stack([values.sum(), torch.ones_like(values).sum()]) for values in logits.values()])
        sums, counts = distributed.all_reduce_sum(sums).unbind(dim=1)
        training_stats.report('Health/overfitting', overfitting(*(sums / counts)))

    def _logits(self, training):
        """As `_logits_of`, in eval mode, in which a pass leaves the networks as they are."""
        with eval_mode(training.G, training.D):
            return self._logits_of(training)

    @torch.no_grad()
    def _logits_of(self, training):
        """{kind: [logits [n, 1] of a batch, ...]}, of this process."""
        c, device = training.config, training.device
        logits = {kind: [torch.zeros([0, 1], device=device)] for kind in KINDS}
        total = self.images.dataset.num_images
        for i, start in enumerate(range(0, total, c.batch_gpu * training.num_ranks)):
            own = start + training.rank * c.batch_gpu
            if own < total:
                held_out, trained = self.images.batch(start), self.trained.batch(training.cur_nimg + i * c.batch_size)
                with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
                    torch.manual_seed(step_seed(c.random_seed, f'validation/{own}', training.cur_nimg))
                    z = torch.randn([c.batch_gpu, training.G.z_dim], device=device)
                    fakes = training.G.synthesis(training.G.mapping(z, held_out.c, skip_w_avg_update=True))
                    pairs = (held_out.img, held_out.c), (trained.img[:c.batch_gpu],
                                                         trained.c[:c.batch_gpu]), (fakes, held_out.c)
                    for kind, (img, label) in zip(KINDS, pairs, strict=True):
                        logits[kind].append(training.D(training.loss.augment(img), label)[:total - own])
        self.images.close()
        return logits


def overfitting(validation, training, fake):
    """r_v of mean logits. Within [-1, 2]: while D hardly tells reals from fakes, the quotient means nothing."""
    return ((training - validation) / (training - fake).clamp(min=1e-3)).clamp(-1, 2)
