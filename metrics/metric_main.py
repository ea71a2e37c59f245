"""The metrics by name: which there are, what one needs, its value with its protocol, and where that is written."""

import datetime
import json
import math
import os
import re
import time
from typing import Callable, NamedTuple

import torch

import dnnlib
from dnnlib import UserError, files
from torch_utils import distributed

from . import frechet_inception_distance
from .detectors import Detector, load_inception, load_teacher_detector
from .metric_utils import NOISE_MODE, MetricOptions


class Metric(NamedTuple):
    """A family of metrics, one for each number of generated images."""
    pattern: str                                    # of the name, with <N> for the number of images: 5000 or 5k
    needs: str                                      # 'inception' or 'teacher'
    compute: Callable[[MetricOptions, int], float]  # of the options and the number of images

    def num_gen(self, name: str) -> int | None:
        """The number of generated images in the name; None if it is a name of other metrics."""
        match = re.fullmatch(re.escape(self.pattern).replace('<N>', '([1-9][0-9]*)(k?)'), name)
        return match and int(match[1]) * (1000 if match[2] else 1)


_metrics: dict[str, Metric] = {}


def register_metric(pattern: str, needs: str):
    """Decorator: makes `compute(opts, num_gen) -> float` the metrics of this pattern; its docstring is what users are told."""
    def register(compute):
        if pattern in _metrics:
            raise ValueError(f'metric {pattern!r} is already registered by {_metrics[pattern].compute.__module__}')
        _metrics[pattern] = Metric(pattern, needs, compute)
        return compute
    return register


@register_metric('fid<N>_full', needs='inception')
def fid_full(opts, num_gen):
    """FID of N generated images against all real ones"""
    return frechet_inception_distance.compute_fid(opts, max_real=None, num_gen=num_gen)


@register_metric('clipfid<N>_full', needs='teacher')
def clipfid_full(opts, num_gen):
    """the same with the features of a teacher"""
    return frechet_inception_distance.compute_fid(opts, max_real=None, num_gen=num_gen)


def list_valid_metrics() -> list[str]:
    """For people: 'fid<N>_full (what it is)', ..."""
    return [f'{pattern} ({metric.compute.__doc__})' for pattern, metric in _metrics.items()]


def is_valid_metric(name: str) -> bool:
    """Whether there is a metric of this name."""
    return any(metric.num_gen(name) for metric in _metrics.values())


def find_metric(name: str) -> tuple[Metric, int]:
    """'fid5k_full' -> (the metric, 5000). Raises UserError if there is none."""
    for metric in _metrics.values():
        if num_gen := metric.num_gen(name):
            return metric, num_gen
    raise UserError(f'--metrics={name}: there is no such metric; use {" or ".join(list_valid_metrics())}, '
                    'with a number of images such as 500 or 5k for <N>')


def load_detector(metric: str, device, detector: str | Detector | None = None, teacher_kwargs: dict | None = None) -> Detector:
    """What the metric compares images by.

    Args:
        detector:       file with the Inception network; None = the official one, from the cache or downloaded. A loaded detector is returned.
        teacher_kwargs: of clipfid: func_name and arguments of the function that loads the teacher.
    Raises: UserError if it cannot be had.
    """
    needs = find_metric(metric)[0].needs
    if isinstance(detector, Detector):
        return detector
    if needs == 'inception':
        return load_inception(device, detector)
    if teacher_kwargs is None:
        raise ValueError(f'{metric} needs teacher_kwargs')
    return load_teacher_detector(device, teacher_kwargs)


def load_detectors(metrics: list[str], device, detector: str | None = None, teacher_kwargs: dict | None = None) -> dict[str, Detector]:
    """{metric: its detector}, each loaded once; arguments as above."""
    needs = {metric: find_metric(metric)[0].needs for metric in metrics}
    loaded = {}
    for metric in metrics:
        if needs[metric] not in loaded:
            loaded[needs[metric]] = load_detector(metric, device, detector, teacher_kwargs)
    return {metric: loaded[needs[metric]] for metric in metrics}


def check_metrics(metrics: list[str], detector: str | None = None, teacher_kwargs: dict | None = None) -> None:
    """Finds out before a long run whether there are such metrics and their detectors can be had. Raises UserError."""
    load_detectors(metrics, 'cpu', detector, teacher_kwargs)


def calc_metric(metric: str, G: torch.nn.Module, dataset_kwargs: dict, device, detector: str | Detector | None = None,
                teacher_kwargs: dict | None = None, seed: int = 0, batch_size: int = 64, num_workers: int = 2, progress: bool = True) -> dict:
    """The value of a metric and the protocol it was measured by, the same on all processes; all of them must call it.

    Args:
        metric: a name such as 'fid5k_full'.
        G, dataset_kwargs, device, seed, batch_size, num_workers, progress: see `metric_utils.MetricOptions`.
        detector, teacher_kwargs: see `load_detector`.
    Returns: what JSON can hold: metric, value (NaN if the generator gives NaN), detector, reference, generated, and the circumstances.
    Raises:  UserError for an unknown metric, a detector that cannot be had, an image that cannot be read.
    """
    if G.training:
        raise ValueError('the generator is in training mode; call G.eval()')
    start = time.time()
    family, num_gen = find_metric(metric)
    opts = MetricOptions(G, dataset_kwargs, load_detector(metric, device, detector, teacher_kwargs), torch.device(device), seed, batch_size,
                         num_workers, progress=progress)
    value = family.compute(opts, num_gen)
    return distributed.agree(lambda: dict(metric=metric, value=value, **_protocol(opts, num_gen), seconds=round(time.time() - start, 1)))


def _protocol(opts: MetricOptions, num_gen: int) -> dict:
    """Everything that the value depends on."""
    detector, reference = opts.detector, opts.reference
    return dict(
        detector=dict(name=detector.name, identity=detector.identity, num_features=detector.num_features, resize=detector.resize,
                      input='uint8, clip(127.5 x + 128) cut to whole numbers; one channel repeated to three'),
        reference=dict(dataset=reference.name, content_hash=reference.content_hash(), images=len(reference), mirrored=False),
        generated=dict(images=num_gen, truncation_psi=1, noise_mode=NOISE_MODE, labels='drawn from the data set' if opts.G.c_dim > 0 else 'none',
                       seed=opts.seed, batch_size=opts.batch_size),
        device=opts.device.type, torch=torch.__version__, date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    )


def report_metric(result: dict, run_dir: str | None = None, snapshot: str | None = None, cur_nimg: int | None = None) -> None:
    """Prints one line, and appends the result to `metric-<name>.jsonl` in `run_dir` (None = nowhere); on the first process.

    Args:
        result:   of `calc_metric`.
        snapshot: file or address of the network.
        cur_nimg: images it was trained on.
    Raises: UserError if the file cannot be written.
    """
    if distributed.get_rank() != 0:
        return
    print(describe(result), flush=True)
    if run_dir is None:
        return
    value = result['value'] if math.isfinite(result['value']) else None         # JSON has no NaN
    if snapshot is not None:
        snapshot = files.public_address(snapshot) if files.is_address(snapshot) else os.path.relpath(snapshot, run_dir)
    line = json.dumps({**result, 'value': value, 'snapshot': snapshot, 'cur_nimg': cur_nimg}, allow_nan=False)
    path = os.path.join(run_dir, f'metric-{result["metric"]}.jsonl')
    try:
        with open(path, 'a', encoding='utf-8') as f:
            f.write(line + '\n')
    except OSError as err:
        raise files.write_error(path, err) from err


def describe(result: dict) -> str:
    """A result in one line."""
    reference, generated = result['reference'], result['generated']
    return (f'{result["metric"]} {result["value"]:.4f}  ({generated["images"]} generated, {reference["images"]} real images of '
            f'{reference["dataset"]}, {result["detector"]["name"]}, seed {generated["seed"]}, {dnnlib.util.format_time(result["seconds"])})')


def calc_and_report(run_dir: str | None = None, snapshot: str | None = None, cur_nimg: int | None = None, **kwargs) -> dict:
    """`calc_metric(**kwargs)`, then `report_metric`: what a training loop calls by name. -> the result."""
    result = calc_metric(**kwargs)
    report_metric(result, run_dir, snapshot, cur_nimg)
    return result
