"""One pass over the real images for each detector, and one over the generated images for all metrics that are asked
for."""

from . import estimate, metric_utils
from .feature_stats import FeatureStats
from .metric_utils import MetricOptions, Request
from .registry import FEATURES, find_metric


def generated_statistics(options: dict[str, MetricOptions], bootstrap: int) -> dict[tuple[str, int], FeatureStats]:
    """{(identity of the detector, number of images): statistics}.

    Args:
        options:   {metric: its options}, alike except for the detector.
        bootstrap: number of resamples: features are then kept if `estimate.fits`, even if the value needs only their
                   moments.
    """
    requests = {}
    for name, opts in options.items():
        metric, num_gen = find_metric(name)
        if metric.generated is None:
            continue
        key = opts.detector.identity, num_gen
        capture = {**(requests[key].capture if key in requests else {}), **metric.generated}
        if bootstrap and estimate.fits(num_gen, opts.detector.num_features):
            capture.update(FEATURES)
        requests[key] = Request(opts.detector, num_gen, capture)
    return metric_utils.collect_generated(next(iter(options.values())), requests) if requests else {}


def real_statistics(options: dict[str, MetricOptions]) -> dict[tuple, FeatureStats]:
    """{`statistics_key`: statistics}; complete on the first process only."""
    wanted = {}
    for name, opts in options.items():
        real = find_metric(name)[0].real
        if real is not None:
            capture = wanted[opts.statistics_key][1] if opts.statistics_key in wanted else {}
            wanted[opts.statistics_key] = opts, {**capture, **real}
    return {key: metric_utils.compute_feature_stats_for_dataset(opts, **capture)
            for key, (opts, capture) in wanted.items()}
