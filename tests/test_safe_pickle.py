"""Pickles as data: what networks are made of is read, nothing else, and nothing from a file runs, whatever it holds."""

import collections
import io
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from legacy_files import Call, Name, New, dumps, easy_dict, persistent
from pickle_parts import LEGACY, STORAGE, TEXT, load, refused, tensor_args

from torch_utils.pickles import reader as safe_pickle

NP_CORE = 'numpy.core.multiarray'


# ---------------------------------------------------------------------------
# What is read.

@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_plain_values_come_back(protocol):
    value = dict(a=[1, -1, 255, 65536, 2 ** 40, -2 ** 70, 1.5, True, None], b=(), c=(1,), d=(1, 2), e=(1, 2, 3),
                 f=(1, 2, 3, 4), g=set(), h={1, 'x'}, i='ünïcødé', j='x' * 300, k=b'', l=b'abc', m=b'x' * 300, n={},
                 o={1: 2, None: 3}, p=[[]], q=collections.OrderedDict(z=1))
    value['again'] = value['a']
    got = load(pickle.dumps(value, protocol))
    assert (got == dict(value, q=dict(z=1))
            and [type(v) for v in got.values()] == [dict if k == 'q' else type(v) for k, v in value.items()])


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_tensors_come_back(protocol):
    tensors = [torch.randn(3, 4, 5), torch.randn([]), torch.zeros(0, 3), torch.arange(5),
               torch.ones(2, dtype=torch.bool), torch.randn(4).half(),
               torch.randn(4).bfloat16(), torch.randn(4).double(),
               torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
               torch.randn(5, 3).t(), torch.randn(10)[3:7], torch.nn.Parameter(torch.randn(3))]
    for got, want in zip(load(pickle.dumps(tensors, protocol)), tensors, strict=True):
        assert got.dtype == want.dtype and got.is_contiguous() and torch.equal(got, want)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_arrays_and_numpy_numbers_come_back(protocol):
    arrays = [np.arange(6).astype(code).reshape(2, 3) for code in ('<f4', '>f4', 'f8', 'f2', 'u1', '>i8', '?')]
    arrays += [np.asfortranarray(np.eye(3)[:, :2]), np.array(2.)]
    for got, want in zip(load(pickle.dumps(arrays, protocol)), arrays, strict=True):
        assert got.dtype == want.dtype and np.array_equal(got, want)
    assert load(pickle.dumps([np.float32(1.5), np.int64(7), np.bool_(True)], protocol)) == [1.5, 7, True]


def test_small_things_of_modules_come_back():
    value = [easy_dict(a=1), Name('torch.float16'), Name('torch.channels_last'), torch.Size([1, 2]),
             torch.device('cpu'), persistent('Generator', dict(a=1)),
             New('dnnlib.tflib.network.Network', state=dict(name='Gs'))]
    got = load(dumps(value))
    assert got[0] == dict(a=1) and got[3:5] == [(1, 2), 'cpu']
    assert [(v.class_name, v.state) for v in got[5:]] == [('Generator', dict(a=1)),
                                                          ('dnnlib.tflib.network.Network', dict(name='Gs'))]


def test_a_pickle_may_stand_inside_a_file():
    file = io.BytesIO(b'head' + pickle.dumps(dict(a=b'abc')) + b'tail')
    file.seek(4)
    with safe_pickle.opened(file) as content:
        assert content['a'].read(3) == b'abc'


# ---------------------------------------------------------------------------
# Hostile files. Each would make the file `canary`, or end the program, if anything in it ran.

CANARY = 'canary'
NESTED = pickle.dumps(None)[:-2] + b'cos\nsystem\n(X\x0c\x00\x00\x00touch canarytR.'
CALLS = {
    'os.system': Call('os.system', f'touch {CANARY}'),
    'posix.system': Call('posix.system', f'touch {CANARY}'),
    'eval': Call('builtins.eval', f"open('{CANARY}', 'w')"),
    'exec': Call('builtins.exec', f"open('{CANARY}', 'w')"),
    'open': Call('builtins.open', CANARY, 'w'),
    'import': Call('builtins.__import__', 'hostile_module'),
    'Popen': Call('subprocess.Popen', ['touch', CANARY]),
    'torch.load': Call('torch.load', NESTED),
    'torch.load of a stream': Call('torch.load', Call('_io.BytesIO', NESTED)),
    'pickle.loads': Call('pickle.loads', NESTED),
    'numpy.load': Call('numpy.load', CANARY),
    'getattr': Call('builtins.getattr', Name('os.system'), '__call__'),
    'attrgetter': Call('operator.attrgetter', 'system'),
    'methodcaller': Call('operator.methodcaller', 'system', f'touch {CANARY}'),
    'partial': Call('functools.partial', Name('os.system'), f'touch {CANARY}'),
    'reduce': Call('functools.reduce', Name('os.system'), [f'touch {CANARY}']),
    'map': Call('builtins.map', Name('os.system'), [f'touch {CANARY}']),
    'an import that runs code': Name('hostile_module.anything'),
    'an attribute of an allowed global': Name('collections.OrderedDict.fromkeys'),
    'an attribute of an allowed module': Name('torch_utils.persistence.exec'),
    'torch.jit': Call('torch.jit.load', CANARY),
    'timeit': Call('timeit.timeit', f"open('{CANARY}', 'w')"),
    'runpy': Call('runpy.run_path', 'hostile_module.py'),
    'an object': New('os.system', state={}),
}


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """A folder, current and on the import path, whose module leaves the canary when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'hostile_module.py').write_text(f"open('{CANARY}', 'w').close()\n")
    yield
    assert not (tmp_path / CANARY).exists() and 'hostile_module' not in sys.modules


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('name', CALLS)
def test_a_global_outside_the_list_is_named_and_nothing_runs(name, protocol, bait):
    obj = CALLS[name]
    known = obj.name if hasattr(obj, 'name') else obj
    want = f'{known.module}.{known.attribute}'
    refused(dumps(obj, protocol), 'it names the global', want, 'outside any object')
    refused(dumps(dict(G_ema=persistent('Generator', dict(_modules=dict(a=persistent('SynthesisBlock', dict(x=obj)))))),
                  protocol),
            want, "in an object of the class 'SynthesisBlock'")
    refused(dumps((New('dnnlib.tflib.network.Network', state=dict(x=obj)),), protocol), want,
            "of the class 'dnnlib.tflib.network.Network'")


def test_the_canary_sings(tmp_path, monkeypatch):
    """Python's own unpickler does run such a file: the tests above would notice."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(dumps(CALLS['os.system']))                 # noqa: S301
    assert (tmp_path / CANARY).exists()


def dtype(code, state=None):
    call = Call('numpy.dtype', code, False, True)
    return call if state is None else Built(call, state)


class Built:
    """An object whose state is set."""

    def __init__(self, obj, state):
        self.obj, self.state = obj, state

    def __reduce__(self):
        return self.obj.name, self.obj.args, self.state


def array(shape, number_type, data):
    return Built(Call(f'{NP_CORE}._reconstruct', Name('numpy.ndarray'), (0,), b'b'),
                 (1, shape, number_type, False, data))


F4 = dtype('f4', (3, '<', None, None, None, -1, -1, 0))
ARGUMENTS = {
    'no storage': (tensor_args(5, 0, (2,), (1,), False, {}), 'not described by a storage'),
    'a larger size': (tensor_args(STORAGE, 0, (5,), (1,), False, {}), 'in a storage of 4 numbers'),
    'a huge size': (tensor_args(STORAGE, 0, (2 ** 39,), (1,), False, {}), 'in a storage of 4 numbers'),
    'an offset outside': (tensor_args(STORAGE, 4, (1,), (1,), False, {}), 'offset 4'),
    'a negative offset': (tensor_args(STORAGE, -1, (1,), (1,), False, {}), 'not described by'),
    'a negative size': (tensor_args(STORAGE, 0, (-1,), (1,), False, {}), 'not described by'),
    'a negative stride': (tensor_args(STORAGE, 3, (4,), (-1,), False, {}), 'not described by'),
    'a stride outside': (tensor_args(STORAGE, 0, (2, 2), (4, 1), False, {}), 'strides [4, 1]'),
    'a stride of 0': (tensor_args(STORAGE, 0, (2 ** 30, 4), (0, 1), False, {}), 'strides [0, 1]'),
    'overlapping numbers': (tensor_args(STORAGE, 0, (2, 2), (1, 1), False, {}), 'strides [1, 1]'),
    'sizes that overflow': (tensor_args(STORAGE, 0, (2 ** 33, 2 ** 33), (1, 1), False, {}),
                            'in a storage of 4 numbers'),
    'an offset too large': (tensor_args(STORAGE, 2 ** 63, (1,), (1,), False, {}), 'not described by'),
    'fewer strides': (tensor_args(STORAGE, 0, (2, 2), (1,), False, {}), 'not described by'),
    'sizes in a list': (tensor_args(STORAGE, 0, [2], [1], False, {}), 'not described by'),
    'truth values for sizes': (tensor_args(STORAGE, 0, (True,), (True,), False, {}), 'not described by'),
    'fractions for sizes': (tensor_args(STORAGE, 0.0, (2.0,), (1.0,), False, {}), 'not described by'),
    'no arguments': (tensor_args(), 'damaged'),
    'a parameter of a number': (Call('torch._utils._rebuild_parameter', 5, True, {}), 'a parameter that is no tensor'),
    'a storage of a hostile pickle': (Call('torch.storage._load_from_bytes', NESTED), "names the global 'os.system'"),
    'a storage of nothing': (Call('torch.storage._load_from_bytes', b''), 'ends too early'),
    'a storage of text': (Call('torch.storage._load_from_bytes', 'abc'), 'damaged'),
    'a storage cut off': (Call('torch.storage._load_from_bytes', LEGACY[:-1]), 'a torch.FloatStorage of 4 numbers'),
    'a storage with more': (Call('torch.storage._load_from_bytes', LEGACY + b'x'), 'a torch.FloatStorage of 4 numbers'),
    'another magic number': (Call('torch.storage._load_from_bytes', LEGACY.replace(b'\x6c\xfc\x9c', b'\x6d\xfc\x9c')),
                             'not as torch.save writes'),
    'another storage class': (Call('torch.storage._load_from_bytes', LEGACY.replace(b'FloatStorage', b'load')),
                              "names the global 'torch.load'"),
    'a count that lies': (Call('torch.storage._load_from_bytes', LEGACY.replace(b'K\x04N', b'K\x05N')),
                          'a torch.FloatStorage of 5 numbers'),
    'two storages': (Call('torch.storage._load_from_bytes',
                          LEGACY.replace(b'Q.', b'Qq\x09(h\x00h\x01h\x02h\x03K\x04NtQ.')), 'damaged'),
    'an array of objects': (array((1,), dtype('O8'), [Call('os.system', 'true')]), "the type 'O8'"),
    'a list for the bytes': (array((1,), F4, [1]), 'not described by sizes'),
    'a record array': (dtype([('a', 'f4')]), "the type 'list'"),
    'a text array': (dtype('U5'), "the type 'U5'"),
    'an array larger than its bytes': (array((2,), F4, b'1234'), 'shape [2] that has 4 bytes'),
    'an array of huge shape': (array((2 ** 39, 2 ** 39), F4, b'1234'), 'that has 4 bytes'),
    'an array of negative shape': (array((-1,), F4, b'1234'), 'not described by sizes'),
    'an array without content': (Call(f'{NP_CORE}._reconstruct', Name('numpy.ndarray'), (0,), b'b'), 'without content'),
    'an array of another class': (Call(f'{NP_CORE}._reconstruct', Name('collections.OrderedDict'), (0,),
                                       b'b'), 'damaged'),
    'a number of objects': (Call(f'{NP_CORE}.scalar', dtype('O8'), b''), "the type 'O8'"),
    'a number without bytes': (Call(f'{NP_CORE}.scalar', F4, b'12'), 'a numpy number'),
    'another codec': (Call('_codecs.encode', 'abc', 'zlib'), 'damaged'),
    'another byte order': (dtype('f4', (3, 'x')), 'damaged'),
    'a set of lists': (Call('builtins.set', [[1]]), 'damaged'),
    'a set of tuples': (Call('builtins.set', [(1,)]), 'damaged'),
    'a dictionary from pairs': (Call('collections.OrderedDict', [['a', 1]]), 'damaged'),
    'a call of a type only': (Call('numpy.ndarray', (10 ** 9,)), "it calls 'numpy.ndarray'"),
    'a call of a dtype': (Call('torch.float32', 1), "it calls 'torch.float32'"),
    'a new tensor': (New('torch._utils._rebuild_tensor_v2'), "it calls 'torch._utils._rebuild_tensor_v2'"),
    'attributes of a function': (New('torch.Size', state={}), "it calls 'torch.Size'"),
    'a persistent function': (Call('torch_utils.persistence._reconstruct_persistent_obj', dict(type='function')),
                              'a persistent object without'),
    'a persistent number': (Call('torch_utils.persistence._reconstruct_persistent_obj', 5),
                            'a persistent object without'),
}


@pytest.mark.parametrize('name', ARGUMENTS)
def test_allowed_globals_refuse_hostile_arguments(name, bait):
    obj, message = ARGUMENTS[name]
    refused(dumps(obj), message)


OPCODES = {
    'state of a class': (b'\x80\x02ccollections\nOrderedDict\n}' + TEXT(b'pop') + b'K\x01sb.',
                         'sets the state of a Global'),
    'slots of a class': (b'\x80\x02ctorch\nSize\nN}' + TEXT(b'call') + b'K\x01s\x86b.', 'sets the state of a Global'),
    'state of a dictionary': (b'\x80\x02}}' + TEXT(b'a') + b'K\x01sb.', 'sets the state of a dict'),
    'state twice': (b'\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81}b}b.', 'damaged'),
    'a call of a number': (b'\x80\x02K\x01)R.', 'calls a int'),
    'a call of text': (b'\x80\x02' + TEXT(b'os.system') + b')R.', 'calls a str'),
    'arguments in a list': (b'\x80\x02ctorch\nSize\n]R.', 'damaged'),
    'INST': (b'(S\'true\'\nios\nsystem\n.', "the instruction b'S'"),
    'OBJ': (b'\x80\x02(ctorch\nSize\n)o.', "the instruction b'o'"),
    'EXT1': (b'\x80\x02\x82\x01.', "the instruction b'\\x82'"),
    'NEWOBJ_EX': (b'\x80\x04ctorch\nSize\n)}\x92.', "the instruction b'\\x92'"),
    'a persistent id': (b'\x80\x02)Q.', 'persistent id'),
    'a persistent id as text': (b'\x80\x02Pabc\n.', "the instruction b'P'"),
    'an out-of-band buffer': (b'\x80\x05\x97.', "the instruction b'\\x97'"),
    'a name of numbers': (b'\x80\x04K\x01K\x02\x93.', 'damaged'),
    'a name of one dot': (b'\x80\x02c.\n.\n.', 'the global'),
    'a name with a line break': (b'\x80\x04' + TEXT(b'os\n\x1b[2J') + TEXT(b'system') + b'\x93.', 'the global'),
    'a name that is too long': (b'\x80\x02c' + b'a' * 300 + b'\nb\n.', 'a name of more than 256 bytes'),
    'a long name on the stack': (b'\x80\x04' + TEXT(b'a' * 10 ** 6) + TEXT(b'b') + b'\x93.', 'the global'),
    'an empty file': (b'', 'ends too early'),
    'an empty stack': (b'\x80\x02.', 'damaged'),
    'no mark': (b'\x80\x02K\x01t.', 'damaged'),
    'no memo': (b'\x80\x02h\x05.', 'damaged'),
    'two of three': (b'\x80\x02K\x01K\x02\x87.', 'damaged'),
    'an odd number of entries': (b'\x80\x02}(K\x01u.', 'damaged'),
    'an entry of a list': (b'\x80\x02]K\x01K\x02s.', 'damaged'),
    'an item of a tuple': (b'\x80\x02)K\x01a.', 'damaged'),
    'a dictionary in itself as key': (b'\x80\x02}q\x00h\x00K\x01s.', 'damaged'),
    'text that is no UTF-8': (b'\x80\x02' + TEXT(b'\xff\xfe') + b'.', 'damaged'),
    'more text than there is': (b'\x80\x02X\xff\xff\x00\x00abc.', 'ends too early'),
    'terabytes of text': (b'\x80\x04\x8d' + b'\xff' * 8 + b'abc.', 'too much text'),
    'terabytes': (b'\x80\x04\x8e' + b'\xff' * 8 + b'abc.', 'ends too early'),
    'two gigabytes': (b'\x80\x02B\xff\xff\xff\x7fabc.', 'ends too early'),
    'a frame of terabytes': (b'\x80\x04\x95' + b'\xff' * 8 + b'\x8c', 'ends too early'),
    'a long number': (b'\x80\x02\x8b\xff\xff\xff\x7f.', "the instruction b'\\x8b'"),
    'a number as text': (b'L' + b'9' * 10 ** 6 + b'L\n.', "the instruction b'L'"),
    'a zip archive': (b'PK\x03\x04' + b'\x00' * 100, "the instruction b'P'"),
    'a snapshot of ours': (struct.pack('<Q', 2) + b'{}', 'the instruction'),
}


@pytest.mark.parametrize('name', OPCODES)
def test_hostile_instructions(name):
    data, message = OPCODES[name]
    refused(data, message)


def test_reading_leaves_the_table_of_globals_as_it_is():
    before = dict(safe_pickle.GLOBALS)
    for data, _ in OPCODES.values():
        refused(data)
    assert before == safe_pickle.GLOBALS and all(before[name] is value for name, value in safe_pickle.GLOBALS.items())
