"""Checkpoints as data: tensors in safetensors, everything else as JSON in the same file. Loading runs nothing from the file."""

import json
import os
import re

import safetensors
import safetensors.torch
import torch

from dnnlib import UserError, files

VERSION = '1'
REMEDIES = {'training-state': 'delete it, or start afresh with --new-run=1'}        # of a damaged file, by kind


def save(path, kind, tensors, info):
    """Writes one file, whole or not at all.

    Args:
        kind:    what it is ('network' or 'training-state'); `load` asks for it.
        tensors: {name: tensor}.
        info:    anything JSON can hold.
    Raises:      UserError if it cannot be written (disk full, no permission).
    """
    tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    metadata = dict(format=f'kdgan-{kind}', version=VERSION, info=json.dumps(info))
    with files.atomic_path(path) as temp:
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


def load(path, kind, device='cpu'):
    """-> ({name: tensor}, info). Raises UserError if it is missing, damaged, or of another kind."""
    info = load_info(path, kind)
    try:
        return safetensors.torch.load_file(path, device=str(device)), info
    except safetensors.SafetensorError as err:
        raise _damaged(path, kind, err) from err


def load_info(path, kind):
    """Only the JSON part."""
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file')
    try:
        with safetensors.safe_open(path, framework='pt') as f:
            metadata = f.metadata() or {}
    except (safetensors.SafetensorError, OSError) as err:
        raise _damaged(path, kind, err) from err
    if metadata.get('format') != f'kdgan-{kind}':
        raise UserError(f'{path}: this is no {kind} of this project (format {metadata.get("format")!r}); use another file')
    if metadata.get('version') != VERSION:
        raise UserError(f'{path}: written by another version of the project (format {metadata.get("version")!r}, this one reads {VERSION!r})')
    return json.loads(metadata['info'])


def _damaged(path, kind, err):
    return UserError(f'{path}: the file is damaged or of another format ({err}); {REMEDIES.get(kind, "use another one")}')


def flatten(prefix, state):
    """Nested dicts and lists with tensors and plain values -> ({'prefix.a.0': tensor}, the same nest with tensors replaced by their name)."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}, {'$tensor': prefix}
    if isinstance(state, dict):
        children = {key: flatten(f'{prefix}.{key}', value) for key, value in state.items()}
        nest = {'$dict': [[key, child[1]] for key, child in children.items()]}      # keys may be numbers, which JSON has not
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
    """Copies what has the same name and shape from one state dict into the module `target`. -> (copied, left as they were)."""
    state = target.state_dict()
    matching = {name: value for name, value in source.items() if name in state and state[name].shape == value.shape}
    target.load_state_dict(matching, strict=False)
    return sorted(matching), sorted(set(state) - set(matching))
