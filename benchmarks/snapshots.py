"""Loading and writing a snapshot: time, peak memory, and how long training waits: python benchmarks/snapshots.py"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from torch_utils import checkpoint  # noqa: E402
from torch_utils.background_writer import BackgroundWriter  # noqa: E402
from training import networks
from training.snapshots import files as snapshots  # noqa: E402

KWARGS = dict(z_dim=512, c_dim=0, w_dim=512, img_resolution=256, img_channels=3,
              synthesis_kwargs=dict(channel_base=16384))


def memory_mb(entry):
    """'VmHWM' is the peak of this program; getrusage would count what the program was started from, too. Linux only."""
    with open('/proc/self/status', encoding='utf-8') as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith(entry + ':'))


def measure_load(path):
    """In a process of its own: seconds and peak beyond what the imports took."""
    before = memory_mb('VmRSS')
    start = time.perf_counter()
    G = snapshots.load_networks(path).G_ema
    loaded = time.perf_counter()
    checksum = sum(p.sum() for p in G.parameters())                     # touches every page
    print(f'load {loaded - start:.2f} s, first use of every weight {time.perf_counter() - loaded:.2f} s, '
          f'peak {memory_mb("VmHWM") - before:.0f} MB (sum of the weights {checksum:.1f})')


def measure_write(path, G):
    tensors, info = snapshots.pack(dict(G_ema=G), dict(G_ema=dict(KWARGS, class_name='training.networks.Generator')),
                                   {})
    writer = BackgroundWriter()
    for label in ('first', 'second'):
        start = time.perf_counter()
        copies = checkpoint.copies(tensors)
        copied = time.perf_counter()
        writer.submit(checkpoint.save, path, 'network', copies, info)
        submitted = time.perf_counter()
        writer.wait()
        print(f'write, {label} time: copy {copied - start:.3f} s, handing over {submitted - copied:.4f} s, in the '
              f'background {time.perf_counter() - submitted:.2f} s')
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('snapshot', nargs='?', help='only load this one; without it, a snapshot is written and '
                                                    'loaded twice')
    args = parser.parse_args()
    if args.snapshot is not None:
        measure_load(args.snapshot)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'a.safetensors')
        G = networks.Generator(**KWARGS)
        measure_write(path, G)
        print(f'file {os.path.getsize(path) / 2**20:.0f} MB; torch {torch.__version__}', flush=True)
        for _ in range(2):
            subprocess.run([sys.executable, __file__, path], check=True)


if __name__ == '__main__':
    main()
