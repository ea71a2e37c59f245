"""The methods that train.py can add to the GAN loss: rows of a table, each a `Term` with its options."""

from typing import Callable, NamedTuple

from dnnlib import UserError
from dnnlib.errors import refuse_idle
from dnnlib.text import rounded


class Method(NamedTuple):
    """A row of the table.

    name:      of the term and of its options: `--name` switches it on, `--name-xyz` gives the keyword `xyz` to its
               constructor.
    term:      class name of the `Term`.
    options:   the click options; what is None is left to the constructor.
    configure: (opts, config, dataset) -> constructor arguments that do not come from options by their names, from the
               rest of the configuration, which is complete except for the terms. Raises UserError for combinations that
               are not possible.
    check_names: (constructor arguments) -> None: the part of `check` that needs no loading and no download.
    check:     (constructor arguments, config) -> None: raises UserError for what would fail after the start, such as a
               file that is missing.
    by_name:   whether the options given are constructor arguments; if not, `configure` gives all of them.
    example:   of the option that switches it on, for messages; '' = `--name` itself.
    """
    name: str
    term: str
    options: list
    configure: Callable = lambda opts, config, dataset: {}
    check_names: Callable = lambda kwargs: None
    check: Callable = lambda kwargs, config: None
    by_name: bool = True
    example: str = ''

    def is_on(self, opts):
        return opts[self.name] not in (None, False)

    def settings(self, opts):
        """{keyword: value} of the options given besides `--name` itself."""
        prefix = f'{self.name}_'
        return {key.removeprefix(prefix): value for key, value in opts.items() if key.startswith(prefix)
                and value is not None}


def method_options(methods):
    """Decorator: adds the options of all methods to a click command."""
    def decorate(command):
        for option in reversed([option for method in methods for option in method.options]):
            command = option(command)
        return command
    return decorate


def add_methods(methods, config, opts, dataset):
    """Puts the terms of the methods that are on into `config.terms`. Raises UserError for options without their
    method."""
    config.terms = {}
    for method in methods:
        given = method.settings(opts)
        if method.is_on(opts):
            arguments = method.configure(opts, config, dataset) | (given if method.by_name else {})
            config.terms[method.name] = dict(class_name=method.term, **arguments)
        else:
            refuse_idle(f'without {flag(method.name)}', f'add {method.example or "that"}, or leave this out',
                        **{f'{method.name}_{key}': value for key, value in given.items()})


def check_methods(methods, config, names_only=False):
    """Finds out before the start what would fail later."""
    for method in methods:
        if method.name in config.terms:
            kwargs = config.terms[method.name]
            if names_only:
                method.check_names(kwargs)
            else:
                method.check(kwargs, config)


def has_one_pass(config):
    """Whether D's step has fakes and reals in one pass, as BigGAN's, by a configuration or a preset: several methods
    have a program of their own for it."""
    return bool(config.loss_kwargs.get('one_pass'))


def iterations_in_kimg(config, number):
    """So many iterations of a program that counts G's steps, in thousands of reals that D sees."""
    return number * config.batch_size * config.D_steps / 1000


def check_begins(option, kimg, config):
    """Raises UserError if a run ends before a method takes part, after `kimg` thousand images."""
    if kimg >= config.total_kimg:
        raise UserError(f'{option}={kimg:g}: the run ends after {config.total_kimg:g} kimg, before it takes part; use '
                        f'a smaller one, such as {rounded(config.total_kimg / 3)}')


def flag(name):
    """vision_aided -> --vision-aided."""
    return '--' + name.replace('_', '-')
