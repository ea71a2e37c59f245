"""The teacher's features of all real images, computed once per teacher and data set."""

import os

import numpy as np
import safetensors
import safetensors.torch
import torch
import tqdm

from dnnlib import UserError, files
from torch_utils import distributed
from torch_utils.images import to_float

MAX_IMAGES = 400_000            # 512 floats each: 800 MB


@torch.no_grad()
def real_features(teacher, dataset, raw_input=False, items=None, batch_size=64):
    """[len(items), dim] float32 on the teacher's device, of images by index; kept on disk from one run to the next.

    Processes share the work; the first one alone reads and writes the disk. Raises UserError if a feature is infinite
    or NaN.

    Args:
        raw_input: see `Teacher.encode_image`.
        items:     [n] int; None = all images. Any other selection must depend only on the number n.
    """
    items = np.arange(len(dataset)) if items is None else items
    identity = teacher.identity.replace('/', '_').replace(':', '_')
    part = [f'of{len(items)}'] if len(items) < len(dataset) else []
    name = '-'.join([dataset.content_hash()[:16], identity, teacher.precision, *(['raw'] if raw_input else []), *part])
    path = os.path.join(files.cache_dir('teacher_features'), f'{name}.safetensors')
    device = teacher.mean.device
    rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    feats = _read(path) if rank == 0 else None
    if distributed.any_process(feats is not None):
        feats = torch.zeros([len(items), teacher.dim]) if feats is None else feats
        return distributed.all_reduce_sum(feats.to(device))
    feats = torch.zeros([len(items), teacher.dim], device=device)
    chunks = np.array_split(np.arange(len(items)), -(-len(items) // batch_size))[rank::num_ranks]
    for chunk in tqdm.tqdm(chunks, desc='Teacher features of the real images', unit='batch', leave=False,
                           disable=None if rank == 0 else True):
        img = torch.from_numpy(np.stack([dataset[i][0] for i in items[chunk]])).to(device)
        feats[torch.from_numpy(chunk).to(device)] = teacher.encode_image(to_float(img), raw_input)
    distributed.all_reduce_sum(feats)
    if not feats.isfinite().all():
        raise UserError(f'{teacher.option}: some of its features of the images in {dataset.path} are infinite or NaN '
                        f'in {teacher.precision}; '
                        + ('use another teacher' if teacher.precision == 'float32' else 'use --fp32=1'))
    if rank == 0:
        with files.atomic_path(path) as temp:
            safetensors.torch.save_file({'features': feats.cpu()}, temp)
    return feats


def _read(path):
    """The features, or None if there is no usable file."""
    try:
        feats = safetensors.torch.load_file(path)['features']
        return feats if feats.isfinite().all() else None
    except (FileNotFoundError, KeyError, safetensors.SafetensorError):
        return None
