"""Knowledge distillation as a term of the loss: training enters this package only here."""

import contextlib

import numpy as np
import torch

import dnnlib
from dnnlib import UserError
from torch_utils import distributed, training_stats
from training.loss import StyleGAN2Loss
from training.loss_terms import Term

from .distillers.distiller import Pass
from .distillers.heads import HEADS
from .distillers.settings import PRESETS, Preset
from .distillers.table import DISTILLERS
from .distillers.targets import TARGETS, Raw
from .feature_cache import MAX_IMAGES, real_features
from .gradient_share import GradientShare
from .teacher import check_name, load_for_training, load_teacher, may_know_texts
from .weighting import FACTORS, Weighting

ON_CARD = {'KD/gradient_share': "its gradient in D relative to the adversarial loss's, at the end",
           'KD/weight_factor': 'factor on its weights, at the end'}
SAME_TEXTS = 0.999              # smallest cosine of text embeddings that are all alike
STATISTICS_IMAGES = 10_000      # real images for the statistics of targets, if not all are in the cache


def alike(text_feats):
    """Whether the embeddings of texts [K, M] are all the same up to their length; None = there are none."""
    if text_feats is None:
        return False
    rows = torch.nn.functional.normalize(text_feats.to(torch.float32), dim=1)
    return bool((rows @ rows.T).min() > SAME_TEXTS)


def encode_texts(teacher, texts):
    """list of K str -> [K, M]. Raises UserError for a text that the teacher makes no numbers of."""
    feats = teacher.encode_text(texts)
    if not feats.isfinite().all():
        bad = texts[int(torch.nonzero(~feats.isfinite().all(1))[0])]
        raise UserError(f'{teacher.option}: its features of the text {bad!r} are infinite or NaN; use other '
                        '--kd-texts, or another teacher')
    return feats


def _as_calibrated(settings):
    """{field: value} of what is calibrated, numbers as a preset spells them (10 is 10.0 where an option gives it),
    without later additions that are off: they change no run begun before."""
    later = Preset._field_defaults
    presets = PRESETS.values()
    spelled = lambda field, value: next((own for preset in presets if (own := getattr(preset, field)) == value), value)
    return {field: spelled(field, value) for field, value in settings._asdict().items()
            if field not in FACTORS and not (field in later and value == later[field])}


class Distillation(Term):
    """Distils a frozen teacher into the discriminator, in one or several of the ways of `distillers.DISTILLERS`.

    Acts in the main phase of D only (also in that of G for a method that says so), never in a regularisation.

    Args:
        teacher:       `Teacher`.
        feature_dim:   width of D's last hidden layer.
        methods:       their names.
        texts:         list of K texts, for methods that need some.
        settings:      `settings.Preset`.
        cache:         [n, dim] the teacher's features of the real images by their number; None = compute them as they
                       come.
        seed:          of the methods' draws.
        targets:       one of `targets.TARGETS`; None = the embeddings as they are.
        batch_size:    images per step, over all processes; for --kd-share and --kd-adapt only.
    """

    columns = (training_stats.Column('agree', 'KD/agreement_real', 6, 2),)
    has_teacher = True
    tag = 'kd-dlgan'

    def __init__(self, teacher, feature_dim, methods, texts, settings, cache=None, seed=0, targets=None,
                 batch_size=None):
        super().__init__()
        self.settings = settings
        self.__dict__['teacher'] = teacher              # not a submodule: neither trained nor saved
        rate = dict(lr_multiplier=settings.head_lr) if settings.head == 'linear' else {}
        self.head = HEADS[settings.head](feature_dim, teacher.dim, **rate)
        chosen = {name: method for name, method in DISTILLERS.items() if name in methods}
        needs_texts = any(method.min_texts > 0 for method in chosen.values())
        text_feats = encode_texts(teacher, texts) if needs_texts else None
        self.methods = torch.nn.ModuleDict({name: method(settings, text_feats, seed)
                                            for name, method in chosen.items()})
        self.cache = cache                              # no buffer: nothing changes it, and it may be large
        self.targets = targets or Raw()
        self.share = GradientShare()
        distilled = teacher.identity, [*chosen], _as_calibrated(settings), texts if text_feats is not None else None
        self.weighting = Weighting(settings, batch_size, source=repr(distilled))

    @classmethod
    def build(cls, device, D, methods, teacher, texts, texts_origin, settings, training_set_kwargs, seed=0,
              teacher_fp32=True, batch_size=None):
        """Loads the teacher by name and, where needed, its features of the data set. -> `Distillation` on `device`.

        settings: dict of `settings.Preset`'s fields; training_set_kwargs: constructor arguments of the data set.
        """
        settings = Preset(**settings)
        with distributed.main_process_first():          # which may download it
            loaded = load_for_training(teacher, device, teacher_fp32)
        with contextlib.closing(dnnlib.util.construct_class_by_name(**training_set_kwargs)) as dataset:
            cache = targets = None
            raw_input = settings.teacher_input == 'raw'
            if settings.view == 'clean' and len(dataset) <= MAX_IMAGES:
                cache = real_features(loaded, dataset, raw_input)
            if settings.target_norm != 'raw':
                targets = _build_targets(TARGETS[settings.target_norm], loaded, dataset, raw_input, cache)
        distillation = cls(loaded, D.feature_dim, methods, texts, settings, cache, seed, targets, batch_size)
        weights = ', '.join(f'{name} {getattr(settings, f"weight_{name}"):g}' for name in methods)
        notes = [f'Knowledge distillation: {weights} from teacher {teacher}; {len(texts)} texts ({texts_origin}).']
        if 'cgkd' in methods and settings.pd == 'off':
            notes.append('Pairwise diversity of the teacher has no gradient in the D step: it is logged, not trained '
                         '(--kd-pd).')
        if any(alike(method.text_feats) for method in distillation.methods.values()):
            notes.append(f'Warning: the teacher {teacher} does not tell the texts apart, so that there is next to '
                         'nothing to learn from them; use another --kd-teacher, or --kd-texts that it knows.')
        distillation.notes = tuple(notes)
        return distillation.to(device)

    # -- the model card

    @classmethod
    def summary(cls, kwargs):
        return f'knowledge distillation from a vision-language teacher ({", ".join(kwargs.get("methods", []))})'

    @classmethod
    def card_rows(cls, kwargs, stats):
        settings = ', '.join(f'{key} {value}' for key, value in kwargs.get('settings', {}).items())
        return [('distillation', ', '.join(kwargs.get('methods', []))), ('teacher', kwargs.get('teacher')),
                ('its settings and those of the methods', settings),
                *[(name, f'{stats[key]["mean"]:.3g}') for key, name in ON_CARD.items() if key in stats]]

    # -- hooks

    def bind(self, loss):
        self.readout = loss.D.readout
        self.weighting.bind()

    def start_step(self, cur_nimg):
        self.share.start_step()
        self.weighting.start_step(cur_nimg)
        for method in self.methods.values():
            method.start_step(cur_nimg)

    def recording_key(self, phase):
        """The draws of the methods that act in the phase; their weights are tensors."""
        return tuple(method.drawn() for method in self.methods.values() if phase[0] == 'D' or method.in_g_step)

    @torch.no_grad()
    def prepare(self, step):
        """The teacher's features are constants of the D step: computed once here, they serve both passes."""
        step.kept['gen'] = self._embed(step.gen_aug if self._sees_augmented else step.gen_img)
        step.kept['real'] = self._embed_real(step)

    def d_fake(self, step):
        return self._d_losses(step, 'fake', own=step.kept['gen'], other=step.kept['real'])

    def d_real(self, step):
        return self._d_losses(step, 'real', own=step.kept['real'], other=step.kept['gen'])

    def g_main(self, step):
        if self.settings.head == 'released':            # a part of D there, whose every pass moves it
            with torch.no_grad():
                self.head.train()(step.features.epilogue[:1])
        methods = [method for method in self.methods.values() if method.in_g_step]
        if not methods:
            return {}
        gen = self._embed(step.gen_img)             # the gradient goes through the teacher to G
        with torch.no_grad():
            real = self._embed_real(step)
        return self.weighting.weighted([method.g_losses(gen, real) for method in methods], self.weighting.in_g_step)

    def finish_step(self, batch_idx):
        self.weighting.finish_step(batch_idx, self.share.norms())

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
            return (kept if step.pseudo is None
                    else torch.where(step.pseudo[:, None], self._embed(step.real_img.detach()), kept))
        seen_by_d = self._sees_augmented and step.real_aug is not None
        return self._embed((step.real_aug if seen_by_d else step.real_img).detach())

    def _d_losses(self, step, kind, own, other):
        self.head.train(kind == 'real')     # fakes and reals have one spectral norm, stored once, as after one pass
        student = self.head(self.share.watch(step, kind, self.readout))
        rows = Pass(kind, student, self.targets(own), self.targets(other))
        beside_texts = Pass(kind, self.targets.embedding(student), own, other)
        report_agreement(kind, rows.student, rows.own)
        losses = [method.d_losses(beside_texts if method.min_texts > 0 else rows) for method in self.methods.values()]
        return self.weighting.weighted(losses, self.weighting.in_d_step)


def report_agreement(kind, student, teacher):
    """`KD/agreement_real` and `..._fake`: cosine of the two embeddings [N, M] of an image, whether it is trained or
    not."""
    training_stats.report(f'KD/agreement_{kind}', torch.nn.functional.cosine_similarity(student.detach(), teacher))


class KDLoss(StyleGAN2Loss):
    """`StyleGAN2Loss` with `Distillation` among its terms, for programs that build a loss themselves.

    Args:
        kd_kwargs: arguments of `Distillation.build`.
        others:    as in `StyleGAN2Loss`.
    """

    def __init__(self, device, G_mapping, G_synthesis, D, kd_kwargs, terms=None, **kwargs):
        distillation = Distillation.build(device, D, **kd_kwargs)
        super().__init__(device, G_mapping, G_synthesis, D, terms={**(terms or {}), 'kd': distillation}, **kwargs)


def _build_targets(kind, teacher, dataset, raw_input, cache):
    """Statistics come from the cache or, without one, from up to 10,000 clean images spread evenly over the set."""
    if not kind.has_statistics:
        return kind()
    if cache is None:
        items = np.linspace(0, len(dataset) - 1, min(STATISTICS_IMAGES, len(dataset))).round().astype(int)
        cache = real_features(teacher, dataset, raw_input, items)
    return kind(cache, source=f'{dataset.content_hash()} {teacher.identity} {raw_input}')


def check_distillation(feature_dim, methods, teacher, texts, settings, **_others):
    """Raises UserError for what would stop `Distillation.build`, as far as no image or text has to be encoded: called
    before a run directory is made."""
    check_choices(methods, teacher, texts)
    with distributed.main_process_first():
        loaded = load_teacher(teacher)
    if settings['head'] == 'none':
        HEADS['none'](feature_dim, loaded.dim)
    for name in methods:
        if DISTILLERS[name].min_texts > 0:
            loaded.check_texts(remedy=_without_texts(name))


def check_choices(methods, teacher, texts, **_others):
    """The part of `check_distillation` that loads nothing. Raises UserError."""
    for name in methods:
        if DISTILLERS[name].min_texts > 0 and not may_know_texts(teacher):
            raise UserError(f'--kd-teacher={teacher}', 'knows images only, not texts', _without_texts(name))
        if len(texts) < DISTILLERS[name].min_texts:
            raise UserError(f'--kd-texts: {name} needs at least {DISTILLERS[name].min_texts} texts, there are '
                            f'{len(texts)}')
    check_name(teacher)


def _without_texts(name):
    """The remedy for a method that needs texts."""
    return f'leave {name} out of --kd, or give a teacher that knows texts too'
