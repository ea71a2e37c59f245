"""One factor on all weights of the distillation: schedule, calibration by gradients (--kd-share), need (--kd-adapt)."""

import torch

from torch_utils import training_stats
from training.augment.ada import AdaptiveProbability

from .measured import belongs_to

CALIBRATION_NIMG = 1000         # images over which --kd-share measures
LEAST, MOST = 1e-3, 1e3         # limits of its factor; the first step, before any measurement, has the least
FACTORS = ('warmup', 'decay', 'decay_to', 'share', 'adapt')    # settings that are no part of what is calibrated
ADAPT_START_NIMG = 20_000
ADAPT_KIMG = 500                # in which --kd-adapt can move the weights by `ADAPT_RANGE`
ADAPT_RANGE = 10


def schedule(kimg, settings):
    """min(t / warmup, 1) max(1 - (t - warmup) / decay, decay_to), t in kimg; a warm-up or decay of 0 is left out."""
    warm = min(kimg / settings.warmup, 1) if settings.warmup > 0 else 1
    left = max(1 - max(kimg - settings.warmup, 0) / settings.decay, settings.decay_to) if settings.decay > 0 else 1
    return warm * left


class Calibration(torch.nn.Module):
    """The factor with which |g_KD| is `share` |g_adv| over the first 1000 images; fixed from then on.

    factor = share * (sum of |g_adv|) / (sum of |g_KD| at factor 1), sums over the steps so far, within [LEAST, MOST].
    Keeping the ratio all the time would take distillation away just when D overfits, since the adversarial gradient
    then vanishes.

    Args:
        batch_size: images per step, over all processes.
        source:     text that names what is distilled, and how; a state of something else, as a fork may bring it,
                    leaves the measurement to be done.
    """

    def __init__(self, share, batch_size, source):
        super().__init__()
        self.share, self.batch_size = share, batch_size
        self.register_buffer('sums', torch.zeros([3]))          # |g_KD| at factor 1, |g_adv|, images
        belongs_to(self, source)

    def factor(self):
        kd, adv, _images = self.sums
        return torch.where(kd > 0, self.share * adv / kd, LEAST).clamp(LEAST, MOST)

    def note(self, norms, factor):
        """norms: `GradientShare.norms` of a step with this factor on its weights. None without a gradient counts."""
        new = torch.stack([norms[0] / factor, norms[1], torch.full_like(factor, self.batch_size)])
        counts = (self.sums[2] < CALIBRATION_NIMG) & (new[0] > 0) & new.isfinite().all()
        self.sums += torch.where(counts, new, 0)


class Need(torch.nn.Module):
    """10^e, where e moves as p of ADA does, by the sign of r - target; r = the mean sign of D's logits for reals.

    e stays within [-1, 1] and takes 500 kimg from 0 to 1; up to 20 kimg it is 0. Kept as p = (e + 1) / 2.
    """

    def __init__(self, target, batch_size):
        super().__init__()
        self.register_buffer('p', torch.full([], 0.5))
        self.rule = dict(target=target, kimg=2 * ADAPT_KIMG, batch_size=batch_size)

    def bind(self):
        self.controller = AdaptiveProbability(self.p, **self.rule)

    def factor(self):
        return ADAPT_RANGE ** (2 * self.p - 1)

    def update(self, batch_idx, cur_nimg):
        self.controller.update(batch_idx)
        if cur_nimg < ADAPT_START_NIMG:
            self.p.fill_(0.5)

    # The signs since the last update of p; all processes must call it.

    def get_extra_state(self):
        return self.controller.state_dict()

    def set_extra_state(self, state):
        self.controller.load_state_dict(state)


class Weighting(torch.nn.Module):
    """Factors of a step, scalars on the device: `in_d_step` = schedule * calibration * need, `in_g_step` = schedule.

    Args:
        settings:   `settings.Preset`.
        batch_size: images per step, over all processes; for --kd-share and --kd-adapt only.
        source:     see `Calibration`.
    """

    def __init__(self, settings, batch_size=None, source=''):
        super().__init__()
        self.settings = settings
        self.calibration = Calibration(settings.share, batch_size, source) if settings.share > 0 else None
        self.need = Need(settings.adapt, batch_size) if settings.adapt > 0 else None
        self.varies = any(value > 0 for value in (settings.share, settings.adapt, settings.warmup, settings.decay))
        for name in ('in_d_step', 'in_g_step'):
            self.register_buffer(name, torch.ones([]), persistent=False)
        self.cur_nimg = 0

    def bind(self):
        if self.need is not None:
            self.need.bind()

    def start_step(self, cur_nimg):
        """Before an optimiser step; in place, so that recorded phases see it."""
        self.cur_nimg = cur_nimg
        if not self.varies:
            return
        for factor in (self.in_d_step, self.in_g_step):
            factor.fill_(schedule(cur_nimg / 1000, self.settings))
        for name, part in (('calibration', self.calibration), ('need', self.need)):
            if part is not None:
                training_stats.report(f'KD/{name}', factor := part.factor())
                self.in_d_step.mul_(factor)

    def weighted(self, losses, factor):
        """List of {name: (loss, weight)} -> {name: loss * weight * factor}, all in one; factor: one of the two."""
        weigh = lambda weight: weight * factor if self.varies else weight
        return {f'KD/{name}': value * weigh(weight) for found in losses for name, (value, weight) in found.items()}

    def finish_step(self, batch_idx, norms):
        """After an iteration; norms: `GradientShare.norms` of its D step."""
        training_stats.report('KD/gradient_share', norms[0] / norms[1])
        if self.varies:
            training_stats.report('KD/weight_factor', self.in_d_step)
        if self.calibration is not None:
            self.calibration.note(norms, self.in_d_step)
        if self.need is not None:
            self.need.update(batch_idx, self.cur_nimg)
