"""The --kd-... options of train.py, and the part of the configuration that they make."""

import click

from dnnlib import UserError

from .heads import HEADS
from .presets import PRESETS
from .prompts import resolve_texts

METHODS = ('agkd', 'cgkd')
DEFAULT_TEACHER = 'ViT-B/32'

_WEIGHT = click.FloatRange(min=0)
_OPTIONS = [
    click.option('--kd', help='Knowledge distillation into the discriminator: agkd, cgkd or both', metavar='LIST'),
    click.option('--kd-preset', help='Settings of the paper, or of the code that its authors released', type=click.Choice(list(PRESETS)),
                 show_default='paper'),
    click.option('--kd-teacher', help='CLIP name, hf:MODEL, FILE.pt, FILE.safetensors or demo  [default: ViT-B/32; demo for --data=demo]',
                 metavar='NAME'),
    click.option('--kd-texts', help='Texts for CGKD: auto, a preset, or a file with one per line', metavar='FILE|PRESET'),
    click.option('--kd-weight-agkd', help='Weight of AGKD', type=_WEIGHT),
    click.option('--kd-weight-cgkd', help='Weight of CGKD', type=_WEIGHT),
    click.option('--kd-weight-pd', help='Weight of pairwise diversity', type=_WEIGHT),
    click.option('--kd-p', help="Probability of AGKD's aggregation", type=click.FloatRange(0, 1)),
    click.option('--kd-distance', help='l1, or l2 = Euclidean in AGKD and squared in CGKD', type=click.Choice(['l1', 'l2'])),
    click.option('--kd-reduction', help='CGKD over the batch', type=click.Choice(['mean', 'sum'])),
    click.option('--kd-samples', help='CGKD on fakes, or on reals too', type=click.Choice(['fake', 'both'])),
    click.option('--kd-head', help="From the discriminator's features to the teacher's width", type=click.Choice(list(HEADS))),
    click.option('--kd-view', help='What the teacher sees', type=click.Choice(['clean', 'augmented'])),
    click.option('--kd-input', help="clip = the teacher's own preprocessing, raw = pixels copied and left in [-1, 1]",
                 type=click.Choice(['clip', 'raw'])),
    click.option('--kd-pd', help='Pairwise diversity: off, on the student (D step) or through the generator (G step)',
                 type=click.Choice(['off', 'student', 'generator'])),
    click.option('--kd-warmup', help='Weights grow from zero over so many kimg', type=click.FloatRange(min=0), metavar='KIMG'),
]
# option of the command line -> field of presets.Preset
_FIELDS = dict(kd_texts='texts', kd_weight_agkd='weight_agkd', kd_weight_cgkd='weight_cgkd', kd_weight_pd='weight_pd', kd_p='p',
               kd_distance='distance', kd_reduction='reduction', kd_samples='samples', kd_head='head', kd_view='view',
               kd_input='teacher_input', kd_pd='pd', kd_warmup='warmup')


# method -> options that concern it alone
_ONLY = dict(agkd=['kd_weight_agkd', 'kd_p'], cgkd=['kd_weight_cgkd', 'kd_weight_pd', 'kd_pd', 'kd_reduction', 'kd_samples', 'kd_texts'])


def kd_options(command):
    """Adds the options to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def kd_config(opts, dataset, training_set_kwargs, seed):
    """Arguments of `loss.build_distillation`, or None without --kd. Raises UserError for what does not go together."""
    if opts['kd'] is None:
        _refuse(opts, [*_FIELDS, 'kd_teacher', 'kd_preset'], 'without --kd; add --kd=agkd,cgkd')
        return None
    methods = list(dict.fromkeys(name.strip() for name in opts['kd'].split(',') if name.strip()))
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise UserError(f'--kd={opts["kd"]}: {", ".join(unknown) or "nothing"} is no method; use agkd, cgkd or agkd,cgkd')
    for method, names in _ONLY.items():
        if method not in methods:
            _refuse(opts, names, f'with --kd={opts["kd"]}; add {method}')
    given = {field: opts[name] for name, field in _FIELDS.items() if opts[name] is not None}
    settings = PRESETS[opts['kd_preset'] or 'paper']._replace(**given)
    texts, origin = resolve_texts(settings.texts, dataset.name, dataset.class_names)
    teacher = opts['kd_teacher'] or ('demo' if opts['data'] == 'demo' else DEFAULT_TEACHER)
    return dict(methods=methods, teacher=teacher, texts=texts, texts_origin=origin, settings=settings._asdict(),
                training_set_kwargs=training_set_kwargs, seed=seed)


def _refuse(opts, names, why):
    """Raises UserError for the first of these options that was given."""
    for name in names:
        if opts[name] is not None:
            raise UserError(f'--{name.replace("_", "-")}={opts[name]}: has no effect {why}, or leave it out')
