"""Settings of knowledge distillation: the default, as the paper prints it, and as its authors released it."""

from typing import NamedTuple


class Preset(NamedTuple):
    """Defaults of the --kd-... options."""
    weight_agkd: float          # factor on AGKD, once per pass
    weight_cgkd: float
    weight_pd: float            # factor on pairwise diversity
    p: float                    # probability of aggregation
    distance: str               # 'l1'; 'l2': Euclidean in AGKD, squared in CGKD; 'cosine'
    reduction: str              # of CGKD over the batch: 'mean' or 'sum'
    samples: str                # CGKD on 'fake' or 'both'
    head: str                   # a key of heads.HEADS
    view: str                   # what the teacher sees: 'clean', or 'augmented' as D does
    teacher_input: str          # 'clip' = CLIP's own preprocessing; 'raw' = nearest neighbours, values left in [-1, 1]
    pd: str                     # pairwise diversity: a key of diversity.READINGS
    texts: str                  # see prompts.resolve_texts
    warmup: float               # kimg over which the weights grow from zero
    # KD-DLGAN publishes no weights of its baselines. With these they start with the gradient of AGKD
    # (docs/distillation.md).
    weight_fitnets: float = 180
    weight_labeldist: float = 2
    weight_pkt: float = 50000
    weight_spkd: float = 440
    temperature: float = 4      # of labeldist
    weight_anchor: float = 1    # of the teacher adapter, moves features by some per cent
    # Off in all presets.
    center: bool = False        # subtract from each correlation row its mean over the texts
    target_norm: str = 'raw'    # a key of targets.TARGETS
    share: float = 0            # see weighting.Calibration; 0 = off
    adapt: float = 0            # target of weighting.Need; 0 = off
    decay: float = 0            # kimg over which the weights fall, after the warm-up; 0 = off
    decay_to: float = 0         # part of them that stays
    head_lr: float = 1          # factor on the learning rate of the linear head


SWITCHES = ('center', 'target_norm', 'share', 'adapt', 'decay', 'decay_to', 'head_lr')   # no effect by default

# Formulas of the paper with the gradient scale of the released weights: 0.44 * (L1 summed over 512) ~ 10 * Euclidean /
# sqrt(512). Diversity as printed trains nothing (teacher, texts and G are fixed in the D step): it is read on the
# student's rows.
PAPER = Preset(weight_agkd=0.44, weight_cgkd=10, weight_pd=0.1, p=0.7, distance='l1', reduction='mean', samples='fake',
               head='linear', view='clean', teacher_input='clip', pd='student', texts='auto', warmup=0)
WEIGHTS = [field for field in Preset._fields if field.startswith('weight_')]
DEFAULT = 'tenth'
PRESETS = {
    # The factor that helps in the study of docs/evidence.md, of the few that it tries
    'tenth': PAPER._replace(**{field: getattr(PAPER, field) / 10 for field in WEIGHTS}),
    'paper': PAPER,
    # github.com/cuikaiwen18/KD_DLGAN, with the slips that change its result: raw teacher input, aggregation always on,
    # CGKD summed over the batch and on reals too, the CIFAR-10 texts for all data. Its diversity is a constant and only
    # logged.
    'released': Preset(weight_agkd=10, weight_cgkd=10, weight_pd=0, p=1, distance='l2', reduction='sum', samples='both',
                       head='released', view='augmented', teacher_input='raw', pd='off', texts='released', warmup=0),
}
