"""Options that the commands that make images share."""

import click

SETTINGS = dict(max_content_width=120)

network_option = click.option('--network', help='Network: file, https:// address, hf:user/repo or a published name '
                                                'such as ffhq256',
                              required=True, metavar='NETWORK')
outdir_option = click.option('--outdir', help='Where to save the images', required=True, metavar='DIR')
trunc_option = click.option('--trunc', help='Truncation psi: 1 = none, less = more typical', type=float, default=1,
                            show_default=True)
class_option = click.option('--class', 'class_text', help='Class number or name  [default: one class per row]',
                            metavar='CLASS')
noise_option = click.option('--noise-mode', help='Noise of the synthesis', default='const',
                            type=click.Choice(['const', 'random', 'none'], case_sensitive=False),
                            show_default=True)
batch_option = click.option('--batch', help='Images at a time', type=click.IntRange(min=1), default=16,
                            show_default=True, metavar='INT')
device_option = click.option('--device', help='Where to run', type=click.Choice(['auto', 'cuda', 'cpu', 'mps']),
                             default='auto',
                             show_default=True)
