"""Time of the augmentation pipeline: milliseconds per call, and how many times a copy of the images that is.

    python benchmarks/augment.py [--device=cuda] [--batch=16] [--p=0.5] [--seconds=1]

Times are the best of several calls, on images of 32, 64 and 256 pixels; the margin of a batch is random, so each call
is seeded alike.
"""

import argparse
import os
import sys
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from training.augment import AugmentPipe, augpipe_specs  # noqa: E402


def best_ms(run, seconds, device):
    """Milliseconds of the fastest of the calls that `seconds` have room for, at least five."""
    times = []
    while len(times) < 5 or sum(times) < seconds:
        torch.manual_seed(0)
        if device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def measure(size, preset, args):
    """(copy, forward, forward and backward) in milliseconds."""
    images = torch.randn([args.batch, 3, size, size], device=args.device)
    dy = torch.randn_like(images)
    pipe = AugmentPipe(**augpipe_specs[preset]).to(args.device)
    pipe.p.fill_(args.p)

    def forward():
        with torch.no_grad():
            pipe(images)

    def forward_backward():
        torch.autograd.grad(pipe(images.requires_grad_()), images, dy)

    return [best_ms(run, args.seconds, args.device) for run in (images.clone, forward, forward_backward)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--p', type=float, default=0.5)
    parser.add_argument('--seconds', type=float, default=1)
    args = parser.parse_args()

    name = torch.cuda.get_device_name() if args.device == 'cuda' else f'{torch.get_num_threads()} CPU threads'
    print(f'{name}, torch {torch.__version__}, batch {args.batch}, p = {args.p}')
    print('size  preset   copy ms   forward ms (copies)   forward + backward ms (copies)')
    for size in (32, 64, 256):
        for preset in ('bgc', 'bgcfnc'):
            copy, forward, both = measure(size, preset, args)
            print(f'{size:4}  {preset:7} {copy:8.3f} {forward:12.2f} {forward / copy:8.0f} {both:22.2f} '
                  f'{both / copy:8.0f}', flush=True)


if __name__ == '__main__':
    main()
