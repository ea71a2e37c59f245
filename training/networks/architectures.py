"""The architectures that presets choose from, and whose classes files may name: one row each."""

from dnnlib import UnusableFile, UserError
from dnnlib.util import get_obj_by_name

from . import biggan_row, stylegan2
from .interface import ABILITIES

ARCHITECTURES = {
    'stylegan2': stylegan2.ARCHITECTURE,
    'biggan': biggan_row.ARCHITECTURE,
}


class UnknownArchitecture(UnusableFile):
    """A class that is in no row. The file may be intact, but from another version of the project."""


def class_names():
    """All that a file may name, G before D."""
    return [name for row in ARCHITECTURES.values() for name in (row.G, row.D)]


def of_class(class_name):
    """The row of a network class, by its name. Raises UnknownArchitecture."""
    for row in ARCHITECTURES.values():
        if class_name in (row.G, row.D):
            return row
    raise _unknown(class_name)


def class_name_of(network):
    """The name under which files know the class of a network. Raises UnknownArchitecture."""
    for name in class_names():
        if isinstance(network, get_obj_by_name(name)):
            return name
    raise _unknown(f'{type(network).__module__}.{type(network).__qualname__}')


def _unknown(class_name):
    return UnknownArchitecture(f'unknown architecture: it asks for the class {str(class_name)[:200]!r}; '
                               f'only {" and ".join(class_names())} are built from a file')


def abilities_of(G):
    """The abilities of a generator, a set of names in `ABILITIES`."""
    row = of_class(class_name_of(G))
    return row.abilities - row.missing(G)


def require(abilities, ability, option, remedy=None):
    """Raises UserError unless `ability` is among `abilities`, of a generator or of a row.

    Args:
        option: the option that needs it, as the user gave it.
        remedy: what to do; None = the architectures that have it.
    """
    if ability not in abilities:
        others = [row.title for row in ARCHITECTURES.values() if ability in row.abilities]
        raise UserError(f'{option}: {ABILITIES[ability]}; {remedy or "use a network of " + " or ".join(others)}')
