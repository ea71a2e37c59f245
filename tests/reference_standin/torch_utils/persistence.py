"""Objects that bring the source text of their class: it is run to get the class back."""

import copy
import sys
import types
import uuid

import dnnlib

VERSION = 6
_texts, _modules, _classes = {}, {}, {}        # module name -> text, text -> module, class -> the decorated one


def persistent_class(cls):
    if cls in _classes.values():
        return cls
    if cls not in _classes:
        _classes[cls] = _decorate(cls, _texts[cls.__module__])
    return _classes[cls]


def _decorate(cls, text):
    class Persistent(cls):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args = copy.deepcopy(args)
            self._init_kwargs = copy.deepcopy(kwargs)

        @property
        def init_args(self):
            return copy.deepcopy(self._init_args)

        @property
        def init_kwargs(self):
            return dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))

        def __reduce__(self):
            state = object.__reduce__(self)[2]
            _check(state)
            return _reconstruct_persistent_obj, (dict(type='class', version=VERSION, module_src=text,
                                                      class_name=cls.__name__, state=state),), None

    Persistent.__name__ = cls.__name__
    return Persistent


def _check(value):
    """Only what any other process can make again."""
    if isinstance(value, dict):
        _check(list(value.items()))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _check(item)
    elif type(value) not in _classes.values():
        assert type(value).__module__ in ('builtins', 'torch', 'torch.nn.parameter'), type(value)


def _reconstruct_persistent_obj(meta):
    meta = dnnlib.EasyDict(meta)
    assert meta.type == 'class' and meta.version == VERSION
    cls = persistent_class(getattr(_run(meta.module_src), meta.class_name))
    obj = cls.__new__(cls)
    if hasattr(obj, '__setstate__'):
        obj.__setstate__(dnnlib.EasyDict(meta.state))
    else:
        obj.__dict__.update(meta.state)
    return obj


def _run(text):
    if text not in _modules:
        name = '_from_pickle_' + uuid.uuid4().hex
        module = sys.modules[name] = types.ModuleType(name)
        _texts[name] = text
        exec(text, module.__dict__)
        _modules[text] = module
    return _modules[text]
