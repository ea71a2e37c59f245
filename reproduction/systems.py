"""The systems of the tables: which options of train.py each is, on which base configuration."""

from typing import NamedTuple

NOT_PRINTED = 'The paper does not print the weight of this method; ours is the default.'
LECAM = 'The published rows of LeCam have DiffAugment in them, so this one has, too.'
LECAM_LOW = (f'{LECAM} Its weight was never published for these data: 1e-6 is that of the LeCam paper for a tenth of '
             'CIFAR-10 on StyleGAN2.')
LECAM_IMAGENET = f'{LECAM} Its weight is not published: 0.01 is what others report.'
KD_PAPER = 'The weights of the paper in the scale of its formulas (docs/distillation.md); its texts are not published.'
KD_RELEASED = "The settings of the authors' program for CIFAR, whose diversity loss has no gradient."
HINGE = 'With the hinge loss of BigGAN; others run this method on BigGAN with the logistic loss.'
LENGTH = ("The features of this teacher have length 1 in its authors' program and 10 here, as CLIP's have; which "
          'checkpoint it was, and how it was scaled, is not said.')
FORM = "The paper's words fit squares of differences and their absolute values; ours are squares."
SCHEDULE = 'No recipe for these data is published: the schedule is that of the DiffAugment rows.'
STAGES = ('CLIP alone. The source adds DINO and Swin-T MoBY later, each from the best network so far, and its figure '
          'is near that of its unconditional network.')


class System(NamedTuple):
    """A row. Tables are by base configuration; '' = for all others."""
    title: str
    options: dict
    notes: dict = {}                # what the paper leaves open
    departures: dict = {}           # what we do otherwise, so that the values may differ

    def options_for(self, cfg):
        return self.options.get(cfg, self.options.get(''))

    def note_for(self, cfg):
        return self.notes.get(cfg, self.notes.get('', ''))

    def departure_for(self, cfg):
        return self.departures.get(cfg, self.departures.get('', ''))


DA = {'': ('--aug=diffaug',)}
ADA = {'': ('--aug=ada',)}
LOW_SHOT = {'low-shot': SCHEDULE}
ON_BIGGAN = {'biggan-cifar': HINGE, 'biggan-imagenet64': HINGE}
APA = {'low-shot': ('--aug=ada', '--apa'), 'biggan-cifar': ('--aug=noaug', '--apa')}
INSGEN = {'low-shot': ('--aug=linear', '--p=0.6', '--insgen')}
LECAM_OPTIONS = {'low-shot': ('--aug=diffaug', '--lecam=1e-6'), 'biggan-cifar': ('--aug=diffaug', '--lecam=0.3'),
                 'biggan-imagenet64': ('--aug=diffaug', '--lecam=0.01')}
LECAM_NOTES = {'low-shot': LECAM_LOW, 'biggan-cifar': LECAM, 'biggan-imagenet64': LECAM_IMAGENET}


def _with_kd(title, base, notes=None, methods='agkd,cgkd', teacher=None, departures=None):
    """`base` and distillation, by the paper where its authors released no program."""
    further = () if teacher is None else (f'--kd-teacher={teacher}',)
    options, open_points = {}, {}
    for cfg in ('low-shot', 'biggan-cifar', 'biggan-imagenet64'):
        preset, note = ('released', KD_RELEASED) if cfg == 'biggan-cifar' else ('paper', KD_PAPER)
        before = base.get(cfg, base.get(''))
        if before is not None:
            options[cfg] = (*before, f'--kd={methods}', f'--kd-preset={preset}', *further)
            open_points[cfg] = ' '.join(part for part in ((notes or {}).get(cfg, ''), note) if part)
    return System(title, options, open_points, departures or {})


def _distilled(title, method, note=NOT_PRINTED):
    return System(title, {'': ('--aug=diffaug', f'--kd={method}', '--kd-preset=paper')}, {'': note})


SYSTEMS = {
    'da': System('DA (DiffAugment)', DA),
    'da+fitnets': _distilled('DA + KD (CLIP), FitNets', 'fitnets', f'{NOT_PRINTED} {FORM}'),
    'da+labeldist': _distilled('DA + label distillation', 'labeldist'),
    'da+pkt': _distilled('DA + PKD (probabilistic knowledge transfer)', 'pkt'),
    'da+spkd': _distilled('DA + SPKD', 'spkd'),
    'da+kd': _with_kd('DA + KD-DLGAN', DA),
    'da+agkd': _with_kd('DA + AGKD', DA, methods='agkd'),
    'da+cgkd': _with_kd('DA + CGKD', DA, methods='cgkd'),
    'da+kd-tcl': _with_kd('DA + KD-DLGAN, teacher TCL', DA, {'biggan-cifar': LENGTH}, teacher='TCL_4M.pth'),
    'da+kd-blip': _with_kd('DA + KD-DLGAN, teacher BLIP', DA, {'biggan-cifar': LENGTH},
                           teacher='hf:Salesforce/blip-itm-base-coco'),
    'lecam': System('LeCam', LECAM_OPTIONS, LECAM_NOTES),
    'lecam+kd': _with_kd('LeCam + KD-DLGAN', LECAM_OPTIONS, LECAM_NOTES),
    'insgen': System('InsGen', INSGEN, LOW_SHOT),
    'insgen+kd': _with_kd('InsGen + KD-DLGAN', INSGEN, LOW_SHOT),
    'apa': System('APA', APA, LOW_SHOT, ON_BIGGAN),
    'apa+kd': _with_kd('APA + KD-DLGAN', APA, LOW_SHOT, departures=ON_BIGGAN),
    'ada': System('ADA', ADA, LOW_SHOT, ON_BIGGAN),
    'ada+kd': _with_kd('ADA + KD-DLGAN', ADA, LOW_SHOT, departures=ON_BIGGAN),
    'vision-aided': System('Vision-aided GAN', {'': ('--aug=diffaug', '--vision-aided=clip')},
                           departures={'': STAGES}),
}
