"""Which teacher suits a data set?

    python -m kd_plugin.probe --data=photos.zip --teacher=ViT-B/32 --teacher=hf:facebook/dinov2-base --outdir=probe
"""

import contextlib
import json
import os
import re
import time
from typing import NamedTuple

import click

from dnnlib import UserError, files
from dnnlib.published import without_folders
from dnnlib.util import format_bytes, user_errors

# The imports above come before torch: dnnlib sets how torch's threads wait.
# isort: split

import numpy as np
import torch
import tqdm

from dnnlib.commands import SETTINGS, batch_option, device_option
from torch_utils import cpu_threads
from torch_utils.devices import torch_device
from torch_utils.image_grid import save_image
from torch_utils.images import check_fit, to_float, to_uint8
from training import model_files
from training.dataset import DatasetError, ImageFolderDataset
from training.dataset import demo as demo_data

from .distillers.cgkd import image_text_correlation, mean_pairwise_cosine
from .probing.measures import linear_probe, norms, zero_shot
from .probing.picture import draw_correlations
from .prompts import resolve_texts
from .teacher import load_teacher

SHOWN = 24                              # images and texts in a picture, at most
COLUMNS = [('teacher', '{name}'), ('width', '{width}'), ('input', '{input_size}'), ('length', '{feature_norm:.1f}'),
           ('weights', '{weights}'), ('images/s', '{images_per_sec:.1f}'), ('classes', '{classes}'),
           ('zero-shot', '{zero_shot}'), ('real/fake', '{real_or_fake}'), ('likeness', '{text_likeness}')]


class Material(NamedTuple):
    """The images and texts that the teachers are compared on."""
    real: torch.Tensor                  # uint8 [N, C, H, W]
    labels: np.ndarray | None           # int [N]
    gen: torch.Tensor | None            # uint8 [N, C, H, W]
    texts: list                         # of str
    text_of_class: bool                 # whether text i describes class i
    facts: dict                         # for the record


def collect(data, network, texts, num_images, seed, device, batch):
    """-> `Material`. Raises UserError if the data cannot be used."""
    path = demo_data.demo_set(32) if data == 'demo' else data
    with contextlib.closing(_open(path, num_images, seed)) as dataset:
        real = torch.from_numpy(np.stack([dataset[i][0] for i in range(len(dataset))]))
        onehot = np.stack([dataset.get_label(i) for i in range(len(dataset))])
        classes = onehot.argmax(1) if dataset.has_onehot_labels else None
        texts, origin = resolve_texts(texts, dataset.name, dataset.class_names)
        facts = dict(data=dataset.facts(), seed=seed, network=network and model_files.address_of(network), texts=texts,
                     texts_origin=origin)
        gen = None if network is None else generate(network, dataset, onehot, seed, device, batch)
        return Material(real, classes, gen, texts, origin.startswith('class names'), facts)


def _open(path, num_images, seed):
    """With class numbers, if all images have one."""
    try:
        return ImageFolderDataset(path, use_labels=True, max_size=num_images, random_seed=seed)
    except DatasetError:
        return ImageFolderDataset(path, max_size=num_images, random_seed=seed)


@torch.no_grad()
def generate(network, dataset, labels, seed, device, batch):
    """As many images as there are labels [N, c_dim], uint8 on the CPU. Raises UserError if the network makes others
    than the data set has."""
    G = model_files.load_generator(network, device)
    check_fit(dataset, f'--data={dataset.path}', G.img_channels, G.img_resolution, G.c_dim)
    z = torch.randn([len(labels), G.z_dim], generator=torch.Generator().manual_seed(seed))
    c = torch.from_numpy(labels[:, :G.c_dim])
    batches = zip(z.split(batch), c.split(batch), strict=True)
    return torch.cat([to_uint8(G(zs.to(device), cs.to(device), noise_mode='const')).cpu() for zs, cs in batches])


@torch.no_grad()
def encode(teacher, images, batch, title):
    """-> (features [N, M] on the CPU, images per second). The first batch is encoded twice, since the first call is
    slow."""
    device = teacher.mean.device
    parts = images.split(batch)
    teacher.encode_image(to_float(parts[0].to(device))).cpu()
    feats, start = [], time.perf_counter()
    for part in tqdm.tqdm(parts, desc=title, unit='batch', leave=False, disable=None):
        feats.append(teacher.encode_image(to_float(part.to(device))).cpu())           # to the CPU: waits for the device
    return torch.cat(feats), len(images) / (time.perf_counter() - start)


def probe(name, teacher, material, seed, batch):
    """-> (record of a teacher, correlations [N, K] or None)."""
    before = _start_counting(teacher.mean.device)
    feats, speed = encode(teacher, material.real, batch, f'{name}, real images')
    peak = _peak(teacher.mean.device, before)
    real_or_fake = None
    if material.gen is not None:
        both = torch.cat([feats, encode(teacher, material.gen, batch, f'{name}, generated images')[0]])
        real_or_fake = linear_probe(both, np.repeat([0, 1], [len(feats), len(material.gen)]), seed)
    text_feats = teacher.encode_text(material.texts).cpu() if teacher.has_texts else None
    corr = None if text_feats is None else image_text_correlation(feats, text_feats)
    classes = None if material.labels is None else linear_probe(feats, material.labels, seed)
    mean, std = norms(feats)
    record = dict(
        name=name, identity=teacher.identity, width=teacher.dim, input_size=teacher.preprocess.size, feature_norm=mean,
        feature_norm_std=std,
        weight_bytes=sum(tensor.numel() * tensor.element_size()
                         for tensor in [*teacher.parameters(), *teacher.buffers()]), peak_gpu_bytes=peak,
        images_per_sec=speed, classes=classes and classes._asdict(), real_or_fake=real_or_fake
        and real_or_fake._asdict(),
        zero_shot=zero_shot(feats, text_feats, material.labels) if text_feats is not None and material.text_of_class
        and material.labels is not None else None,
        text_likeness=float(mean_pairwise_cosine(corr)) if corr is not None and len(corr) > 1 else None)
    return record, corr


def _start_counting(device):
    if device.type != 'cuda':
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device, before):
    """Bytes of GPU memory that encoding took in addition to the weights; None on a CPU."""
    return None if before is None else torch.cuda.max_memory_allocated(device) - before


def save_picture(outdir, number, name, material, corr):
    """Correlations of some images, in order of their classes, with some texts. -> name of the file."""
    order = np.arange(len(corr)) if material.labels is None else np.argsort(material.labels, kind='stable')
    rows = order[_spread(len(order))]
    columns = _spread(len(material.texts))
    picture = draw_correlations(material.real[rows], corr[rows][:, columns], [material.texts[i] for i in columns])
    filename = f'texts-{number}-{re.sub(r"[^A-Za-z0-9.]+", "-", os.path.basename(name.rstrip("/")))}.png'
    save_image(picture, os.path.join(outdir, filename))
    return filename


def _spread(count):
    """At most SHOWN places from 0 to count - 1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(np.int64))


def table(records):
    """Lines for people."""
    share = lambda value: '-' if value is None else f'{value:.3f}'
    shown = [dict(r, weights=format_bytes(r['weight_bytes']), classes=share(r['classes'] and r['classes']['accuracy']),
                  real_or_fake=share(r['real_or_fake'] and r['real_or_fake']['accuracy']),
                  zero_shot=share(r['zero_shot']),
                  text_likeness=share(r['text_likeness'])) for r in records]
    cells = [[title for title, _ in COLUMNS]] + [[form.format(**r) for _, form in COLUMNS] for r in shown]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return ['  '.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def describe(material, records):
    """Lines about the reference of the numbers."""
    chances = [f'{what} {r["chance"]:.3f}' for what, r in (('classes', records[0]['classes']),
                                                           ('real/fake', records[0]['real_or_fake'])) if r]
    facts = material.facts
    yield (f'{len(material.real)} images of {facts["data"]["name"]}; {len(material.texts)} texts '
           f'({facts["texts_origin"]}).')
    if chances:
        yield f'By chance: {", ".join(chances)}.'
    if material.labels is None and material.gen is None:
        yield 'The images have no classes and there is no --network: nothing to tell apart.'
    elif material.labels is not None and records[0]['classes'] is None:
        yield 'Fewer than two images of a class, or a single class: classes are not measured; more --images may help.'


def load_teachers(names, device):
    """Raises UserError for the first teacher that is not available."""
    try:
        return [load_teacher(name, device, '--teacher') for name in names]
    except UserError as err:
        raise UserError(f'{err}; to compare several, give --teacher once for each' if any(',' in name for name in names)
                        else str(err)) from err


@click.command(context_settings=SETTINGS)
@click.option('--data', help='Images: folder or zip from dataset_tool.py, or demo', required=True, metavar='PATH|demo')
@click.option('--teacher', 'names', help='As --kd-teacher of train.py; several times to compare', required=True,
              multiple=True, metavar='NAME')
@click.option('--network', help='An early snapshot of a training: how well can its images be told from real ones?',
              metavar='NETWORK')
@click.option('--texts', help='As --kd-texts of train.py', default='auto', show_default=True, metavar='FILE|PRESET')
@click.option('--outdir', help='Where to write probe.json and the pictures', required=True, metavar='DIR')
@click.option('--images', 'num_images', help='Images to look at, drawn at random from a larger set',
              type=click.IntRange(min=10), default=1000, show_default=True, metavar='INT')
@batch_option(64)
@click.option('--seed', help='Of the images, the folds and the generated images', type=click.IntRange(min=0), default=0,
              show_default=True)
@device_option()
def main(data, names, network, texts, outdir, num_images, batch, seed, device):
    """Compare teachers on a data set.

    For each: accuracy of a linear classifier on its features in 5-fold cross-validation, for the classes of the images
    and, with --network, for real against generated; zero-shot accuracy where the texts are those of the classes; the
    likeness of the images' text correlations (mean cosine between two images; at 1, CGKD cannot tell them apart);
    length of the features; images per second; and a picture of the correlations.
    """
    with user_errors():
        device = torch.device(cpu_threads.settle(torch_device(device)))
        material = collect(data, network, texts, num_images, seed, device, batch)
        teachers = load_teachers(names, device)
        files.make_dir(outdir)
        records = []
        for number, (name, teacher) in enumerate(zip(names, teachers, strict=True)):
            record, corr = probe(name, teacher, material, seed, batch)
            record['picture'] = None if corr is None else save_picture(outdir, number, name, material, corr)
            records.append(record)
        lines = [*table(records), *describe(material, records)]
        where = (torch.cuda.get_device_name(device) if device.type == 'cuda'
                 else f'cpu, {torch.get_num_threads()} threads')
        record = dict(material.facts, images=len(material.real), batch=batch, device=where, torch=torch.__version__,
                      teachers=records)
        files.write_text(os.path.join(outdir, 'probe.json'), json.dumps(without_folders(record), indent=2))
        print('\n'.join([*lines, f'Saved probe.json and {sum(r["picture"] is not None for r in records)} pictures in '
                                 f'{outdir}']))


if __name__ == '__main__':
    main()
