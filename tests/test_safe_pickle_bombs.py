"""Pickles that a reader without limits would take minutes or gigabytes for."""

import json
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import threading

import pytest
import torch
from legacy_files import dumps, storage_call
from pickle_parts import STORAGE, TEXT, load, tensor_args

from dnnlib import UserError
from torch_utils.pickles import machine as pickle_machine
from torch_utils.pickles import reader as safe_pickle

# ---------------------------------------------------------------------------
# Bombs: each a file that a reader without limits would take minutes or gigabytes for. They are a tenth of what they
# could be, as are the limit and the stack, so that reading all of them takes a second.

BOMB_OPCODES, STACK_BYTES = pickle_machine.MAX_OPCODES // 10, 1 << 20


def frames(first, second, times):
    return b'\x80\x04' + first + second * times + b'.'


def bombs():
    n = 150_000
    put = b''.join(b'r' + struct.pack('<I', i) for i in range(n // 4))
    collide = b''.join(b'\x8a\x10' + ((2 ** 61 - 1) * i).to_bytes(16, 'little') + b'N' for i in range(1, 19_000))
    double = b'](' + b''.join(b'h\x00' for _ in range(200)) + b'e'
    nested = b''.join(b']q' + bytes([i]) + (b'(' + bytes([104, i - 1]) * 200 + b'e' if i else b'') for i in range(180))
    text = b'X' + struct.pack('<I', 4 << 20) + b'<' * ((4 << 20) - 2) + b'f4'
    wide = 'é' * 100 + '\U0001f600'
    return {
        'deep lists': frames(b'', b']', n) + b'a' * n + b'.',
        'deep tuples within the limit': frames(b'N', b'\x85', 39_000),
        'deep lists within the limit': b'\x80\x04' + b']' * 19_000 + b'a' * 18_999 + b'.',
        'deep dictionaries within the limit': b'\x80\x04}' + b'K\x01}' * 12_000 + b's' * 12_000 + b'.',
        'deep objects within the limit':
            b'\x80\x02cdnnlib.tflib.network\nNetwork\nq\x000' + b'h\x00)\x81}K\x01' * 5000 + b'N' + b'sb' * 5000 + b'.',
        'deep tuple as a key': b'\x80\x04}N' + b'\x85' * 30_000 + b'Ns.',
        'deep marks': frames(b'', b'(', n),
        'sets': frames(b'', b'\x8f', n),
        'nothing, often': frames(b'', b'N0', n),
        'lists of lists of lists, within the limit': b'\x80\x02' + nested + b'.',
        'a list in itself, within the limit': b'\x80\x02]q\x00' + double + b'.',
        'memo, within the limit': b'\x80\x02N' + put + b'.',
        'memo with a huge index, within the limit': b'\x80\x02N' + b'r\xff\xff\xff\xff' * 1000 + b'.',
        'numbers that collide': b'\x80\x02}(' + collide + b'u.',
        'long texts': b'\x80\x04' + (b'X' + struct.pack('<I', 4 << 20) + b'x' * (4 << 20) + b'0') * 30 + b'.',
        'wide texts, within the limit': b'\x80\x04' + (TEXT(wide.encode()) * 30_000) + b'.',
        'a set of the same list, often': b'\x80\x02cbuiltins\nset\nq\x000](' + b'N' * 10_000 + b'eq\x010'
        + b'h\x00h\x01\x85R0' * 5000 + b'N.',
        'the same text as bytes, often': b'\x80\x02c_codecs\nencode\nq\x000' + text
        + b'q\x01X\x06\x00\x00\x00latin1q\x020'
                                         + b'h\x00h\x01h\x02\x86R0' * 5000 + b'N.',
        'long keys that are equal': b'\x80\x02}' + text + b'q\x00Ns' + text + b'q\x010' + b'h\x01Ns' * 10_000 + b'.',
        'a number type with a long name': b'\x80\x02cnumpy\ndtype\nq\x000' + text + b'q\x010'
        + b'h\x00h\x01\x85R0' * 5000 + b'N.',
        'many byte strings, within the limit': frames(b'', b'C\xff' + b'x' * 255, 30_000),
        'one storage, often': dumps([STORAGE] * 2)[:-2] + b'',
        'storages, within the limit': dumps([storage_call(torch.zeros(1)) for _ in range(290)]),
        'a text of a gigabyte': b'\x80\x04X\x00\x00\x00\x40' + b'x' * 1000,
        'a tensor of a petabyte': dumps(tensor_args(STORAGE, 0, (2 ** 25, 2 ** 25), (0, 0), False, {})),
        'the same objects in many tuples, within the limit': b'\x80\x02N' + b'q\x00h\x00h\x00h\x00\x87' * 7000 + b'.',
    }


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='the peak of the memory is read from /proc')
def test_bombs_take_neither_time_nor_memory(tmp_path):
    """In a process of its own: what is read and put into containers, and, above those before, megabytes at the peak.

    Where the work cannot be counted, as in comparing long keys, a bomb that is not refused shows as one that is read,
    or as a hang.
    """
    names = set()
    for name, data in bombs().items():
        names.add(name)
        (tmp_path / name).write_bytes(data)
    result = subprocess.run([sys.executable, __file__, 'bombs', str(tmp_path)], capture_output=True, text=True,
                            timeout=3600, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads(result.stdout)
    assert set(rows) == names
    for name, (work, megabytes, message) in rows.items():
        assert work < 4 * BOMB_OPCODES and megabytes < 256, (name, work, megabytes)
        assert message is None or ('\n' not in message and len(message) < 1000), (name, message)
    assert {name for name, row in rows.items() if row[-1] is None} == {name for name in rows
                                                                       if 'within the limit' in name}


class CountedMachine(pickle_machine.Machine):
    """Counts what is read and what is put into containers, in all machines together."""
    work = 0

    def take(self, size):
        CountedMachine.work += 1
        return super().take(size)

    def extend(self, items):
        CountedMachine.work += len(items)
        super().extend(items)

    def update(self, items):
        CountedMachine.work += len(items)
        super().update(items)

    def add(self, items):
        CountedMachine.work += len(items)
        super().add(items)


def run_bombs(folder):
    safe_pickle.Machine, pickle_machine.MAX_OPCODES = CountedMachine, BOMB_OPCODES
    peak = lambda: int(re.search(r'VmHWM:\s*(\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]) / 1024
    load(pickle.dumps([torch.zeros(2)]))
    before, rows = peak(), {}
    for path in sorted(pathlib.Path(folder).iterdir()):
        CountedMachine.work, message = 0, None
        try:
            with safe_pickle.opened(path):
                pass
        except UserError as err:
            message = str(err).removeprefix(str(path))
        rows[path.name] = CountedMachine.work, peak() - before, message
    print(json.dumps(rows))


if __name__ == '__main__' and sys.argv[1:2] == ['bombs']:
    threading.stack_size(STACK_BYTES)
    threading.Thread(target=run_bombs, args=sys.argv[2:]).start()
