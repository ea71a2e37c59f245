"""The --kd-... options of train.py, and the part of the configuration that they make."""

import click

from dnnlib import UserError
from dnnlib.commands import FiniteRange, none_is_off
from dnnlib.errors import refuse_idle
from dnnlib.text import rounded
from dnnlib.util import split_names
from training.config.build import half_suits
from training.methods.method import Method
from training.networks_setup import feature_width

from .distillers.agkd import DISTANCES
from .distillers.diversity import READINGS
from .distillers.heads import HEADS
from .distillers.settings import DEFAULT, PRESETS, SWITCHES, Preset
from .distillers.table import DISTILLERS
from .distillers.targets import TARGETS
from .loss import check_choices, check_distillation
from .prompts import resolve_texts
from .teacher import forms, share_network
from .weighting import ADAPT_START_NIMG

DEFAULT_TEACHER = 'ViT-B/32'

_WEIGHT = FiniteRange(min=0)
_OPTIONS = [
    click.option('--kd', callback=none_is_off, metavar='LIST',
                 help=f'Knowledge distillation into the discriminator: {", ".join(DISTILLERS)}, or several; or none'),
    click.option('--kd-preset', help='Settings of the paper with a tenth of its weights, of the paper, or of the '
                                     f'code that its authors released  [default: {DEFAULT}]',
                 type=click.Choice(list(PRESETS))),
    click.option('--kd-teacher', help=f'{forms()}  [default: {DEFAULT_TEACHER}; demo for --data=demo]', metavar='NAME'),
    click.option('--kd-texts', help='Texts for CGKD and labeldist: auto, a preset, or a file with one per line',
                 metavar='FILE|PRESET'),
    *[click.option(f'--kd-weight-{name}', help=f'Weight of {name}', type=_WEIGHT) for name in DISTILLERS],
    click.option('--kd-weight-pd', help='Weight of pairwise diversity', type=_WEIGHT),
    click.option('--kd-weight-anchor', help="With --kd-pd=adapter: how strongly the adapted features are held to the "
                                            "teacher's", type=_WEIGHT),
    click.option('--kd-p', help="Probability of AGKD's aggregation", type=FiniteRange(0, 1)),
    click.option('--kd-distance', help='l1; l2 = Euclidean in AGKD and squared in CGKD; cosine = of directions',
                 type=click.Choice(list(DISTANCES))),
    click.option('--kd-reduction', help='CGKD over the batch', type=click.Choice(['mean', 'sum'])),
    click.option('--kd-samples', help='CGKD on fakes, or on reals too', type=click.Choice(['fake', 'both'])),
    click.option('--kd-head', help="From the discriminator's features to the teacher's width",
                 type=click.Choice(list(HEADS), case_sensitive=False)),
    click.option('--kd-head-lr', help='Factor on the learning rate of the linear head  [default: 1]',
                 type=FiniteRange(min=0, min_open=True)),
    click.option('--kd-target-norm', type=click.Choice(list(TARGETS)),
                 help="The teacher's features as they are, of length 10, centred and scaled by one number, or by "
                      'channel  [default: raw]'),
    click.option('--kd-view', help='What the teacher sees', type=click.Choice(['clean', 'augmented'])),
    click.option('--kd-input', help="clip = the teacher's own preprocessing, raw = pixels copied and left in [-1, 1]",
                 type=click.Choice(['clip', 'raw'])),
    click.option('--kd-center', help="Subtract from an image's correlations their mean over the texts", type=bool,
                 metavar='BOOL'),
    click.option('--kd-temperature', help='Temperature of labeldist', type=FiniteRange(min=0, min_open=True)),
    click.option('--kd-pd', help='Pairwise diversity: off, on the student (D step), through the generator (G step), or '
                                 'of an adapter of the teacher',
                 type=click.Choice(list(READINGS))),
    click.option('--kd-warmup', help='Weights grow from zero over this many kimg', type=FiniteRange(min=0),
                 metavar='KIMG'),
    click.option('--kd-decay', help='Weights fall to zero over this many kimg, after the warm-up',
                 type=FiniteRange(min=0, min_open=True), metavar='KIMG'),
    click.option('--kd-decay-to', help='With --kd-decay: the part of the weights that stays  [default: 0]',
                 type=FiniteRange(0, 1, min_open=True, max_open=True), metavar='SHARE'),
    click.option('--kd-share', type=FiniteRange(min=0, min_open=True), metavar='RHO',
                 help="Weights are scaled so that distillation's gradient in D is this share of the adversarial one "
                      'over the first kimg'),
    click.option('--kd-adapt', type=FiniteRange(0, 1, min_open=True), metavar='TARGET',
                 help="Weights grow while the mean sign of D's logits for reals is above this, and fall while it is "
                      'below'),
]
# option of the command line -> field of settings.Preset
_FIELDS = {'kd_input' if field == 'teacher_input' else f'kd_{field}': field for field in Preset._fields}


def _configure(opts, config, dataset):
    """Arguments of `loss.Distillation.build`; config has schedule and networks. Raises UserError for what does not go
    together."""
    methods = list(dict.fromkeys(split_names(opts['kd'])))
    unknown = [name for name in methods if name not in DISTILLERS]
    if unknown or not methods:
        raise UserError(f'--kd={opts["kd"]}: {", ".join(unknown) or "nothing"} is no method; use one or several of '
                        f'{", ".join(DISTILLERS)}')
    given = {field: opts[name] for name, field in _FIELDS.items() if opts[name] is not None}
    settings = PRESETS[opts['kd_preset'] or DEFAULT]._replace(**given)
    idle = _idle_fields(opts['kd'], methods, settings.pd)
    for name, field in _FIELDS.items():
        if field in idle:
            choice, remedy = idle[field]
            refuse_idle(f'with {choice}', remedy, **{name: opts[name]})
    _refuse_idle_choices(opts, methods, settings, config)
    if config.batch_gpu == 1:
        _check_single_images(methods, settings)
    texts, origin = resolve_texts(settings.texts, dataset.name, dataset.class_names)
    if settings.center and len(texts) < 3:
        raise UserError(f'--kd-center=1: with {len(texts)} texts nothing but signs is left of the correlations; '
                        '--kd-texts needs three or more')
    teacher = opts['kd_teacher'] or ('demo' if opts['data'] == 'demo' else DEFAULT_TEACHER)
    batch = dict(batch_size=config.batch_size) if settings.share > 0 or settings.adapt > 0 else {}
    return dict(methods=methods, teacher=teacher, teacher_fp32=not half_suits(opts, config.device), texts=texts,
                texts_origin=origin, settings=_recorded(settings, idle), seed=config.random_seed,
                training_set_kwargs=config.training_set_kwargs, **batch)


def _refuse_idle_choices(opts, methods, settings, config):
    """Raises UserError for settings that have no effect with the values of others."""
    if settings.head != 'linear':
        refuse_idle(f'with --kd-head={settings.head}', 'use --kd-head=linear, or leave it out',
                    kd_head_lr=opts['kd_head_lr'])
    if settings.decay == 0:
        refuse_idle('without --kd-decay', 'add that, or leave it out', kd_decay_to=opts['kd_decay_to'])
    if settings.target_norm == 'unit' and all(DISTILLERS[name].compares_directions(settings) for name in methods):
        refuse_idle(f'with --kd={opts["kd"]}, which compares directions only',
                    'use --kd-target-norm=centred, or leave it out', kd_target_norm=opts['kd_target_norm'])
    if settings.view == 'augmented' and config.augment_kwargs is None:
        refuse_idle('where nothing is augmented', 'use --kd-view=clean, or another --aug', kd_view=opts['kd_view'])
    _check_schedule(opts, settings, config)
    for name in methods:
        if not _acts(name, settings):
            raise UserError(f'--kd-weight-{name}=0: {name} then does nothing; leave {name} out of --kd, or give it a '
                            'weight')
    if not any(_acts(name, settings, in_d=True) for name in methods):
        refuse_idle('where nothing is distilled into D', 'give a method a weight, or leave it out',
                    kd_share=opts['kd_share'], kd_adapt=opts['kd_adapt'])
    if config.total_kimg * 1000 <= ADAPT_START_NIMG:
        refuse_idle(f'up to {ADAPT_START_NIMG / 1000:g} kimg, where this run ends',
                    'use a larger --kimg, or leave it out', kd_adapt=opts['kd_adapt'])


def _has_diversity(settings):
    return 'weight_pd' in READINGS[settings.pd].fields and settings.weight_pd > 0


def _acts(name, settings, in_d=False):
    """Whether a method has any effect on D or G, or on D: by its weight or, CGKD, by a reading of diversity that trains
    one of them itself."""
    reading = READINGS[settings.pd]
    trains = reading.trains_d or reading.in_g_step and not in_d
    return getattr(settings, f'weight_{name}') > 0 or name == 'cgkd' and trains and settings.weight_pd > 0


def _check_schedule(opts, settings, config):
    """Raises UserError for weights that are never full, or gone at once."""
    if opts['kd_warmup'] is not None and settings.warmup >= config.total_kimg:
        raise UserError(f'--kd-warmup={settings.warmup:g}: the run ends after {config.total_kimg:g} kimg, before the '
                        f'weights are full; use a smaller one, such as {rounded(config.total_kimg / 10)}')
    if settings.decay_to == 0 and 0 < settings.decay * 1000 <= config.batch_size:
        raise UserError(f'--kd-decay={settings.decay:g}: the weights would fall to nothing within a step; use a larger '
                        f'one, such as {rounded(config.total_kimg / 2)}')


def _check_single_images(methods, settings):
    """Raises UserError for methods that compare the images of a micro-batch, if that is one image."""
    comparing = [(f'--kd={name}', f'leave {name} out') for name in methods if DISTILLERS[name].couples]
    if 'cgkd' in methods and _has_diversity(settings):
        comparing.append((f'--kd-pd={settings.pd}', 'use --kd-pd=off'))
    if comparing:
        option, remedy = comparing[0]
        raise UserError(f'{option}: compares the images of a micro-batch, and here that is a single one; use a larger '
                        f'--batch or --batch-gpu, or {remedy}')


def _idle_fields(kd, methods, pd):
    """{field: (what it has no effect with, the remedy)} for the settings that only other methods, or other readings of
    diversity, use."""
    readings = {f'--kd-pd={name}': reading.fields for name, reading in READINGS.items()}
    fields = {name: (f'weight_{name}', *method.fields) for name, method in DISTILLERS.items()}
    return {**_unused(readings, [f'--kd-pd={pd}'], f'--kd-pd={pd}'), **_unused(fields, methods, f'--kd={kd}')}


def _unused(claims, chosen, choice):
    """claims: name -> its fields. -> {field: (choice, what to add)}, except for the fields of the chosen ones."""
    used = {field for name in chosen for field in claims[name]}
    users = lambda field: [name for name in claims if field in claims[name]]
    return {field: (choice, f'add {" or ".join(users(field))}, or leave it out')
            for fields in claims.values() for field in fields if field not in used}


def _recorded(settings, idle):
    """The settings for the configuration, without later additions that are idle or off, so that older runs can be
    continued."""
    later = Preset._field_defaults
    left_out = lambda field, value: field in later and (field in idle or field in SWITCHES and value == later[field])
    return {field: value for field, value in settings._asdict().items() if not left_out(field, value)}


def note_on_judge(judge, config):
    """A line for the start of a run whose metrics are in the features of `judge`, if these take part in its training;
    else None."""
    of_D, of_G = config.terms.get('kd', {}).get('teacher'), config.terms.get('vision_aided', {}).get('teachers', [])
    ways = [(name, f'which D learns to match, from the teacher {name}') for name in [of_D] if name is not None]
    ways += [(name, f'through which G is trained, by --vision-aided={name}') for name in of_G]
    way = next((way for name, way in ways if share_network(name, judge)), None)
    if way is None:
        return None
    other = 'lite0' if share_network('lite2', judge) else 'lite2'
    return (f'Note: the metrics use the features of {judge}, {way}; to compare with runs without it, take another '
            f'judge, such as --metric-teacher={other}.')


def _check(kwargs, config):
    """Raises UserError for mistakes that would stop the training later: the teacher, the width of its features."""
    check_distillation(feature_width(config), **{key: value for key, value in kwargs.items() if key != 'class_name'})


METHOD = Method('kd', 'kd_plugin.loss.Distillation', _OPTIONS, configure=_configure, check=_check, by_name=False,
                check_names=lambda kwargs: check_choices(**kwargs), example='--kd=agkd,cgkd')
