"""Many processes, many images: what is measured here, and a model of what is not. docs/scaling.md has the results.

    python benchmarks/scaling.py volumes      bytes that a step reduces, bytes of snapshots: counted
    python benchmarks/scaling.py measure      all-reduce and step at 1, 2, 4 processes on this CPU (gloo), and modelled
    python benchmarks/scaling.py model        weak scaling to 64 GPUs: modelled
    python benchmarks/scaling.py data         a set of a million images: formulas, with the speed of reading a small one
"""

import os
import sys
import tempfile
import time
import zipfile

import click
import numpy as np
import psutil
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dnnlib.util import format_bytes, format_time  # noqa: E402
from kd_plugin.feature_cache import MAX_IMAGES  # noqa: E402
from torch_utils import distributed  # noqa: E402
from training.config import presets  # noqa: E402
from training.dataset import ImageFolderDataset  # noqa: E402
from training.dataset import demo as demo_data
from training.dataset.real_images import ImageOrder  # noqa: E402
from training.loss import StyleGAN2Loss  # noqa: E402
from training.networks import Discriminator, Generator  # noqa: E402
from training.phases import make_phases  # noqa: E402

ADAM = dict(class_name='torch.optim.Adam', lr=0.0025, betas=[0, 0.99], eps=1e-8)
INTERVALS = dict(Gmain=1, Greg=4, Dmain=1, Dreg=16)


def networks(resolution, channel_base, num_ws_layers=2, device='cpu'):
    with torch.device(device):
        G = Generator(512, 0, 512, resolution, 3, mapping_kwargs=dict(num_layers=num_ws_layers),
                      synthesis_kwargs=dict(channel_base=channel_base))
        D = Discriminator(0, resolution, 3, channel_base=channel_base)
    return G.requires_grad_(False), D.requires_grad_(False)


def sizes(resolution):
    """{name: bytes} of what --cfg=auto trains, float32."""
    values = presets.auto_values(resolution, 1)
    nbytes = lambda tensors: sum(t.numel() * 4 for t in tensors)
    G, D = networks(resolution, values['channel_base'], device='meta')
    g, d = nbytes(G.parameters()), nbytes(D.parameters())
    state = nbytes([*G.parameters(), *G.buffers()]) * 2 + nbytes([*D.parameters(), *D.buffers()]) + 2 * (g + d)
    return dict(G=g, D=d, iteration=g * (1 + 1 / 4) + d * (1 + 1 / 16),
                snapshot=nbytes([*G.parameters(), *G.buffers()]), state=state)


def ring_sec(nbytes, n, bandwidth, latency):
    """A ring all-reduce: 2 (n - 1) steps, each of which moves a part of 1 / n of the bytes."""
    return 2 * (n - 1) / n * nbytes / bandwidth + 2 * (n - 1) * latency


def exchange_sec(nbytes, n, bandwidth, latency, bucket_bytes=distributed.BUCKET_BYTES['cuda']):
    return ring_sec(nbytes, n, bandwidth, latency) + (np.ceil(nbytes / bucket_bytes) - 1) * 2 * (n - 1) * latency


# -- measured

def least_sec(fns, repeats):
    """{name: least seconds} of functions that all processes call at once, in turn, so that a busy moment of the machine
    meets them all."""
    seconds = {name: [] for name in fns}
    for _ in range(repeats + 1):
        for name, fn in fns.items():
            distributed.barrier()
            start = time.perf_counter()
            fn()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values[1:]) for name, values in seconds.items()}


def average_in_turn(tensors, bucket_bytes):
    """`distributed.average` without the overlap, to compare with."""
    for bucket in distributed._buckets(tensors, bucket_bytes):
        flat = torch.cat([t.flatten() for t in bucket])
        distributed.all_reduce_sum(flat)
        flat /= distributed.get_world_size()
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def make_step(batch):
    """-> function that runs an iteration of a small network with Greg, and a list of [seconds in `distributed.average`,
    processor time] of each."""
    torch.manual_seed(0)
    G, D = networks(32, 1024)
    loss = StyleGAN2Loss(torch.device('cpu'), G.train().mapping, G.synthesis, D.train(), r1_gamma=1)
    phases = make_phases(G, D, {}, ADAM, ADAM, 4, 16, torch.device('cpu'))
    img, z, c = torch.randn(batch, 3, 32, 32), torch.randn(batch, 512), torch.zeros(batch, 0)
    average, spent = distributed.average, []

    def timed(*args):
        start = time.perf_counter()
        average(*args)
        spent[-1][0] += time.perf_counter() - start
    distributed.average = timed

    def step():
        begin = time.process_time()
        spent.append([0.0, 0.0])
        for phase in phases:
            if INTERVALS[phase.name] < 16:
                phase.begin()
                loss.accumulate_gradients(phase.name, img, c, z, c, gain=phase.gain)
                phase.end()
        spent[-1][1] = time.process_time() - begin
    return step, spent


def measure_process(rank, world_size, port, path, batch, repeats):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR='localhost',
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE='True')
    distributed.init('cpu')
    result = least_sec(dict(latency=distributed.barrier), 50 * repeats)
    tensors = [torch.ones_like(p, device='cpu') for p in networks(256, 16384, device='meta')[0].parameters()]
    flat = torch.cat([t.flatten() for t in tensors])
    fns = dict(flat=lambda: distributed.all_reduce_sum(flat))
    for name, fn in [('in turn', average_in_turn), ('overlapped', distributed.average)]:
        for bucket in (4, 32, 1000):
            fns[f'{name}, buckets of {bucket} MiB'] = lambda fn=fn, bucket=bucket: fn(tensors, bucket * 2 ** 20)
    result.update(least_sec(fns, repeats))
    step, spent = make_step(batch)
    result.update(least_sec(dict(step=step), repeats))
    exchange, cpu = zip(*spent, strict=True)
    result.update(exchange=min(exchange), bytes=flat.nbytes)
    result['processor time of a step'] = min(cpu)
    if rank == 0:
        torch.save(result, path)
    distributed.barrier()
    distributed.leave()


def measure_all(batch, repeats):
    """{number of processes: {what: seconds}}."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in (1, 2, 4):
            store = torch.distributed.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
            torch.multiprocessing.spawn(measure_process, args=(n, store.port, f'{folder}/{n}.pt', batch,
                                                               repeats), nprocs=n)
            results[n] = torch.load(f'{folder}/{n}.pt')
    return results


# -- commands

@click.group()
def main():
    """Communication, steps and data of large runs."""


@main.command()
def volumes():
    """Count what --cfg=auto exchanges and saves (mapping of 2 layers, one label-free network of each kind)."""
    print('resolution  G          D          reduced per iteration  snapshot (G_ema)  training state')
    for resolution in (32, 64, 128, 256, 512, 1024):
        s = {name: format_bytes(round(size)) for name, size in sizes(resolution).items()}
        print(f'{resolution:<10}  {s["G"]:<9}  {s["D"]:<9}  {s["iteration"]:<21}  {s["snapshot"]:<16}  {s["state"]}')


@main.command()
@click.option('--batch', help='Images per process', type=click.IntRange(min=1), default=4, show_default=True)
@click.option('--repeats', type=click.IntRange(min=1), default=10, show_default=True)
def measure(batch, repeats):
    """Time all-reduce and step at 1, 2 and 4 processes of one thread each, and compare with the model."""
    results, cores = measure_all(batch, repeats), os.cpu_count()
    print(f'torch {torch.__version__}, gloo, {cores} cores; least of {repeats}, milliseconds; gradients of the G of '
          f'auto at 256: {format_bytes(results[1]["bytes"])}')
    for name in results[1]:
        if name != 'bytes':
            print(f'  {name:<32}' + ''.join(f'{n} process{"es" if n > 1 else ""}: {r[name] * 1000:<10.2f}'
                                            for n, r in results.items()))
    two, four, one = results[2], results[4], results[1]
    latency = two['latency'] / 2
    bandwidth = two['bytes'] / two['flat']              # of 2 (n - 1) / n = 1 times the bytes
    share = max(4 / cores, 1)                           # four processes share the cores, that is the speed of each
    print(f'Fitted to two processes: {bandwidth / 1e9:.2f} GB/s, {latency * 1e6:.0f} us per step of the ring.')
    predicted = ring_sec(four['bytes'], 4, bandwidth / share, latency * share)
    print(f'Model of four: all-reduce {predicted * 1000:.1f} ms (measured {four["flat"] * 1000:.1f}), '
          f'step {((one["step"] - one["exchange"]) * share + four["exchange"]) * 1000:.1f} ms (measured '
          f'{four["step"] * 1000:.1f})')
    print(f'Model of two: step {(one["step"] - one["exchange"] + two["exchange"]) * 1000:.1f} ms (measured '
          f'{two["step"] * 1000:.1f})')


@main.command()
@click.option('--resolution', type=int, default=256, show_default=True)
@click.option('--batch', help='Images per GPU and step', type=int, default=16, show_default=True)
@click.option('--sec-per-kimg', help='Of one GPU; the default is the aim for one H200 at 256', type=float, default=6.0,
              show_default=True)
@click.option('--gpus-per-node', type=int, default=8, show_default=True)
@click.option('--node-gb-per-sec', help='Within a machine, each way (assumed: NVLink 4 at 80 % of 450)', type=float,
              default=360, show_default=True)
@click.option('--net-gb-per-sec', help='Between machines, each way (assumed: one 200 Gbit/s card at 80 %)', type=float,
              default=20, show_default=True)
@click.option('--latency-us', help='Per step of a ring (assumed)', type=float, default=10, show_default=True)
def model(resolution, batch, sec_per_kimg, gpus_per_node, node_gb_per_sec, net_gb_per_sec, latency_us):
    """Predict weak scaling: every GPU keeps its batch; nothing of an exchange is hidden behind computation."""
    size, step = sizes(resolution), sec_per_kimg * batch / 1000
    print(f'MODEL, not measured: {resolution} pixels, {batch} images per GPU, step {step * 1000:.0f} ms on one GPU')
    for n in (1, 2, 4, 8, 16, 32, 64):
        bandwidth = (node_gb_per_sec if n <= gpus_per_node else net_gb_per_sec) * 1e9
        exchange = sum(exchange_sec(size[name[0]], n, bandwidth, latency_us * 1e-6) / every
                       for name, every in INTERVALS.items())
        # ADA, path length there and back
        exchange += 3 * exchange_sec(4, n, bandwidth, latency_us * 1e-6) / 4
        print(f'{n:>3} GPUs  exchange {exchange * 1000:6.2f} ms  step {(step + exchange) * 1000:6.1f} ms  '
              f'efficiency {step / (step + exchange):6.1%}  {n * batch / (step + exchange):8.0f} images/s')


@main.command()
@click.option('--images', type=int, default=1_000_000, show_default=True)
@click.option('--resolution', type=int, default=256, show_default=True)
@click.option('--file-kb', help='Of an image as PNG (assumed)', type=float, default=100, show_default=True)
@click.option('--images-per-sec', help='That one GPU trains on; the default is 6 s/kimg', type=float, default=167,
              show_default=True)
@click.option('--gpus', type=int, default=64, show_default=True)
@click.option('--sample', help='Images of the set that is made to measure opening and reading', type=int,
              default=20_000, show_default=True)
def data(images, resolution, file_kb, images_per_sec, gpus, sample):
    """What a large set takes: memory and disk by the formulas of the code, reading from a small set measured here."""
    raw = images * 3 * resolution ** 2
    print(f'By formula, {images} images of {resolution} pixels:')
    print(f'  decoded {format_bytes(raw)}; kept on the device only below a quarter of its free memory '
          '(training/dataset/real_images.py)')
    print(f'  files {format_bytes(round(images * file_kb * 1000))}; {gpus} GPUs read '
          f'{format_bytes(round(gpus * images_per_sec * file_kb * 1000))}/s, {gpus * images_per_sec:.0f} images/s, a '
          f'pass takes {format_time(images / gpus / images_per_sec)}')
    print(f'  order of a pass {format_bytes(images * 8)} per process (twice that with --mirror), labels '
          f'{format_bytes(images * 8)} per process with --cond=1')
    above = f'not cached, the limit is {MAX_IMAGES} images; the teacher sees the reals of every step'
    print(f'  teacher features (512 wide) {format_bytes(images * 512 * 4)}: '
          f'{"cached" if images <= MAX_IMAGES else above}')
    size = sizes(resolution)
    print(f'  a snapshot {format_bytes(size["snapshot"])}, the state {format_bytes(size["state"])}, whatever the '
          'number of images and GPUs')
    print('Measured here, one core:')
    start = time.perf_counter()
    ImageOrder(images).permutation(0)
    print(f'  order of a pass {time.perf_counter() - start:.2f} s')
    _measure_reading(images, sample)


def _measure_reading(images, sample):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'set.zip')
        with zipfile.ZipFile(demo_data.demo_set(32)) as source, zipfile.ZipFile(path, 'w',
                                                                                zipfile.ZIP_STORED) as target:
            png = source.read(next(name for name in source.namelist() if name.endswith('.png')))
            for i in range(sample):
                target.writestr(f'{i // 1000:05d}/img{i:08d}.png', png)
        memory = psutil.Process().memory_info().rss
        start = time.perf_counter()
        dataset = ImageFolderDataset(path=path)
        opened = time.perf_counter() - start
        memory = psutil.Process().memory_info().rss - memory
        start = time.perf_counter()
        for i in range(0, sample, max(sample // 500, 1)):
            dataset[i]
        read = (time.perf_counter() - start) / len(range(0, sample, max(sample // 500, 1)))
        dataset.close()
    print(f'  opening a zip of {sample} images {opened:.2f} s, {memory / 1e6:.0f} MB; {images / sample:.0f} times as '
          f'many, extrapolated: {opened * images / sample:.0f} s and {memory * images / sample / 1e9:.2f} GB per '
          'process')
    print(f'  reading one of 32 pixels {read * 1000:.2f} ms')


if __name__ == '__main__':
    main()
