"""What the command lines share beyond click: numbers that are numbers, commands under a command."""

import math

import click


class FiniteRange(click.FloatRange):
    """`click.FloatRange`, which by itself takes NaN for a number within any range, and infinity where there is no upper bound."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f'{value} is not a finite number.', param, ctx)
        return number


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
