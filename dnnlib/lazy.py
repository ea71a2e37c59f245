"""Attributes of a package that are imported when they are asked for."""

import importlib


def attributes(package, places):
    """The `__getattr__` of a package.

    Args:
        package: its `__name__`.
        places:  {attribute: module}, relative to the package; `'module:name'` = a name inside the module.
    """
    def get(name):
        if name not in places:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        place, _, inner = places[name].partition(':')
        module = importlib.import_module(place, package)
        return getattr(module, inner) if inner else module
    return get
