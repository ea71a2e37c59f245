"""The StyleGAN2 loss with knowledge distillation: the training loop's only door into this package."""

import contextlib

import torch

import dnnlib
from dnnlib import UserError
from torch_utils import distributed, training_stats
from training.loss import StyleGAN2Loss
from training.loss_terms import Term

from . import agkd, cgkd
from .feature_cache import MAX_IMAGES, real_features
from .heads import HEADS
from .presets import Preset
from .teacher import load_teacher


class Distillation(Term):
    """AGKD and CGKD of a frozen teacher into the discriminator (KD-DLGAN, CVPR 2023, section 3).

    Acts in the main part of the D step only (with pd='generator' also in that of the G step); never in a regularisation.

    Args:
        teacher:       `Teacher`.
        feature_dim:   width of D's last hidden layer.
        methods:       'agkd', 'cgkd' or both.
        texts:         list of K texts for the correlations.
        settings:      `presets.Preset`.
        cache:         [n, dim] the teacher's features of the real images by their number; None = compute them as they come.
        seed:          of the draws of q.
    """

    def __init__(self, teacher, feature_dim, methods, texts, settings, cache=None, seed=0):
        super().__init__()
        l2 = settings.distance == 'l2'
        self.settings = settings
        self.__dict__['teacher'] = teacher              # travels by name: neither trained nor saved
        self.head = HEADS[settings.head](feature_dim, teacher.dim)
        self.agkd = agkd.AGKD(agkd.euclidean if l2 else agkd.l1, settings.p, seed) if 'agkd' in methods else None
        text_feats = teacher.encode_text(texts) if 'cgkd' in methods else None
        self.cgkd = cgkd.CGKD(text_feats, cgkd.squared if l2 else cgkd.l1, settings.reduction) if 'cgkd' in methods else None
        self.register_buffer('cache', cache, persistent=False)
        self.ramp = 1.0

    # -- hooks

    def start_step(self, cur_nimg):
        warmup_nimg = self.settings.warmup * 1000
        self.ramp = min(cur_nimg / warmup_nimg, 1.0) if warmup_nimg > 0 else 1.0
        if self.agkd is not None:
            self.agkd.start_step(cur_nimg)

    def recording_key(self):
        """The draw of q; none while the weights still grow."""
        return (self.agkd is not None and self.agkd.aggregate,) if self.ramp == 1 else None

    @torch.no_grad()
    def prepare(self, step):
        """The teacher's features are constants of the D step: computed once here, they serve both passes."""
        step.notes['gen'] = self._embed(step.gen_aug if self._sees_augmented else step.gen_img)
        step.notes['real'] = self._embed_real(step)

    def d_fake(self, step):
        student = self.head(step.features.epilogue)
        losses = self._agkd(student, own=step.notes['gen'], other=step.notes['real'], kind='fake')
        losses.update(self._cgkd(student, step.notes['gen'], kind='fake'))
        if self.cgkd is not None:
            losses.update(self._diversity(student, step.notes['gen']))
        return losses

    def d_real(self, step):
        student = self.head(step.features.epilogue)
        losses = self._agkd(student, own=step.notes['real'], other=step.notes['gen'], kind='real')
        if self.settings.samples == 'both':
            losses.update(self._cgkd(student, step.notes['real'], kind='real'))
        return losses

    def g_main(self, step):
        if self.cgkd is None or self.settings.pd != 'generator' or len(step.gen_img) < 2:
            return {}
        gen = cgkd.image_text_correlation(self._embed(step.gen_img), self.cgkd.text_feats)      # through the teacher to G
        with torch.no_grad():
            real = cgkd.image_text_correlation(self._embed_real(step), self.cgkd.text_feats)
        return {'KD/diversity_generator': cgkd.hinged_pairwise_cosine(gen, real) * (self.settings.weight_pd * self.ramp)}

    # -- parts

    @property
    def _sees_augmented(self):
        return self.settings.view == 'augmented'

    def _embed(self, img):
        return self.teacher.encode_image(img, raw_input=self.settings.teacher_input == 'raw')

    def _embed_real(self, step):
        if self.cache is not None and step.real_idx is not None:
            kept = self.cache[step.real_idx]
            return kept if step.pseudo is None else torch.where(step.pseudo[:, None], self._embed(step.real_img.detach()), kept)
        seen_by_d = self._sees_augmented and step.real_aug is not None
        return self._embed((step.real_aug if seen_by_d else step.real_img).detach())

    def _agkd(self, student, own, other, kind):
        return {} if self.agkd is None else {f'KD/agkd_{kind}': self.agkd(student, own, other) * (self.settings.weight_agkd * self.ramp)}

    def _cgkd(self, student, teacher, kind):
        return {} if self.cgkd is None else {f'KD/cgkd_{kind}': self.cgkd(student, teacher) * (self.settings.weight_cgkd * self.ramp)}

    def _diversity(self, student, teacher):
        """L_PD. On the teacher's rows, as printed, it is constant in the D step: reported, never added."""
        if len(student) < 2:
            return {}
        training_stats.report('KD/diversity_teacher', cgkd.mean_pairwise_cosine(cgkd.image_text_correlation(teacher, self.cgkd.text_feats)))
        if self.settings.pd != 'student':
            return {}
        rows = cgkd.image_text_correlation(student, self.cgkd.text_feats)
        return {'KD/diversity_student': cgkd.mean_pairwise_cosine(rows) * (self.settings.weight_pd * self.ramp)}


class KDLoss(StyleGAN2Loss):
    """`StyleGAN2Loss` with `Distillation` among its terms.

    Args:
        kd_kwargs: arguments of `build_distillation`.
        others:    as in `StyleGAN2Loss`.
    """

    def __init__(self, device, G_mapping, G_synthesis, D, kd_kwargs, terms=None, **kwargs):
        distillation = build_distillation(device=device, feature_dim=D.feature_dim, **kd_kwargs)
        super().__init__(device, G_mapping, G_synthesis, D, terms={**(terms or {}), 'kd': distillation}, **kwargs)


def build_distillation(device, feature_dim, methods, teacher, texts, texts_origin, settings, training_set_kwargs, seed=0):
    """Loads the teacher by name and, where it sees clean images, its features of the data set. -> `Distillation` on `device`.

    settings: dict of `presets.Preset`'s fields; training_set_kwargs: constructor arguments of the data set.
    """
    settings = Preset(**settings)
    distributed.print0(f'Knowledge distillation: {", ".join(methods)} from teacher {teacher}; {len(texts)} texts ({texts_origin}).')
    if 'cgkd' in methods and settings.pd == 'off':
        distributed.print0('Pairwise diversity of the teacher has no gradient in the D step: it is logged, not trained (--kd-pd).')
    with distributed.main_process_first():          # which may download it
        teacher = load_teacher(teacher, device)
    cache = None
    if settings.view == 'clean':
        with contextlib.closing(dnnlib.util.construct_class_by_name(**training_set_kwargs)) as dataset:
            if len(dataset) <= MAX_IMAGES:
                cache = real_features(teacher, dataset, raw_input=settings.teacher_input == 'raw')
    return Distillation(teacher, feature_dim, methods, texts, settings, cache, seed).to(device)


def check_distillation(feature_dim, methods, teacher, texts, settings, **_others):
    """Raises UserError for whatever would stop `build_distillation`: called before a run directory is made."""
    with distributed.main_process_first():
        dim = load_teacher(teacher).dim
    if settings['head'] == 'none':
        HEADS['none'](feature_dim, dim)
    if 'cgkd' in methods and not texts:
        raise UserError('--kd-texts: there are no texts, CGKD needs at least one')
