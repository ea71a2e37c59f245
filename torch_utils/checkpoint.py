"""Checkpoints as data: tensors in safetensors, everything else as JSON in the same file. Loading runs nothing from the
file."""

import json
import os
import re
import zlib

import safetensors
import safetensors.torch
import torch

from dnnlib import UserError, files
from dnnlib.text import one_line

VERSION = '1'
ZIP = b'PK\x03\x04', b'PK\x05\x06'        # how a zip begins; the second one is empty
HEADER_LIMIT = 4 << 20          # bytes; the training states of the largest networks need a tenth of it


def save(path, kind, tensors, info, keep_old_as=None):
    """Writes one file, whole or not at all.

    Args:
        kind:    what it is ('network', or the state of a training, projection or pretraining); `load` asks for it.
        tensors: {name: tensor}.
        info:    anything JSON can hold.
        keep_old_as: new path of the existing file; None = it is replaced.
    Raises:      UserError if it cannot be written (disk full, no permission).
    """
    tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    info = json.dumps(info)
    metadata = dict(format=f'kdgan-{kind}', version=VERSION, info=info, checksum=checksum(tensors, info))
    with files.atomic_path(path, keep_old_as) as temp:
        try:
            safetensors.torch.save_file(_unshared(tensors), temp, metadata=metadata)
        except safetensors.SafetensorError as err:
            raise _os_error(err) from err


def _os_error(err):
    """The OSError inside an error of safetensors, which keeps only its text."""
    match = re.search(r'os error (\d+)', str(err))
    return OSError(int(match[1]), str(err)) if match else OSError(str(err))


def _unshared(tensors):
    """safetensors refuses tensors that share memory."""
    seen = set()
    result = {}
    for name, value in tensors.items():
        result[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return result


def copies(tensors):
    """{name: tensor} -> copies on the CPU, out of reach of the training. Contiguous, as `save` needs them: if its
    thread had to reorder them, it would get OpenMP threads of its own; with more threads than cores, those of the
    training sleep at every operator, until the end of the run (1.7 times as slow on two cores).
    """
    return {name: value.detach().to('cpu', copy=True, memory_format=torch.contiguous_format)
            for name, value in tensors.items()}


def checksum(tensors, info):
    """CRC-32 in hex of the JSON text `info` and of every tensor's name, type, shape and bytes: it detects damage, not
    forgery."""
    crc = zlib.crc32(info.encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f'{name} {value.dtype} {list(value.shape)}'.encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy(), crc)
    return f'{crc:08x}'


def load(path, kind, device='cpu', remedy=None):
    """-> ({name: tensor}, info). Raises UserError if it is missing, damaged (the checksum is verified), or of another
    kind. remedy: of a damaged one, for the message."""
    info = load_info(path, kind, remedy)
    tensors = load_tensors(path, remedy=remedy)
    metadata = _load_metadata(path, remedy)
    # None: from before there were checksums
    if metadata.get('checksum') not in (None, checksum(tensors, metadata['info'])):
        raise damaged(path, 'its checksum is wrong', remedy)
    return {name: value.to(device) for name, value in tensors.items()}, info


def load_checksum(path, kind):
    """The checksum recorded in the file; None for a file from before there were any."""
    load_info(path, kind)
    return _load_metadata(path).get('checksum')


def load_tensors(path, device='cpu', prefixes=None, remedy=None):
    """Only the tensors, not verified: {name: tensor} of all, or of those called PREFIX.anything. On a CPU they are read
    when first used."""
    try:
        with safetensors.safe_open(path, framework='pt', device=str(device)) as f:
            names = [name for name in f.keys()                      # noqa: SIM118 (no dict)
                     if prefixes is None or name.partition('.')[0] in prefixes]
            return {name: f.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as err:  # KeyError: a dtype that torch has not
        raise damaged(path, err, remedy) from err


def load_info(path, kind, remedy=None):
    """Only the JSON part. kind: one, or several of which any will do."""
    kinds = [kind] if isinstance(kind, str) else kind
    if _is_zip(path):
        raise UserError(path, 'is a zip, such as a data set', remedy or
                        ('name a network-snapshot-....safetensors' if 'network' in kinds else 'use another file'))
    metadata = _load_metadata(path, remedy)
    if metadata.get('format') not in [f'kdgan-{k}' for k in kinds]:
        found = one_line(repr(metadata.get('format')))
        raise UserError(path, f'this is no {kinds[0]} of this project (format {found})', 'use another file')
    if metadata.get('version') != VERSION:
        found = one_line(repr(metadata.get('version')))
        raise UserError(path, f'written by another version of the project (format {found}, this one reads {VERSION!r})')
    try:
        info = json.loads(metadata['info'])
    except (KeyError, ValueError, RecursionError) as err:
        raise damaged(path, err, remedy) from err
    if not isinstance(info, dict):
        raise damaged(path, 'its metadata is no table', remedy)
    return info


def update_info(path, kind, change):
    """Replaces the JSON part `info` by `change(info)`; whole or not at all, as `save`."""
    tensors, info = load(path, kind)
    save(path, kind, tensors, change(info))


def _is_zip(path):
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as f:
        return f.read(4) in ZIP


def _load_metadata(path, remedy=None):
    if not os.path.isfile(path):
        raise UserError(path, 'there is no such file')
    try:
        with open(path, 'rb') as f:
            size = int.from_bytes(f.read(8), 'little')
        if size > HEADER_LIMIT and size < os.path.getsize(path):
            raise damaged(path, f'its header has {size >> 20} MiB, {HEADER_LIMIT >> 20} are the limit', remedy)
        with safetensors.safe_open(path, framework='pt') as f:
            return f.metadata() or {}
    except (safetensors.SafetensorError, OSError) as err:
        raise damaged(path, err, remedy) from err


def damaged(path, why, remedy=None):
    """The `UserError` that says that a file cannot be used."""
    return UserError(path, f'the file is damaged or of another format ({one_line(why)})', remedy or 'use another one')


def flatten(prefix, state):
    """Nested dicts and lists with tensors and plain values -> ({'prefix.a.0': tensor}, the same nest with tensors
    replaced by their name)."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}, {'$tensor': prefix}
    if isinstance(state, dict):
        children = {key: flatten(f'{prefix}.{key}', value) for key, value in state.items()}
        # Keys may be numbers, which JSON has not
        nest = {'$dict': [[key, child[1]] for key, child in children.items()]}
        return {k: v for child in children.values() for k, v in child[0].items()}, nest
    if isinstance(state, (list, tuple)):
        children = [flatten(f'{prefix}.{i}', value) for i, value in enumerate(state)]
        return {k: v for child in children for k, v in child[0].items()}, [child[1] for child in children]
    return {}, state


def unflatten(nest, tensors):
    """Inverse of `flatten`."""
    if isinstance(nest, dict):
        if '$tensor' in nest:
            return tensors[nest['$tensor']]
        return {key: unflatten(value, tensors) for key, value in nest['$dict']}
    if isinstance(nest, list):
        return [unflatten(value, tensors) for value in nest]
    return nest


def copy_matching(source, target):
    """Copies what has the same name and shape from one state dict into the module `target`. -> (copied, left as they
    were)."""
    state = target.state_dict()
    matching = {name: value for name, value in source.items() if name in state and state[name].shape == value.shape}
    target.load_state_dict(matching, strict=False)
    return sorted(matching), sorted(set(state) - set(matching))
