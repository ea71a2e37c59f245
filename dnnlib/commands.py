"""Shared parts of the command lines beyond click: options, finite numbers, switches, commands under a command."""

import math
import shlex

import click

SETTINGS = dict(max_content_width=120)          # of a command: context_settings
NETWORK = 'file, https:// address, hf:user/repo or a published name such as ffhq256'


def device_option(help='Where to run', names=('auto', 'cuda', 'cpu')):
    """--device, for `torch_utils.devices.torch_device`."""
    return click.option('--device', help=help, type=click.Choice(names), default='auto', show_default=True)


def batch_option(default, help='Images at a time'):
    """--batch."""
    return click.option('--batch', help=help, type=click.IntRange(min=1), default=default, show_default=True,
                        metavar='INT')


class FiniteRange(click.FloatRange):
    """`click.FloatRange` without NaN and infinity: click takes NaN for a number within any range, and infinity where
    there is no upper bound."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f'{value} is not a finite number.', param, ctx)
        return number


class NumberOrAuto(click.ParamType):
    """A number of images, or 'auto'."""
    name = 'integer or auto'

    def convert(self, value, param, ctx):
        if value == 'auto':
            return value
        if not str(value).strip().isdecimal():
            self.fail(f'{value!r} is neither a whole number nor auto', param, ctx)
        return click.IntRange(min=1).convert(value, param, ctx)


class SwitchOrAuto(click.ParamType):
    """True, False or 'auto'."""
    name = 'boolean or auto'

    def convert(self, value, param, ctx):
        return value if value == 'auto' else click.BOOL.convert(value, param, ctx)


def refused_option(name, why):
    """Decorator: an option of StyleGAN2-ADA that ends with a message about its replacement; --help does not show it."""
    def refuse(_ctx, _param, value):
        if value is not None:
            raise click.UsageError(f'{name}={value}: {why}')
    return click.option(name, hidden=True, expose_value=False, callback=refuse)


def none_is_off(_ctx, _param, value):
    """Callback of an option: 'none', in any case, is the same as to leave it out."""
    return None if value is not None and value.strip().lower() == 'none' else value


def refuse_values_of_switches(command, args):
    """Raises click.UsageError for --chain=1, where --chain is a switch; other options are given as --cond=1."""
    switches = {name for param in command.params if getattr(param, 'is_flag', False) for name in param.opts}
    for arg in args:
        name, given, value = arg.partition('=')
        if given and name in switches:
            on = value.strip().lower() in ('', '1', 'true', 'yes', 'on')
            remedy = f'write {name} alone' if on else 'leave it out'
            raise click.UsageError(f'{arg}: {name} is a switch, without a value; {remedy}')


class Command(click.Command):
    """`click.Command` with a better message for a switch that is given a value."""

    def parse_args(self, ctx, args):
        refuse_values_of_switches(self, args)
        return super().parse_args(ctx, args)


class PlainOrCommand(click.Group):
    """`PROGRAM --option ...` is a command itself; `PROGRAM NAME --option ...` is another, with its own options."""

    command_class = Command

    def make_context(self, info_name, args, parent=None, **extra):
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f'{info_name} {args[0]}', args[1:], parent, **extra)
        if args and not args[0].startswith('-'):
            raise click.UsageError(f'{args[0]!r} is no command; the commands are {", ".join(self.list_commands(None))}')
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx, args):
        refuse_values_of_switches(self, args)
        others = self.make_parser(ctx).parse_args(list(args))[1]            # from the first one on that is no option
        if others and others[0] in self.commands:
            command = [ctx.info_name, others[0], *args[:-len(others)], *others[1:]]
            raise click.UsageError(f'put the command first: {shlex.join(command)}')
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)
