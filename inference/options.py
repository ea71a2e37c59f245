"""Options that the commands on trained generators share."""

import click

from dnnlib import commands

network_option = click.option('--network', help=f'Network: {commands.NETWORK}', required=True, metavar='NETWORK')
outdir_option = click.option('--outdir', help='Where to save the images', required=True, metavar='DIR')
trunc_option = click.option('--trunc', help='Truncation psi: 1 = none, less = more typical', type=float, default=1,
                            show_default=True)
class_option = click.option('--class', 'class_text', metavar='CLASS',
                            help='Class number or name, or the numbers of a label  [default: one class per row]')
noise_option = click.option('--noise-mode', help='Noise of the synthesis', default='const',
                            type=click.Choice(['const', 'random', 'none'], case_sensitive=False), show_default=True)
batch_option = commands.batch_option(16)
device_option = commands.device_option(names=('auto', 'cuda', 'cpu', 'mps'))
