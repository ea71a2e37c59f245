"""What the study of docs/evidence.md consists of: data sets, arms and parts, one row each."""

from typing import NamedTuple


class Networks(NamedTuple):
    """Of both networks; None = as the configuration has it. z and w have `z_dim` numbers."""
    channel_base: int
    z_dim: int | None = None
    mbstd_group: int | None = None


# So narrow that a CPU core trains a run in a quarter of an hour; four times as wide, for a GPU
NARROW, WIDE = Networks(512, 128, 4), Networks(2048)


class DataSet(NamedTuple):
    """The training images, the images to measure against, which nothing is trained on, and how they are trained on.

    options: of train.py.
    train, test: archives in the study's folder.
    teacher: what --kd-teacher is, DIR standing for the study's folder.
    lr:     learning rate of both networks.
    judge:  the network whose features the metrics use.
    side:   pixels of an image.
    tick, ticks: kimg of a line of output, and how many of them between two measurements.
    """
    options: tuple
    train: str
    test: str
    teacher: str
    lr: float
    judge: str = 'lite0@128'
    side: int = 32
    networks: Networks = NARROW
    tick: float = 2.56
    ticks: int = 5


CIFAR = ('--cfg=cifar', '--mirror=1', '--batch=16')
DATA = {
    'cifar500': DataSet((*CIFAR, '--subset=500'), 'cifar10.zip', 'cifar10-test.zip', 'DIR/cifar_teacher', 0.005),
    'cifar5000': DataSet((*CIFAR, '--subset=5000'), 'cifar10.zip', 'cifar10-test.zip', 'DIR/cifar_teacher', 0.005),
    # `pocket` knows no image of CIFAR-10; lite0 is a part of it, so another network judges
    'cifar500-pocket': DataSet((*CIFAR, '--subset=500'), 'cifar10.zip', 'cifar10-test.zip', 'pocket@128', 0.005,
                               'lite2@128'),
    # batch and learning rate are those of --cfg=cifar
    'cifar500-wide': DataSet(('--cfg=cifar', '--mirror=1', '--subset=500'), 'cifar10.zip', 'cifar10-test.zip',
                             'DIR/cifar_teacher', 0.0025, networks=WIDE, tick=12.8, ticks=8),
    'cats': DataSet((*CIFAR,), 'cats-train.zip', 'cats-test.zip', 'pocket@128', 0.005, 'lite2@128', side=64),
}

DA = ('--aug=diffaug', '--diffaug-policy=translation,cutout')
ADA = ('--aug=ada',)
PLAIN = ('--aug=noaug',)
# Its own start is at 80 kimg with this batch, its own target, 0.5, is never reached
CHAIN = ('--chain', '--chain-start=10', '--chain-target=0.3')


def distilled(*options, aug=DA, methods='agkd,cgkd'):
    return (*aug, f'--kd={methods}', *options)


def scaled(factor):
    """The paper's weights times a factor."""
    agkd, cgkd, pd = 0.44 * factor, 10 * factor, 0.1 * factor
    return f'--kd-weight-agkd={agkd:g}', f'--kd-weight-cgkd={cgkd:g}', f'--kd-weight-pd={pd:g}'


def calibrated(share, *options, methods='agkd,cgkd'):
    """The paper's weights, calibrated to a share of D's gradient."""
    return distilled('--kd-preset=paper', f'--kd-share={share}', *options, methods=methods)


ARMS = {                                    # name -> options of train.py
    'DA': DA,
    'paper': distilled('--kd-preset=paper'),
    'paper x 0.3': distilled(*scaled(0.3)),
    'paper x 0.1': distilled(*scaled(0.1)),
    'paper x 0.03': distilled(*scaled(0.03)),
    'share 0.1': calibrated(0.1),
    'share 0.3': calibrated(0.3),
    'share 1': calibrated(1),
    'share 3': calibrated(3),
    'share 3, unit': calibrated(3, '--kd-target-norm=unit'),
    'share 3, centred': calibrated(3, '--kd-target-norm=centred'),
    'share 3, channel': calibrated(3, '--kd-target-norm=channel'),
    'share 3, adapt': calibrated(3, '--kd-adapt=0.3'),          # r is 0.2 to 0.45 here
    'share 3, AGKD': calibrated(3, methods='agkd'),
    'share 3, CGKD': calibrated(3, '--kd-pd=off', methods='cgkd'),
    'share 3, centred texts': calibrated(3, '--kd-center=1'),
    'share 3, PD off': calibrated(3, '--kd-pd=off'),
    'share 3, PD in G': calibrated(3, '--kd-pd=generator'),
    'share 3, augmented': calibrated(3, '--kd-view=augmented'),
    'share 3, cosine': calibrated(3, '--kd-distance=cosine'),
    'share 3, warm-up': calibrated(3, '--kd-warmup=20'),
    'share 3, decay': calibrated(3, '--kd-decay=50', '--kd-decay-to=0.1'),
    'share 3, quick head': calibrated(3, '--kd-head-lr=4'),
    'no augmentation': PLAIN,
    'no augmentation + paper x 0.1': distilled(*scaled(0.1), aug=PLAIN),
    'ADA': ADA,
    'ADA + paper x 0.1': distilled(*scaled(0.1), aug=ADA),
    'FitNets': calibrated(3, methods='fitnets'),
    'label distillation': calibrated(3, methods='labeldist'),
    'PKT': calibrated(3, methods='pkt'),
    'SPKD': calibrated(3, methods='spkd'),
    'paper x 0.1, random teacher': distilled(*scaled(0.1), '--kd-teacher=DIR/random_teacher'),
    'share 3, random teacher': calibrated(3, '--kd-teacher=DIR/random_teacher'),
    'share 5, random teacher': calibrated(5, '--kd-teacher=DIR/random_teacher'),
    'paper x 0.1, teacher of drawings': distilled(*scaled(0.1), '--kd-teacher=demo'),
    'CHAIN': (*DA, *CHAIN),
    'FakeCLR': (*DA, '--fakeclr'),
    'CHAIN + paper x 0.1': distilled(*scaled(0.1), *CHAIN),
    'FakeCLR + paper x 0.1': distilled(*scaled(0.1), '--fakeclr'),
}


class Part(NamedTuple):
    """One question.

    arms:    names of rows of ARMS; the first one is what the others are compared with.
    seeds:   how many runs of each arm.
    rounds:  ((kimg, arms that go on afterwards), ...): successive halving by KID; a single round trains all to its
             length. In steps of 12.8 kimg, at which a run is measured.
    """
    question: str
    data: str
    arms: tuple
    seeds: int
    rounds: tuple


_SETTINGS = tuple(name for name in ARMS if name.startswith(('paper x', 'share')) and 'teacher' not in name)
PARTS = {
    'a': Part('How long until D overfits and the plain run gets worse?', 'cifar500', ('DA',), 2, ((204.8, 1),)),
    'a-long': Part('Does it last?', 'cifar500', ('DA', 'paper x 0.1'), 2, ((204.8, 2),)),
    'b': Part('Which settings of distillation?', 'cifar500', ('DA', 'paper', *_SETTINGS), 1,
              ((51.2, 4), (102.4, 2))),
    'c': Part('Does it help?', 'cifar500', ('DA', 'paper x 0.1'), 5, ((102.4, 2),)),
    'c-share': Part('Does a weight that is calibrated to a share do the same?', 'cifar500', ('DA', 'share 3'), 5,
                    ((102.4, 2),)),
    'c-ada': Part('Does it help with ADA?', 'cifar500', ('ADA', 'ADA + paper x 0.1'), 5, ((102.4, 2),)),
    'c-5000': Part('Does it help with ten times the images?', 'cifar5000', ('DA', 'paper x 0.1'), 3, ((102.4, 2),)),
    'c-pocket': Part('Does it help with a teacher that has not seen this data set?', 'cifar500-pocket',
                     ('DA', 'paper x 0.1'), 5, ((102.4, 2),)),
    'c-cats': Part('Does it help on photographs of cats, with the teacher `pocket`?', 'cats', ('DA', 'paper x 0.1'), 3,
                   ((102.4, 2),)),
    'wide': Part('Does it help in wider networks?', 'cifar500-wide', ('DA', 'paper x 0.1'), 3, ((409.6, 2),)),
    'wide-ada': Part('And with ADA?', 'cifar500-wide', ('ADA', 'ADA + paper x 0.1'), 3, ((409.6, 2),)),
    'wide-noaug': Part('And without augmentation, where D overfits?', 'cifar500-wide',
                       ('no augmentation', 'no augmentation + paper x 0.1'), 3, ((409.6, 2),)),
    'd': Part('Other ways to distil', 'cifar500', ('DA', 'share 3', 'FitNets', 'label distillation', 'PKT', 'SPKD'), 3,
              ((102.4, 6),)),
    'e': Part("Is it the teacher's knowledge?", 'cifar500',
              ('paper x 0.1', 'DA', 'paper x 0.1, random teacher', 'paper x 0.1, teacher of drawings'), 3,
              ((102.4, 4),)),
    'e-share': Part('And where both teachers begin with the same share of the gradient?', 'cifar500',
                    ('share 3', 'DA', 'share 3, random teacher', 'share 5, random teacher'), 3, ((102.4, 4),)),
    'more': Part('Two methods of others, alone and with distillation', 'cifar500',
                 ('DA', 'CHAIN', 'FakeCLR', 'CHAIN + paper x 0.1', 'FakeCLR + paper x 0.1'), 3, ((102.4, 5),)),
}
