"""The StyleGAN2 loss with knowledge distillation: the training loop's only door into this package."""

import contextlib

import torch

import dnnlib
from dnnlib import UserError
from torch_utils import distributed, training_stats
from training.loss import StyleGAN2Loss
from training.loss_terms import Term

from .distiller import Pass
from .distillers import DISTILLERS
from .feature_cache import MAX_IMAGES, real_features
from .heads import HEADS
from .presets import Preset
from .teacher import load_for_training, load_teacher


class Distillation(Term):
    """Distils a frozen teacher into the discriminator, in one or several of the ways of `distillers.DISTILLERS`.

    Acts in the main part of the D step only (in that of the G step, too, for a method that says so); never in a regularisation.

    Args:
        teacher:       `Teacher`.
        feature_dim:   width of D's last hidden layer.
        methods:       their names.
        texts:         list of K texts, for methods that need some.
        settings:      `presets.Preset`.
        cache:         [n, dim] the teacher's features of the real images by their number; None = compute them as they come.
        seed:          of the methods' draws.
    """

    def __init__(self, teacher, feature_dim, methods, texts, settings, cache=None, seed=0):
        super().__init__()
        self.settings = settings
        self.__dict__['teacher'] = teacher              # travels by name: neither trained nor saved
        self.head = HEADS[settings.head](feature_dim, teacher.dim)
        chosen = {name: method for name, method in DISTILLERS.items() if name in methods}
        text_feats = teacher.encode_text(texts) if any(method.min_texts > 0 for method in chosen.values()) else None
        self.methods = torch.nn.ModuleDict({name: method(settings, text_feats, seed) for name, method in chosen.items()})
        self.register_buffer('cache', cache, persistent=False)
        self.ramp = 1.0

    # -- hooks

    def start_step(self, cur_nimg):
        warmup_nimg = self.settings.warmup * 1000
        self.ramp = min(cur_nimg / warmup_nimg, 1.0) if warmup_nimg > 0 else 1.0
        for method in self.methods.values():
            method.start_step(cur_nimg)

    def recording_key(self, phase):
        """The draws of the methods that act in it; None while their weights still grow."""
        acting = [method for method in self.methods.values() if phase[0] == 'D' or method.in_g_step]
        return tuple(method.drawn() for method in acting) if self.ramp == 1 or not acting else None

    @torch.no_grad()
    def prepare(self, step):
        """The teacher's features are constants of the D step: computed once here, they serve both passes."""
        step.notes['gen'] = self._embed(step.gen_aug if self._sees_augmented else step.gen_img)
        step.notes['real'] = self._embed_real(step)

    def d_fake(self, step):
        return self._d_losses(step, 'fake', own=step.notes['gen'], other=step.notes['real'])

    def d_real(self, step):
        return self._d_losses(step, 'real', own=step.notes['real'], other=step.notes['gen'])

    def g_main(self, step):
        methods = [method for method in self.methods.values() if method.in_g_step]
        if not methods:
            return {}
        gen = self._embed(step.gen_img)             # the gradient goes through the teacher to G
        with torch.no_grad():
            real = self._embed_real(step)
        return self._weighted(method.g_losses(gen, real) for method in methods)

    # -- parts

    def image_features(self, img):
        return self._embed(img)

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

    def _d_losses(self, step, kind, own, other):
        rows = Pass(kind, self.head(step.features.epilogue), own, other)
        report_agreement(kind, rows.student, own)
        return self._weighted(method.d_losses(rows) for method in self.methods.values())

    def _weighted(self, losses):
        return {f'KD/{name}': value * (weight * self.ramp) for found in losses for name, (value, weight) in found.items()}


def report_agreement(kind, student, teacher):
    """`KD/agreement_real` and `..._fake`: cosine of the two embeddings [N, M] of an image, whether or not it is what is trained."""
    training_stats.report(f'KD/agreement_{kind}', torch.nn.functional.cosine_similarity(student.detach(), teacher))


class KDLoss(StyleGAN2Loss):
    """`StyleGAN2Loss` with `Distillation` among its terms.

    Args:
        kd_kwargs: arguments of `build_distillation`.
        others:    as in `StyleGAN2Loss`.
    """

    def __init__(self, device, G_mapping, G_synthesis, D, kd_kwargs, terms=None, **kwargs):
        distillation = build_distillation(device=device, feature_dim=D.feature_dim, **kd_kwargs)
        super().__init__(device, G_mapping, G_synthesis, D, terms={**(terms or {}), 'kd': distillation}, **kwargs)


def build_distillation(device, feature_dim, methods, teacher, texts, texts_origin, settings, training_set_kwargs, seed=0, teacher_fp32=True):
    """Loads the teacher by name and, where it sees clean images, its features of the data set. -> `Distillation` on `device`.

    settings: dict of `presets.Preset`'s fields; training_set_kwargs: constructor arguments of the data set.
    """
    settings = Preset(**settings)
    distributed.print0(f'Knowledge distillation: {", ".join(methods)} from teacher {teacher}; {len(texts)} texts ({texts_origin}).')
    if 'cgkd' in methods and settings.pd == 'off':
        distributed.print0('Pairwise diversity of the teacher has no gradient in the D step: it is logged, not trained (--kd-pd).')
    with distributed.main_process_first():          # which may download it
        teacher = load_for_training(teacher, device, teacher_fp32)
    cache = None
    if settings.view == 'clean':
        with contextlib.closing(dnnlib.util.construct_class_by_name(**training_set_kwargs)) as dataset:
            if len(dataset) <= MAX_IMAGES:
                cache = real_features(teacher, dataset, raw_input=settings.teacher_input == 'raw')
    return Distillation(teacher, feature_dim, methods, texts, settings, cache, seed).to(device)


def check_distillation(feature_dim, methods, teacher, texts, settings, **_others):
    """Raises UserError for whatever would stop `build_distillation`: called before a run directory is made."""
    with distributed.main_process_first():
        loaded = load_teacher(teacher)
    if settings['head'] == 'none':
        HEADS['none'](feature_dim, loaded.dim)
    for name in methods:
        if DISTILLERS[name].min_texts > 0:
            loaded.check_texts(remedy=f'leave {name} out of --kd, or give a teacher that knows texts too')
        if len(texts) < DISTILLERS[name].min_texts:
            raise UserError(f'--kd-texts: {name} needs at least {DISTILLERS[name].min_texts} texts, there are {len(texts)}')
