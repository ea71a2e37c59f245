"""Metrics from end to end: detectors, one pass over the images for all metrics, values with their protocol, and where
those are written."""

import dataclasses
import datetime
import json
import math
import os
import time

import torch

import dnnlib
from dnnlib import UserError, files, metric_records
from torch_utils import distributed
from torch_utils.images import to_uint8

from . import (  # noqa: F401  (each registers its metrics)
    detectors,
    estimate,
    frechet_inception_distance,
    generator_metrics,
    inception_score,
    kernel_inception_distance,
    lpips,
    memorization,
    metric_utils,
    precision_recall,
    sampling,
    script_detectors,
)
from .detectors import Detector
from .metric_utils import NOISE_MODE, MetricOptions
from .registry import check_used, find_metric, forms, is_valid_metric, list_valid_metrics, register_metric  # noqa: F401
from .shared_pass import generated_statistics, real_statistics

# The input of most detectors
INPUT = 'uint8, clip(127.5 x + 128) cut to whole numbers; one channel repeated to three'

# Detectors by the names that metrics use: functions of the device and of the user's files and settings, which are None
# if not given.
LOADERS = {
    'inception': lambda device, given: detectors.load_inception(device, given['detector']),
    'inception-classes': lambda device, given: script_detectors.load_inception_classes(device, given['detector']),
    'vgg16-lpips': lambda device, given: lpips.load_vgg16_lpips(device, given['vgg16']),
    'alexnet-lpips': lambda device, given: lpips.load_alexnet_lpips(device, given['alexnet'], given['lpips_heads']),
    'vgg16': lambda device, given: script_detectors.load_vgg16(device, given['vgg16']),
    'teacher': lambda device, given: detectors.load_teacher_detector(device, given['teacher_kwargs']),
}
OTHER_FILES = dict(vgg16=None, alexnet=None, lpips_heads=None)


def load_detector(metric: str, device, detector: str | Detector | None = None, teacher_kwargs: dict | None = None,
                  **given: str | None) -> Detector:
    """The detector of a metric.

    Args:
        detector:       file with the Inception network; None = the official one, from the cache or downloaded. A loaded
                        detector is returned.
        teacher_kwargs: of featfid and the like: func_name and arguments of the function that loads the teacher.
        given:          files with other networks; None = the official ones: vgg16 of pr and ppl, alexnet and
                        lpips_heads of lpips_diversity.
    Raises: UserError if it cannot be had.
    """
    needs = find_metric(metric)[0].needs
    if isinstance(detector, Detector):
        return detector
    if needs == 'teacher' and teacher_kwargs is None:
        raise ValueError(f'{metric} needs teacher_kwargs')
    return LOADERS[needs](device, {**OTHER_FILES, 'detector': detector, 'teacher_kwargs': teacher_kwargs, **given})


def load_detectors(metrics: list[str], device, *args, **kwargs) -> dict[str, Detector]:
    """{metric: its detector}, each loaded once; other arguments as of `load_detector`."""
    needs = {metric: find_metric(metric)[0].needs for metric in metrics}
    loaded = {}
    for metric in metrics:
        if needs[metric] not in loaded:
            loaded[needs[metric]] = load_detector(metric, device, *args, **kwargs)
    return {metric: loaded[needs[metric]] for metric in metrics}


def check_metrics(metrics: list[str], detector: str | None = None, teacher_kwargs: dict | None = None) -> None:
    """Finds out before a long run whether there are such metrics and their detectors can be had. Raises UserError."""
    load_detectors(metrics, 'cpu', detector, teacher_kwargs)


def check_names(metrics: list[str], detector: str | None) -> set[str]:
    """The part of `check_metrics` that needs no loading: whether the user's `detector` exists. -> the names of
    `LOADERS` in use.

    Raises: UserError.
    """
    needs = {find_metric(metric)[0].needs for metric in metrics}
    if detector is not None and needs & {'inception', 'inception-classes'}:
        detectors.check_file(detectors.INCEPTION_URL, detector, '--detector')
    return needs


def by_teacher(metrics: list[str]) -> list[str]:
    """Those that compare the features of a teacher."""
    return [name for name in metrics if find_metric(name)[0].needs == 'teacher']


def needs_data(metrics: list[str], c_dim: int, uniform_labels: bool = False) -> bool:
    """Whether anything asks for real images: a metric, or a generator with labels (c_dim > 0) for their frequencies,
    unless they are uniform."""
    return (c_dim > 0 and not uniform_labels) or any(find_metric(metric)[0].real is not None for metric in metrics)


def check_metric_data(metrics: list[str], dataset_kwargs: dict, option: str, trained,
                      uniform_labels: bool = False) -> None:
    """Finds out before a training whether the metrics can be measured against other images than its own.

    Args:
        dataset_kwargs: class_name and arguments of those images.
        option:         where the user gave them, for messages.
        trained:        the training images: name, channels, resolution and classes are theirs.
        uniform_labels: as in `needs_data`.
    Raises: UserError.
    """
    where = f'{option}={dataset_kwargs["path"]}'
    if not needs_data(metrics, trained.label_dim, uniform_labels):
        raise UserError(f'{where}: --metrics={",".join(metrics)} compares with no real images; leave it out')
    if copies := next((name for name in metrics if find_metric(name)[0].seeks_copies), None):
        raise UserError(f'{where}: {copies} looks for copies of the training images; leave it out of --metrics, and '
                        f'measure it afterwards with calc_metrics.py --metrics={copies} --ref={trained.path}')
    metric_utils.check_reference(dataset_kwargs, where, trained.num_channels, trained.resolution,
                                 0 if uniform_labels else trained.label_dim, trained.class_names)


def calc_metric(metric: str, *args, **kwargs) -> dict:
    """The result of one metric; other arguments as of `calc_metrics`."""
    result, = calc_metrics([metric], *args, **kwargs)
    return result


def calc_metrics(metrics: list[str], G: torch.nn.Module, dataset_kwargs: dict, device,
                 detector: str | Detector | dict | None = None,
                 teacher_kwargs: dict | None = None, seed: int = 0, batch_size: int = 64, num_workers: int = 2,
                 progress: bool = True, truncation_psi: float = 1, batch_norm: str | None = None,
                 uniform_labels: bool = False, bootstrap: int = 0, picture_dir: str | None = None) -> list[dict]:
    """Values of metrics and the protocol they were measured by, the same on all processes; all of them must call it.

    Images are generated once for all metrics, and each detector sees them once.

    Args:
        metrics:   names such as 'fid5k_full'.
        G, dataset_kwargs, device, seed, batch_size, num_workers, progress, truncation_psi, batch_norm, uniform_labels:
        see `metric_utils.MetricOptions`.
        detector, teacher_kwargs: see `load_detector`; detector may be what `load_detectors` returned, too.
        bootstrap: resamples for the intervals; 0 = no intervals. See `estimate`.
        picture_dir: where metrics that have a picture (the nearest pairs of memorization) save it; None = nowhere.
    Returns: what JSON can hold: metric, value (NaN if the generator gives NaN), better, other figures, intervals,
             detector, reference, generated, and the circumstances. `seconds` is the time of all these metrics together.
    Raises:  UserError for an unknown metric, a detector that cannot be had, an image that cannot be read.
    """
    if G.training:
        raise ValueError('the generator is in training mode; call G.eval()')
    start = time.time()
    loaded = detector if isinstance(detector, dict) else load_detectors(metrics, device, detector, teacher_kwargs)
    sampling.check(metrics, batch_norm, f'--bn={batch_norm}')
    common = sampling.prepared(MetricOptions(G, dataset_kwargs, None, torch.device(device), seed, batch_size,
                                             num_workers, progress=progress, truncation_psi=truncation_psi,
                                             batch_norm=batch_norm, uniform_labels=uniform_labels))
    options = {name: dataclasses.replace(common, detector=loaded[name], subset=find_metric(name)[0].seeks_copies)
               for name in metrics}
    real, generated = real_statistics(options), generated_statistics(options, bootstrap)
    results = []
    for name, opts in options.items():
        figures = _figures(name, opts, real, generated, bootstrap)
        if picture_dir is not None and 'pairs' in figures:
            figures['picture'] = _save_pairs(name, opts, figures['pairs'], picture_dir)
        results.append(distributed.agree(lambda name=name, opts=opts, figures=figures: _record(name, opts, figures)))
    return [dict(result, seconds=round(time.time() - start, 1)) for result in results]


def _figures(name: str, opts: MetricOptions, real: dict, generated: dict, bootstrap: int) -> dict:
    """Value, other figures and intervals, the same on all processes."""
    metric, num_gen = find_metric(name)
    if metric.generated is None:
        figures = metric.compute(opts, num_gen)
        return figures if isinstance(figures, dict) else dict(value=figures)
    of_fakes = generated[opts.detector.identity, num_gen]
    return distributed.agree(lambda: estimate.evaluate(metric.compute, real.get(opts.statistics_key), of_fakes,
                                                       bootstrap, opts.seed))


def _save_pairs(name: str, opts: MetricOptions, pairs: list, folder: str) -> str:
    """Generates the fakes of the pairs again, and shows them above their training images -> name of the file."""
    fakes = [to_uint8(metric_utils.generate_batch(opts, range(i, i + 1))[0]) for i, _, _ in pairs]
    reals = [torch.from_numpy(opts.reference[item][0]) for _, item, _ in pairs]
    file_name = f'pairs-{name}.png'
    if distributed.get_rank() == 0:
        memorization.save_pairs(os.path.join(folder, file_name), torch.stack(fakes), torch.stack(reals))
    return file_name


def _record(name: str, opts: MetricOptions, figures: dict) -> dict:
    """The figures and everything that they depend on.

    Among the figures of a metric may be 'generated', which is added to how images were made, 'input', what its detector
    sees if not bytes, and 'formula', which variant of its formula it follows.
    """
    metric, num_gen = find_metric(name)
    detector, conditional = opts.detector, opts.G.c_dim > 0
    of_data = conditional and not opts.uniform_labels
    labels = 'drawn from the data set' if of_data else 'uniform over the classes' if conditional else 'none'
    generated = dict(images=num_gen, truncation_psi=opts.truncation_psi, noise_mode=NOISE_MODE, labels=labels,
                     seed=opts.seed, batch_size=opts.batch_size)
    if (mode := sampling.mode_of(opts)) is not None:
        generated['batch_norm'] = sampling.MODES[mode]
    return dict(
        metric=name, better=metric.better, **{key: value for key, value in figures.items()
                                              if key not in ('generated', 'input')},
        detector=dict(name=detector.name, identity=detector.identity, num_features=detector.num_features,
                      resize=detector.resize, input=figures.get('input', INPUT)),
        reference=_reference(opts) if metric.real is not None or of_data else None,
        generated={**generated, **figures.get('generated', {})},
        device=opts.device.type, torch=torch.__version__,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    )


def _reference(opts: MetricOptions) -> dict:
    held_out = getattr(opts.reference, 'num_held_out', 0)
    return dict(dataset=opts.reference.name, content_hash=opts.reference.content_hash(), images=len(opts.reference),
                mirrored=False, **(dict(held_out=held_out) if held_out else {}))


def report_metric(result: dict, run_dir: str | None = None, snapshot: str | None = None,
                  cur_nimg: int | None = None) -> None:
    """Prints a result with the best recorded value of its protocol, and appends it to `metric-<name>.jsonl` in
    `run_dir` (None = nowhere); on the first process.

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
    record = {**result, 'value': value, 'snapshot': snapshot, 'cur_nimg': cur_nimg}
    path = os.path.join(run_dir, f'metric-{result["metric"]}.jsonl')
    others = metric_records.read_metric(run_dir, result['metric'])
    _print_best(record, [other for other in others if other.get('snapshot') != snapshot])
    try:
        with open(path, 'a', encoding='utf-8') as f:
            f.write(json.dumps(record, allow_nan=False) + '\n')
    except OSError as err:
        raise files.write_error(path, err) from err


def _print_best(record: dict, others: list[dict]) -> None:
    """Prints the best value on record. Having been chosen by the measure itself, it is biased towards good values."""
    latest = {(other.get('snapshot'), metric_records.key(other)): other for other in others}
    others, warning = metric_records.comparable(record, list(latest.values()))
    if warning:
        print(warning, flush=True)
    best = metric_records.best([*others, record])
    if others and best is not None:
        which = 'this one' if best is record else f'{metric_records.number(best["value"])} of {best["snapshot"]}'
        print(f'    best of {len(others) + 1} snapshots by the same protocol: {which}; being chosen by this very '
              'measure, it flatters', flush=True)


def describe(result: dict) -> str:
    """A result in one line."""
    reference, generated = result['reference'], result['generated']
    figure = lambda name: f'{metric_records.number(result[name])}{metric_records.interval_of(result, name)}'
    further = [name for name in find_metric(result['metric'])[0].figures if name in result]     # none where it is NaN
    others = [f', {name.replace("_", " ")} {figure(name)}' for name in further]
    others += [f', truncation psi {generated["truncation_psi"]:g}'] if generated['truncation_psi'] != 1 else []
    against = f'{reference["images"]} real images of {reference["dataset"]}, ' if reference else ''
    norm = generated.get('batch_norm', sampling.MODES['running'])
    others += [f', batch norm: {norm}'] if norm != sampling.MODES['running'] else []
    return (f'{result["metric"]} {figure("value")}{"".join(others)}  ({generated["images"]} generated, {against}'
            f'{result["detector"]["name"]}, seed {generated["seed"]}, {dnnlib.util.format_time(result["seconds"])})')


def calc_and_report(run_dir: str | None = None, snapshot: str | None = None, cur_nimg: int | None = None,
                    metric: str | None = None, metrics: list[str] | None = None, **kwargs) -> list[dict]:
    """`calc_metrics`, of one or several, then `report_metric` of each; a training loop calls this by name. -> the
    results."""
    results = calc_metrics([metric] if metrics is None else metrics, picture_dir=run_dir, **kwargs)
    for result in results:
        report_metric(result, run_dir, snapshot, cur_nimg)
    return results
