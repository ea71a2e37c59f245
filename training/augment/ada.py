"""The feedback rule of adaptive discriminator augmentation (ADA, Karras et al., NeurIPS 2020, section 3.1)."""

import torch

from torch_utils import distributed, training_stats

INTERVAL = 4                # iterations, for one step of D in each
KIMG, PRETRAINED_KIMG = 500, 100    # a pre-trained D overfits sooner
WARN_ABOVE = 0.8            # there augmentations are known to leak into the generated images


class AdaptiveProbability:
    """Moves the augmentation probability p so that D takes a fraction of the reals for real, without waiting for the
    device.

    Every `interval` iterations r = mean sign(D(reals)) since the last time, and p moves by one step in the direction of
    r - target, within [0, 1].

    Args:
        p:          scalar tensor, changed in place: the `p` of the augmentation pipeline.
        target:     r to hold.
        interval:   in iterations.
        kimg:       thousands of images in which p can move from 0 to 1.
        batch_size: images per iteration, over all processes.
        statistic:  name under which the signs of D's logits for reals are reported.
    """

    def __init__(self, p, target=0.6, interval=INTERVAL, kimg=KIMG, batch_size=1, statistic='Loss/signs/real'):
        self.p = p
        self.target = target
        self.interval = interval
        self.step_size = batch_size * interval / (kimg * 1000)
        self.statistic = statistic
        self._seen = training_stats.running_moments(statistic, p.device)
        self._warned = False

    def update(self, batch_idx, _cur_nimg=None):
        """After iteration number `batch_idx` (from 0); how many images have been seen makes no difference."""
        if (batch_idx + 1) % self.interval != 0:
            return
        count, total, _ = distributed.all_reduce_sum(self._pending())
        self._seen = training_stats.running_moments(self.statistic, self.p.device)
        direction = (total / count.clamp(min=1) - self.target).sign() * (count > 0)
        self.p.add_(direction.to(self.p.dtype) * self.step_size).clamp_(0, 1)

    def warning(self):
        """A sentence the first time that p is above WARN_ABOVE, else None. Reads p from the device: ask once per
        tick."""
        if self._warned or self.p.item() <= WARN_ABOVE:
            return None
        self._warned = True
        return (f'Warning: the augmentation probability is above {WARN_ABOVE}; augmentations may show in the generated '
                'images. D still overfits: more data, --kd, or a weaker --augpipe may help.')

    def state_dict(self):
        """The signs of all processes since the last update; p itself belongs to the pipeline. All processes must call
        it."""
        return {'pending': distributed.all_reduce_sum(self._pending())}

    def load_state_dict(self, state):
        """Gives the first process the pending signs of all."""
        self._seen = training_stats.running_moments(self.statistic, self.p.device)
        if distributed.get_rank() == 0:
            self._seen -= state['pending'].to(self.p.device)

    def _pending(self):
        return training_stats.running_moments(self.statistic, self.p.device) - self._seen


class LinearProbability:
    """Raises p from 0 to `final` over the first `kimg` thousand images, the schedule of InsGen's and FakeCLR's runs on
    few images.

    Args:
        p: scalar tensor, changed in place: the `p` of the augmentation pipeline.
    """

    def __init__(self, p, final, kimg):
        self.p, self.final, self.kimg = p, final, kimg

    def update(self, _batch_idx, cur_nimg):
        """After an iteration, when `cur_nimg` images have been seen."""
        self.p.fill_(self.final * min(cur_nimg / (self.kimg * 1000), 1))

    def warning(self):
        """None: the user has chosen where p ends."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """p follows from the number of images."""


def set_probability(augment_pipe, p):
    """Fixes the probability of a pipeline."""
    augment_pipe.p.copy_(torch.as_tensor(float(p)))
