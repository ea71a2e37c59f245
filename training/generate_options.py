"""What the commands that make images share: options, and a command that has further ones under names of their own."""

import click

SETTINGS = dict(max_content_width=120)

network_option = click.option('--network', help='Network: file, https:// address, hf:user/repo or a published name such as ffhq256',
                              required=True, metavar='NETWORK')
outdir_option = click.option('--outdir', help='Where to save the images', required=True, metavar='DIR')
trunc_option = click.option('--trunc', help='Truncation psi: 1 = none, less = more typical', type=float, default=1, show_default=True)
class_option = click.option('--class', 'class_text', help='Class number or name  [default: one class per row]', metavar='CLASS')
noise_option = click.option('--noise-mode', help='Noise of the synthesis', type=click.Choice(['const', 'random', 'none']), default='const',
                            show_default=True)
batch_option = click.option('--batch', help='Images at a time', type=click.IntRange(min=1), default=16, show_default=True, metavar='INT')
device_option = click.option('--device', help='Where to run', type=click.Choice(['auto', 'cuda', 'cpu', 'mps']), default='auto',
                             show_default=True)


class PlainOrCommand(click.Group):
    """`PROGRAM --option ...` is a command itself; `PROGRAM NAME --option ...` is another, with its own options."""

    def make_context(self, info_name, args, parent=None, **extra):
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f'{info_name} {args[0]}', args[1:], parent, **extra)
        if args and not args[0].startswith('-'):
            raise click.UsageError(f'{args[0]!r} is no command; the commands are {", ".join(self.list_commands(None))}')
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx):
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)
