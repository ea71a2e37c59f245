"""The teacher's features of all real images, computed once per teacher and data set."""

import os

import numpy as np
import safetensors
import safetensors.torch
import torch
import tqdm

from dnnlib import files
from torch_utils import distributed

MAX_IMAGES = 400_000            # 512 floats each: 800 MB


@torch.no_grad()
def real_features(teacher, dataset, raw_input=False, batch_size=64):
    """[len(dataset), dim] float32 on the teacher's device, row = index in the data set; kept on disk from one run to the next.

    raw_input: see `Teacher.encode_image`. The first process computes, the others read what it wrote.
    """
    identity = teacher.identity.replace('/', '_').replace(':', '_')
    name = '-'.join([dataset.content_hash()[:16], identity, str(teacher.dtype).removeprefix('torch.'), *(['raw'] if raw_input else [])])
    path = os.path.join(files.cache_dir('teacher_features'), f'{name}.safetensors')
    device = teacher.mean.device
    with distributed.main_process_first():
        if _read(path) is None:
            feats = []
            chunks = np.array_split(np.arange(len(dataset)), -(-len(dataset) // batch_size))
            for chunk in tqdm.tqdm(chunks, desc='Teacher features of the real images', unit='batch', leave=False, disable=None):
                img = torch.from_numpy(np.stack([dataset[i][0] for i in chunk])).to(device)
                feats.append(teacher.encode_image(img.to(torch.float32) / 127.5 - 1, raw_input).cpu())
            with files.atomic_path(path) as temp:
                safetensors.torch.save_file({'features': torch.cat(feats)}, temp)
    return _read(path).to(device)


def _read(path):
    """The features, or None if there are none that can be read."""
    try:
        return safetensors.torch.load_file(path)['features']
    except (FileNotFoundError, KeyError, safetensors.SafetensorError):
        return None
