"""The stack machine of the pickle format, for data only: nothing that a pickle names is imported or called.

A table (reader.py) decides what a global stands for and what a call of it gives.
"""

import io
import pickle
import struct
from typing import Any, Callable, NamedTuple

from dnnlib import UnusableFile

MAX_OPCODES = 400_000           # of a file; three 1024x1024 networks have 85,000; as many take less than a second
MAX_STRING = 4 << 20            # bytes of one string; the longest of real files are source texts, about 50 KB
MAX_STRINGS = 64 << 20          # bytes of all strings
MAX_NAME = 256                  # bytes of a module's or class's name


class Span(NamedTuple):
    """A byte string that stays in the file until it is wanted."""
    file: io.BufferedIOBase
    start: int
    size: int

    def readinto(self, buffer, offset=0):
        """Fills a writable buffer from `offset` on."""
        here = self.file.tell()
        self.file.seek(self.start + offset)
        count = self.file.readinto(buffer)
        self.file.seek(here)
        if count != len(buffer):
            raise UnusableFile('it ends too early')

    def read(self, size):
        """The first `size` bytes, fewer where there are not so many."""
        data = bytearray(min(size, self.size))
        self.readinto(data)
        return bytes(data)


class Global(NamedTuple):
    """A name that a pickle may mention. It is never looked up."""
    name: str                                   # 'module.attribute'
    call: Callable[..., Any] | None = None      # our function that stands for a call of it in the file
    new: Callable[..., Any] | None = None       # the same where an object is made without calling the constructor


class Budget:
    """The remaining budget of a file, including the pickles inside it."""

    def __init__(self):
        self.opcodes = MAX_OPCODES
        self.strings = MAX_STRINGS

    def work(self, count):
        """Charges `count` instructions, or other work that takes as long."""
        self.opcodes -= count
        if self.opcodes < 0:
            raise UnusableFile(f'it has more than {MAX_OPCODES:,} instructions, far more than networks need')

    def text(self, size):
        """Charges a string of `size` bytes."""
        self.strings -= size
        if size > MAX_STRING or self.strings < 0:
            raise UnusableFile(f'it has too much text, at last {size:,} bytes; a string may have {MAX_STRING:,}, all '
                               f'together {MAX_STRINGS:,}')


class Machine:
    """Runs one pickle.

    Args:
        file:       seekable binary file, at the start of the pickle.
        end:        position at which the pickle must be over.
        globals:    {'module.attribute': `Global`}: what it may mention.
        budget:     what it may cost.
        persistent: what a persistent id stands for; None = they are refused.
    """

    def __init__(self, file, end, globals, budget, persistent=None):
        self.file = file
        self.end = end
        self.left = end - file.tell()
        self.globals = globals
        self.budget = budget
        self.persistent = persistent
        self.stack = []
        self.marked = []            # the stacks below, one for each open mark
        self.memo = {}

    def run(self):
        """-> what the pickle holds. Raises UnusableFile for anything out of order."""
        try:
            while (code := self.take(1)) != pickle.STOP:
                self.budget.work(1)
                if code not in STEPS:
                    raise UnusableFile(f'it has the instruction {code!r}, which no pickle of networks uses, at byte '
                                       f'{self.file.tell() - 1}')
                STEPS[code](self)
            return self.stack.pop()
        except (LookupError, ValueError, TypeError, OverflowError) as err:
            # an empty stack, no such memo, bad UTF-8, a wrong type
            raise UnusableFile(f'it is damaged, or no pickle, at byte {self.file.tell()}') from err

    def take(self, size):
        """The next `size` bytes."""
        self.left -= size
        if self.left < 0:
            raise UnusableFile('it ends too early')
        data = self.file.read(size)
        if len(data) != size:
            raise UnusableFile('it ends too early')
        return data

    def number(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        return self.stack.pop()

    def pop_mark(self):
        """What lies above the last mark."""
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def string(self, layout, encoding='utf-8'):
        size = self.number(layout)
        self.budget.text(size)
        self.push(str(self.take(size), encoding, 'surrogatepass'))

    def span(self, layout):
        size = self.number(layout)
        span = Span(self.file, self.file.tell(), size)
        self.left -= size
        if self.left < 0:
            raise UnusableFile('it ends too early')
        self.file.seek(span.start + size)
        self.push(span)

    def line(self):
        """A name that ends with a newline."""
        text = self.file.readline(min(MAX_NAME, self.left))
        self.left -= len(text)
        if not text.endswith(b'\n'):
            raise UnusableFile('it ends too early' if self.left == 0
                               else f'it has a name of more than {MAX_NAME} bytes')
        return str(text[:-1], 'utf-8')

    def mention(self, module, attribute):
        """GLOBAL and STACK_GLOBAL."""
        name = f'{_text(module)}.{_text(attribute)}'
        if name not in self.globals:
            raise UnusableFile(f'it names the global {name[:MAX_NAME]!r}{self._context()}; only what networks are made '
                               'of is read, and nothing from a file is run')
        self.push(self.globals[name])

    def _context(self):
        """The object that is being read, for messages."""
        for stack in [self.stack, *reversed(self.marked)]:
            for i in range(len(stack) - 1, -1, -1):
                if hasattr(stack[i], 'class_name'):
                    return f' in an object of the class {stack[i].class_name[:MAX_NAME]!r}'
                if (isinstance(stack[i], str) and stack[i] == 'class_name' and i + 1 < len(stack)
                    and isinstance(stack[i + 1], str)):
                    return f' in an object of the class {stack[i + 1][:MAX_NAME]!r}'
        return ' outside any object'

    def call(self):
        args, target = self.pop(), self.pop()
        self._make(target, args, isinstance(target, Global) and target.call)

    def new(self):
        args, target = self.pop(), self.pop()
        self._make(target, args, isinstance(target, Global) and target.new)

    def _make(self, target, args, function):
        if not function:
            what = repr(target.name) if isinstance(target, Global) else f'a {type(target).__name__}'
            raise UnusableFile(f'it calls {what}{self._context()}, which no pickle of networks does')
        if type(args) is not tuple:
            raise TypeError
        self.push(function(self, *args))

    def build(self):
        state, target = self.pop(), self.stack[-1]
        # An EasyDict, whose entries are not its state
        if type(target) is dict and type(state) is dict and not state:
            return
        if not hasattr(type(target), 'set_state'):
            raise UnusableFile(f'it sets the state of a {type(target).__name__}{self._context()}, which no pickle of '
                               'networks does')
        target.set_state(state)

    def persistent_id(self):
        if self.persistent is None:
            raise UnusableFile('it has a persistent id, which no pickle of networks uses')
        self.push(self.persistent(self.pop()))

    def extend(self, items):
        _checked(self.stack[-1], list).extend(items)

    def update(self, items):
        target = _checked(self.stack[-1], dict)
        if len(items) % 2:
            raise ValueError
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def add(self, items):
        _checked(self.stack[-1], set).update([_key(item) for item in items])

    def memoize(self, index):
        self.memo[index] = self.stack[-1]

    def mark(self):
        self.marked.append(self.stack)
        self.stack = []

    def tuple(self, count):
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError
        self.stack[-count:] = [items]


def _text(value):
    if type(value) is not str:
        raise TypeError
    return value


def _checked(value, kind):
    if type(value) is not kind:
        raise TypeError
    return value


def _key(value):
    """Keys are short strings and 32-bit numbers: hashing a deep tuple overflows the C stack, large numbers can be made
    to collide, and long strings take long to compare."""
    if ((type(value) is str and len(value) <= MAX_NAME) or (type(value) is int and abs(value) < 2 ** 32)
        or type(value) in (bool, type(None))):
        return value
    raise TypeError


# Protocols 2 to 5 as pickle.dump writes them, that of Python 2 too. Not here: protocols 0 and 1, extension codes, INST,
# OBJ, NEWOBJ_EX, external buffers.
STEPS = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),                      # only a hint for faster reading: its claim is not used
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number('<i')),
    pickle.BININT1: lambda m: m.push(m.number('<B')),
    pickle.BININT2: lambda m: m.push(m.number('<H')),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.take(m.number('<B')), 'little', signed=True)),
    pickle.BINFLOAT: lambda m: m.push(m.number('>d')),
    pickle.SHORT_BINUNICODE: lambda m: m.string('<B'),
    pickle.BINUNICODE: lambda m: m.string('<I'),
    pickle.BINUNICODE8: lambda m: m.string('<Q'),
    pickle.SHORT_BINSTRING: lambda m: m.string('<B', 'latin-1'),        # Python 2 has one kind of strings:
    pickle.BINSTRING: lambda m: m.span('<I'),                           # names are short, numbers of arrays are not
    pickle.SHORT_BINBYTES: lambda m: m.span('<B'),
    pickle.BINBYTES: lambda m: m.span('<I'),
    pickle.BINBYTES8: lambda m: m.span('<Q'),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.EMPTY_SET: lambda m: m.push(set()),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.MARK: Machine.mark,
    pickle.POP: Machine.pop,
    pickle.POP_MARK: Machine.pop_mark,
    pickle.TUPLE: lambda m: (items := m.pop_mark(), m.push(tuple(items))),
    pickle.TUPLE1: lambda m: m.tuple(1),
    pickle.TUPLE2: lambda m: m.tuple(2),
    pickle.TUPLE3: lambda m: m.tuple(3),
    pickle.APPEND: lambda m: m.extend([m.pop()]),
    pickle.APPENDS: lambda m: m.extend(m.pop_mark()),
    pickle.SETITEM: lambda m: m.update([m.pop(), m.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.update(m.pop_mark()),
    pickle.ADDITEMS: lambda m: m.add(m.pop_mark()),
    pickle.GLOBAL: lambda m: m.mention(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.mention(*[m.pop(), m.pop()][::-1]),
    pickle.REDUCE: Machine.call,
    pickle.NEWOBJ: Machine.new,
    pickle.BUILD: Machine.build,
    pickle.BINPERSID: Machine.persistent_id,
    pickle.BINPUT: lambda m: m.memoize(m.number('<B')),
    pickle.LONG_BINPUT: lambda m: m.memoize(m.number('<I')),
    pickle.MEMOIZE: lambda m: m.memoize(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.number('<B')]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number('<I')]),
}
