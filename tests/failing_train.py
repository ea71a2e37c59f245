"""train.py on small networks, where one process fails on the way: FAIL='kill|raise|mistake RANK NIMG FILE' python
failing_train.py OPTIONS

It fails before the step after NIMG images, unless FILE is there, which it leaves behind: a second start goes through.
Without FAIL in the environment it trains to the end.
"""

import os
import signal

from conftest import shrink

import train
from dnnlib import UserError
from torch_utils import distributed
from training.loss import StyleGAN2Loss


class FailingLoss(StyleGAN2Loss):
    """As `StyleGAN2Loss` until then."""

    def start_step(self, cur_nimg):
        super().start_step(cur_nimg)
        how, rank, nimg, path = os.environ['FAIL'].split()
        if (int(rank), int(nimg)) != (distributed.get_rank(), cur_nimg) or os.path.exists(path):
            return
        with open(path, 'w'):
            pass
        if how == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError('--data: spoilt') if how == 'mistake' else ValueError('out of luck')


def build_small_config(opts):
    config, description = build_config(opts)
    shrink(config)
    if 'FAIL' in os.environ:
        config.loss_kwargs.update(class_name='failing_train.FailingLoss')
    return config, description


if __name__ == '__main__':
    build_config, train.build_config = train.build_config, build_small_config
    train.main()
