"""What the tests of train.py share."""

from conftest import parse_options

import train


def config_of(data, *args):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', *args))
