"""The StyleGAN2 loss: adversarial loss, R1, path length regularisation, style mixing, and room for further terms."""

import math

import torch

from torch_utils import distributed, training_stats
from torch_utils.ops.conv2d_gradfix import no_weight_gradients

from .gan_losses import GAN_LOSSES
from .loss_terms import Step, Term
from .networks.interface import module_of

PHASES = ('Gmain', 'Greg', 'Gboth', 'Dmain', 'Dreg', 'Dboth')


class StyleGAN2Loss:
    """Accumulates the gradients of one phase (StyleGAN2, Karras et al., CVPR 2020; R1: Mescheder et al., ICML 2018).

    Args:
        device:            of the networks.
        G_mapping, G_synthesis, D: networks; the one that a phase trains must require gradients, the other must not.
        augment_pipe:      applied to every image that D sees; None = none.
        style_mixing_prob: probability that a batch mixes the latents of two z.
        r1_gamma:          weight of the gradient penalty, gamma / 2 * |grad D|^2; 0 = none.
        pl_batch_shrink:   path length is computed on this fraction of the batch.
        pl_decay:          decay of the running mean of path lengths.
        pl_weight:         weight of path length regularisation; 0 = none.
        terms:             {name: `Term`} of further methods.
        gan_loss:          name in `gan_losses.GAN_LOSSES`: 'logistic' (non-saturating) or 'hinge'.
        one_pass:          D's step has fakes and reals as one batch, in augmentation and D; without R1,
                           hence with nothing to do in Dreg.
    """

    def __init__(self, device, G_mapping, G_synthesis, D, augment_pipe=None, style_mixing_prob=0.9, r1_gamma=10,
                 pl_batch_shrink=2, pl_decay=0.01, pl_weight=2, terms=None, gan_loss='logistic', one_pass=False):
        if gan_loss not in GAN_LOSSES:
            raise ValueError(f'gan_loss is {gan_loss!r}, it must be one of {", ".join(GAN_LOSSES)}')
        if one_pass and r1_gamma != 0:
            raise ValueError(f'r1_gamma is {r1_gamma}: with one_pass there is no pass of reals alone; it must be 0')
        self.device = torch.device(device)
        self.G_mapping = G_mapping
        # main_...: what Gmain and Dmain call; compiled, if it is asked for
        self.G_synthesis = self.main_synthesis = G_synthesis
        self.D = self.main_D = D
        self.gan_loss, self.one_pass = GAN_LOSSES[gan_loss], one_pass
        self.augment_pipe = augment_pipe
        self.style_mixing_prob = style_mixing_prob
        self.r1_gamma = r1_gamma
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.pl_weight = pl_weight
        self.pl_mean = torch.zeros([], device=device)
        self.terms = torch.nn.ModuleDict(terms or {})
        for term in self.terms.values():
            term.bind(self)

    def state_dict(self):
        """Everything here that changes during training, as tensors by name."""
        return {'pl_mean': self.pl_mean, **{f'terms.{name}': value for name, value in self.terms.state_dict().items()}}

    def load_state_dict(self, state):
        self.pl_mean.copy_(state['pl_mean'])
        self.terms.load_state_dict({name.removeprefix('terms.'): value for name, value in state.items()
                                    if name.startswith('terms.')})

    def start_step(self, cur_nimg):
        """Before the micro-batches of an optimiser step."""
        for term in self.terms.values():
            term.start_step(cur_nimg)

    def finish_step(self, batch_idx):
        """After the last phase of iteration number `batch_idx` (from 0)."""
        for term in self.terms.values():
            term.finish_step(batch_idx)

    def regularises(self, phase):
        """Whether a regularisation is part of the phase: a derivative of a derivative."""
        return not phase.endswith('main') and (self.pl_weight if phase[0] == 'G' else self.r1_gamma) != 0

    def makes_gradients(self, phase):
        """Whether there is anything to do: a regularisation of weight 0 has nothing."""
        return not phase.endswith('reg') or self.regularises(phase)

    def exchanges(self, phase):
        """Whether processes exchange something in the midst of a phase: lengths of paths, statistics of batches."""
        synchronised = any(getattr(layer, 'sync', False) for layer in module_of(self.G_synthesis).modules())
        return synchronised or (phase[0] == 'G' and self.regularises(phase))

    def tensors(self):
        """What a phase may change beside gradients: the buffers of the networks and the terms, the mean length of
        paths."""
        parts = (self.G_mapping, self.G_synthesis, self.D, self.terms)
        modules = dict.fromkeys(module_of(part) for part in parts)
        return [self.pl_mean, *(buffer for module in modules for buffer in module.buffers())]

    def acting_terms(self, phase):
        """{name: term} of the terms that act in a phase. In a phase of regularisation only: the terms that may replace
        reals."""
        if not phase.endswith('reg'):
            return dict(self.terms.items())
        replace = lambda term: phase[0] == 'D' and type(term).replace_reals is not Term.replace_reals
        return {name: term for name, term in self.terms.items() if replace(term)}

    def recording_key(self, phase):
        """The `Term.recording_key` of all terms that act in this phase; None = the phase must not be recorded."""
        keys = tuple(term.recording_key(phase) for term in self.acting_terms(phase).values())
        return None if None in keys else keys

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, gain, real_idx=None, round_idx=0):
        """Adds the gradients of a phase to `.grad` of the network it trains.

        Args:
            phase:    one of PHASES; '...both' = main and regularisation in one pass.
            real_img: [N, C, H, W] in [-1, 1].
            real_c, gen_c: [N, c_dim].
            gen_z:    [N, z_dim].
            gain:     factor on the loss, the interval of a lazy regularisation.
            real_idx: [N] numbers of the images, for terms that keep something per image; None = unknown.
            round_idx: number of this micro-batch among those of the step.
        """
        if phase not in PHASES:
            raise ValueError(f'phase is {phase!r}, it must be one of {", ".join(PHASES)}')
        if not self.makes_gradients(phase):
            return
        main, reg = not phase.endswith('reg'), self.regularises(phase)
        step = Step(real_img.detach(), real_c, real_idx, gen_z, gen_c, round_idx, gain, self.gan_loss)
        if phase[0] == 'G':
            if main:
                self._g_main(step, gain)
            if reg:
                self._g_reg(gen_z, gen_c, gain)
        else:
            if self.one_pass and main:
                self._make_fakes(step)                  # a method may show them as reals
            for term in self.terms.values():
                term.replace_reals(step)
            step.real_img.requires_grad_(reg)
            if self.one_pass and main:
                self._d_one_pass(step, gain)
            elif main:
                self._d_main(step, gain, reg)
            else:
                self._d_real(step, gain, main=False, reg=True)

    # -- the two networks

    def run_G(self, z, c, synthesis=None):
        """-> gen_img, ws. synthesis: a compiled network to use instead, which cannot be differentiated twice."""
        ws = self.G_mapping(z, c)
        if self.style_mixing_prob > 0:
            num_ws = ws.shape[1]
            cutoff = 1 + (torch.rand([], device=ws.device) * (num_ws - 1)).floor()
            cutoff = torch.where(torch.rand([], device=ws.device) < self.style_mixing_prob, cutoff, num_ws)
            other = self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True)
            ws = torch.where(torch.arange(num_ws, device=ws.device)[None, :, None] < cutoff, ws, other)
        synthesis = self.G_synthesis if synthesis is None else synthesis
        return synthesis(ws), ws

    def augment(self, img):
        return img if self.augment_pipe is None else self.augment_pipe(img)

    def run_D(self, step, img, c, D=None):
        """Puts the logits of augmented images into the record, with the features if there are terms; -> logits.
        D: as in `run_G`."""
        D = self.D if D is None else D
        if len(self.terms) > 0:
            step.logits, step.features = D(img, c, return_features=True)
        else:
            step.logits = D(img, c)
        return step.logits

    # -- the phases

    def _g_main(self, step, gain):
        step.gen_img, _ws = self.run_G(step.gen_z, step.gen_c, self.main_synthesis)
        logits = self.run_D(step, self.augment(step.gen_img), step.gen_c, self.main_D)
        report_logits('fake', logits)
        loss = training_stats.report('Loss/G/loss', self.gan_loss.g(logits))
        (loss.mean() + self._terms('g_main', step)).mul(gain).backward()

    def _g_reg(self, gen_z, gen_c, gain):
        """Path length regularisation (StyleGAN2, equation 4)."""
        n = max(gen_z.shape[0] // self.pl_batch_shrink, 1)
        gen_img, ws = self.run_G(gen_z[:n], gen_c[:n])
        noise = torch.randn_like(gen_img) / math.sqrt(gen_img[0, 0].numel())
        with no_weight_gradients():
            grads, = torch.autograd.grad((gen_img * noise).sum(), ws, create_graph=True)
        lengths = grads.square().sum(2).mean(1).sqrt()
        # Not detached: the gradient also moves the mean towards the lengths
        pl_mean = self.pl_mean.lerp(distributed.mean(lengths.mean()), self.pl_decay)
        # A skipped step must not spoil the mean permanently
        self.pl_mean.copy_(torch.where(pl_mean.isfinite(), pl_mean, self.pl_mean).detach())
        penalty = training_stats.report('Loss/pl_penalty', (lengths - pl_mean).square())
        loss = training_stats.report('Loss/G/reg', penalty * self.pl_weight)
        loss.mean().mul(gain).backward()

    @torch.no_grad()
    def _make_fakes(self, step):
        step.gen_img, _ws = self.run_G(step.gen_z, step.gen_c, self.main_synthesis)

    def _d_one_pass(self, step, gain):
        """One pass of D: what moves in each, as the singular vectors of spectral norms, moves once for both kinds."""
        images = self.augment(torch.cat([step.gen_img, step.real_img]))
        step.gen_aug, step.real_aug = images.tensor_split(2)
        for term in self.terms.values():
            term.prepare(step)
        logits = self.run_D(step, images, torch.cat([step.gen_c, step.real_c]), self.main_D)
        halves = zip(logits.tensor_split(2), _halves(step.features), strict=True)
        total, losses = 0, []
        for kind, (step.logits, step.features) in zip(('fake', 'real'), halves, strict=True):
            report_logits(kind, step.logits)
            losses.append(getattr(self.gan_loss, f'd_{kind}')(step.logits))
            total = total + losses[-1].mean() + self._terms(f'd_{kind}', step)
        training_stats.report('Loss/D/loss', sum(losses))
        total.mul(gain).backward()

    def _d_main(self, step, gain, reg):
        """Two backward passes, fakes and then reals, so that one graph is alive at a time."""
        self._make_fakes(step)
        with torch.no_grad():
            step.gen_aug = self.augment(step.gen_img)
        step.real_aug = self.augment(step.real_img)
        for term in self.terms.values():
            term.prepare(step)
        logits = self.run_D(step, step.gen_aug, step.gen_c, self.main_D)
        report_logits('fake', logits)
        loss_fake = self.gan_loss.d_fake(logits)
        (loss_fake.mean() + self._terms('d_fake', step)).mul(gain).backward()
        self._d_real(step, gain, main=True, reg=reg, loss_fake=loss_fake.detach())

    def _d_real(self, step, gain, main, reg, loss_fake=None):
        if step.real_aug is None:
            step.real_aug = self.augment(step.real_img)
        logits = self.run_D(step, step.real_aug, step.real_c, None if reg else self.main_D)
        report_logits('real', logits)
        loss = 0
        if main:
            loss_real = self.gan_loss.d_real(logits)
            training_stats.report('Loss/D/loss', loss_fake + loss_real)
            loss = loss_real.mean() + self._terms('d_real', step)
        if reg:
            loss = loss + self._r1(step.real_img, logits).mean()
        loss.mul(gain).backward()

    def _r1(self, real_img, logits):
        """Zero-centred gradient penalty, through the augmentation to the clean image. -> [N]."""
        with no_weight_gradients():
            grads, = torch.autograd.grad(logits.sum(), real_img, create_graph=True)
        penalty = training_stats.report('Loss/r1_penalty', grads.square().sum([1, 2, 3]))
        return training_stats.report('Loss/D/reg', penalty * (self.r1_gamma / 2))

    def _terms(self, hook, step):
        """Sum of the losses that the terms give for a hook. The values reported are the values added."""
        total = 0
        for term in self.terms.values():
            for name, value in getattr(term, hook)(step).items():
                total = total + training_stats.report(f'Loss/{name}', value).mean()
        return total


def _halves(features):
    """`DiscriminatorFeatures` of fakes and reals together -> [those of the fakes, those of the reals]; None stays."""
    if features is None:
        return [None, None]
    parts = zip(*[[None, None] if x is None else x.tensor_split(2) for x in features], strict=True)
    return [type(features)(*part) for part in parts]


def report_logits(kind, logits):
    """`Loss/scores/...` = D's confidence, `Loss/signs/...` = the fraction that D calls real minus the fraction that it
    calls fake (what ADA follows)."""
    training_stats.report(f'Loss/scores/{kind}', logits)
    training_stats.report(f'Loss/signs/{kind}', logits.sign())
