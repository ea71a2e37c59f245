"""Images per second of a metric, end to end, beside its detector's own rate in the same run: python
benchmarks/metrics.py [--help]"""

import argparse
import os
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from metrics import metric_main, metric_utils  # noqa: E402
from metrics.metric_utils import MetricOptions  # noqa: E402
from metrics.registry import FEATURES, MOMENTS, find_metric  # noqa: E402
from torch_utils.devices import keep_freed_memory  # noqa: E402
from training import networks  # noqa: E402
from training.dataset import demo as demo_data


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--metric', default='featfid2k_full', help='which detector, how many images, moments or '
                                                                   'all features')
    parser.add_argument('--detector', help='file with the Inception network')
    parser.add_argument('--teacher', default='demo')
    parser.add_argument('--data', default='demo', help='real images; the generator has their size')
    parser.add_argument('--channel-base', type=int, default=16384,
                        help='width of the generator, which has random weights')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3, help='the best of so many counts')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def seconds(run, device):
    """Of `run()`, until the device is done."""
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def best_rates(parts, device, rounds):
    """{name: images per second, the best of several rounds}; the parts take turns, so that other load on the machine
    affects all alike.

    parts: {name: (function, images that it handles)}.
    """
    for run, _ in parts.values():
        run()
    rates = {name: [] for name in parts}
    for _ in range(rounds):
        for name, (run, count) in parts.items():
            rates[name].append(count / seconds(run, device))
    return {name: max(found) for name, found in rates.items()}


def main():
    args = parse()
    device = torch.device(args.device)
    if device.type == 'cpu':
        keep_freed_memory()
    metric, num_gen = find_metric(args.metric)
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=demo_data.demo_set(64) if args.data == 'demo'
                  else args.data)
    detector = metric_main.load_detector(args.metric, device, args.detector,
                                         dict(func_name='kd_plugin.teacher.load_teacher', name=args.teacher))
    size = metric_utils.open_reference(kwargs).resolution
    G = networks.Generator(z_dim=512, c_dim=0, w_dim=512, img_resolution=size, img_channels=3,
                           synthesis_kwargs=dict(channel_base=args.channel_base))
    G = G.eval().requires_grad_(False).to(device)
    opts = MetricOptions(G, kwargs, detector, device, batch_size=args.batch, num_workers=args.workers, cache=False,
                         progress=False)
    capture = FEATURES if metric.generated == FEATURES else MOMENTS
    img = torch.randint(0, 256, [args.batch, 3, size, size], dtype=torch.uint8, device=device)

    batches = max(num_gen // args.batch, 1)
    repeat = lambda step: (lambda: [step() for _ in range(batches)], batches * args.batch)
    rates = best_rates({
        'detector': repeat(lambda: detector(img)),
        'generator': repeat(lambda: metric_utils.generate_batch(opts, range(args.batch))),
        'generated': (lambda: metric_utils.compute_feature_stats_for_generator(opts, num_gen, **capture), num_gen),
        'real': (lambda: metric_utils.compute_feature_stats_for_dataset(opts, **capture), len(opts.reference)),
    }, device, args.rounds)
    both = 1 / (1 / rates['detector'] + 1 / rates['generator'])

    print(f'{args.metric}, {size}x{size}, batch {args.batch}, {detector.name} on {device}, torch {torch.__version__}')
    for what, name, of, limit in [('detector alone', 'detector', '', None), ('generator alone', 'generator', '', None),
                                  (f'{num_gen} generated images, end to end', 'generated',
                                   'of detector and generator in turn', both),
                                  (f'{len(opts.reference)} real images, end to end', 'real', 'of the detector',
                                   rates['detector'])]:
        print(f'{what:42s}{rates[name]:9.1f} img/s' + (f'   {100 * rates[name] / limit:5.1f} % {of}' if limit else ''))


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault('KDGAN_CACHE_DIR', folder)
        main()
