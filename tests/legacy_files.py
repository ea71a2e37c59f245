"""Pickles in the byte structure of the reference implementations, made from networks of this project, for the tests of
the readers."""

import io
import math
import pickle
from collections import OrderedDict

import numpy as np
import torch

HOSTILE_SOURCE = "raise SystemExit('source text from a file was run')"


class Name:
    """Stands for a global of another program."""

    def __init__(self, name):
        self.module, _, self.attribute = name.rpartition('.')

    def __call__(self, *args):
        raise AssertionError('only a name')


class Call:
    """Pickles as a call of a global."""

    def __init__(self, name, *args):
        self.name, self.args = Name(name), args

    def __reduce__(self):
        return self.name, self.args


class New:
    """Pickles as an object of a class that is known by name, made without a call of it, and its state."""

    def __init__(self, name, state=None, entries=None):
        self.name, self.state, self.entries = Name(name), state, entries or {}


class Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def save_name(self, obj):
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.attribute)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f'{obj.module}\n{obj.attribute}\n'.encode())
        self.memoize(obj)

    def save_new(self, obj):
        self.save(obj.name)
        self.save(())
        self.write(pickle.NEWOBJ)
        self.memoize(obj)
        self._batch_setitems(obj.entries.items())
        if obj.state is not None:
            self.save(obj.state)
            self.write(pickle.BUILD)

    dispatch[Name] = save_name
    dispatch[New] = save_new


def dumps(obj, protocol=4):
    file = io.BytesIO()
    Pickler(file, protocol).dump(obj)
    return file.getvalue()


def easy_dict(**entries):
    return New('dnnlib.util.EasyDict', entries=entries)


# ---------------------------------------------------------------------------
# StyleGAN2-ADA PyTorch, StyleGAN3.

def persistent(class_name, state, version=6):
    return Call('torch_utils.persistence._reconstruct_persistent_obj',
                dict(type='class', version=version, module_src=HOSTILE_SOURCE, class_name=class_name, state=state))


def persistent_module(module, kwargs, attributes=(), args=(), tensor=lambda value: value):
    """A module and its parts as persistent objects. `attributes`: (class name, attribute, value) to add or replace;
    `tensor`: what to put for one."""
    state = {key: value for key, value in vars(module).items()
             if type(value) in (int, float, bool, str, type(None), OrderedDict, set)}
    for kind in ('_parameters', '_buffers'):
        state[kind] = OrderedDict((key, value if value is None else tensor(value))
                                  for key, value in getattr(module, kind).items())
    parts = {key: persistent_module(part, {}, attributes, tensor=tensor) for key, part in module._modules.items()
             if part is not None}
    state.update(_modules=OrderedDict(parts), _init_args=args, _init_kwargs=kwargs)
    compute = getattr(module, 'compute', None)
    state['use_fp16'] = (module.use_fp16 if compute is None and hasattr(module, 'use_fp16') else compute is not None
                         and compute.dtype != torch.float32)
    state.update({key: value for name, key, value in attributes if name == type(module).__name__})
    return persistent(type(module).__name__, state)


def storage_call(tensor):
    """The numbers of a tensor, as one object that several tensors can share."""
    _, (data,) = tensor._typed_storage().__reduce__()
    return Call('torch.storage._load_from_bytes', data)


def tensor_call(storage, shape, stride=None, offset=0):
    stride = stride or tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))
    return Call('torch._utils._rebuild_tensor_v2', storage, offset, tuple(shape), stride, False, OrderedDict())


# ---------------------------------------------------------------------------
# The TensorFlow releases.

def tensorflow_network(name, static_kwargs, variables, components=None):
    state = dict(version=5, name=name, static_kwargs=easy_dict(**static_kwargs), components=components or {},
                 build_module_src=HOSTILE_SOURCE, build_func_name='G_main', variables=list(variables.items()))
    return New('dnnlib.tflib.network.Network', state=state)


def tensorflow_generator(res=16, z_dim=8, w_dim=8, base=64, top=16, seed=0, **static):
    """Random variables under the names and in the layout of StyleGAN2's TensorFlow release, unconditional, architecture
    'skip'."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    width = lambda r: min(2 * base // r, top)
    mapping = {}
    for i in range(2):
        mapping.update({f'Dense{i}/weight': draw(z_dim if i == 0 else w_dim, w_dim), f'Dense{i}/bias': draw(w_dim)})
    synthesis = {'4x4/Const/const': draw(1, width(4), 4, 4)}
    for r in [2 ** i for i in range(2, int(math.log2(res)) + 1)]:
        convs = {'Conv': width(4)} if r == 4 else {'Conv0_up': width(r // 2), 'Conv1': width(r)}
        for name, fan_in in convs.items():
            layer = dict(weight=draw(3, 3, fan_in, width(r)), mod_weight=draw(w_dim, fan_in), mod_bias=draw(fan_in),
                         noise_strength=draw(), bias=draw(width(r)))
            synthesis.update({f'{r}x{r}/{name}/{key}': value for key, value in layer.items()})
        synthesis.update({f'{r}x{r}/ToRGB/weight': draw(1, 1, width(r), 3),
                          f'{r}x{r}/ToRGB/mod_weight': draw(w_dim, width(r)),
                          f'{r}x{r}/ToRGB/mod_bias': draw(width(r)), f'{r}x{r}/ToRGB/bias': draw(3)})
    for i in range(2 * int(math.log2(res)) - 3):
        size = 2 ** ((i + 1) // 2 + 2)
        synthesis[f'noise{i}'] = draw(1, 1, size, size)
    own = {'dlatent_avg': draw(w_dim)}
    kwargs = dict(func_name='training.networks_stylegan2.G_main', num_channels=3, resolution=res, label_size=0,
                  fmap_base=base, fmap_max=top, latent_size=z_dim, dlatent_size=w_dim, mapping_layers=2,
                  mapping_fmaps=w_dim, **static)
    parts = dict(mapping=tensorflow_network('G_mapping', {}, mapping),
                 synthesis=tensorflow_network('G_synthesis', {}, synthesis))
    return tensorflow_network('G', kwargs, own, parts), dict(own, **{f'mapping/{k}': v for k, v in mapping.items()},
                                                             **{f'synthesis/{k}': v for k, v in synthesis.items()})


def tensorflow_discriminator(res=16, base=64, top=16, seed=1, **static):
    """The same of the discriminator, architecture 'resnet'."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    width = lambda r: min(2 * base // r, top)
    variables = {f'{res}x{res}/FromRGB/weight': draw(1, 1, 3, width(res)),
                 f'{res}x{res}/FromRGB/bias': draw(width(res))}
    for r in [2 ** i for i in range(int(math.log2(res)), 2, -1)]:
        variables.update({f'{r}x{r}/Conv0/weight': draw(3, 3, width(r), width(r)),
                          f'{r}x{r}/Conv0/bias': draw(width(r)),
                          f'{r}x{r}/Conv1_down/weight': draw(3, 3, width(r), width(r // 2)),
                          f'{r}x{r}/Conv1_down/bias': draw(width(r // 2)),
                          f'{r}x{r}/Skip/weight': draw(1, 1, width(r), width(r // 2))})
    variables.update({'4x4/Conv/weight': draw(3, 3, width(4) + 1, width(4)), '4x4/Conv/bias': draw(width(4)),
                      '4x4/Dense0/weight': draw(16 * width(4), width(4)), '4x4/Dense0/bias': draw(width(4)),
                      'Output/weight': draw(width(4), 1), 'Output/bias': draw(1)})
    kwargs = dict(func_name='training.networks_stylegan2.D_stylegan2', num_channels=3, resolution=res, label_size=0,
                  fmap_base=base, fmap_max=top, **static)
    return tensorflow_network('D', kwargs, variables), variables
