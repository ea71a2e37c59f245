"""Folders of runs as train.py leaves them, made up: every value is known to the test that asks for one."""

import json

import PIL.Image
from running import running

from reporting import serve

SIDE, COLUMNS, ROWS = 16, 4, 3
COLOURS = ['black', 'red', 'lime', 'blue', 'yellow', 'magenta', 'cyan', 'white']


def config(**changes):
    data = dict(path='/home/anna/photos.zip', xflip=False, use_labels=False, resolution=SIDE)
    return dict(dict(total_kimg=10, batch_size=8, D_reg_interval=16, G_reg_interval=4, num_gpus=1, device='cpu',
                     random_seed=0, kimg_per_tick=1, training_set_kwargs=data, G_opt_kwargs=dict(lr=0.002),
                     loss_kwargs=dict(r1_gamma=0.5), augment_kwargs=None, terms={}, metrics=['fid5k_full'],
                     options_given=dict(cfg='demo', gamma=0.5)), **changes)


def tick(number, **changes):
    """Statistics of the tick that ends with 1000 * (number + 1) images."""
    means = {'Progress/tick': number, 'Progress/kimg': number + 1, 'Loss/signs/real': 0.5,
             'Loss/G/loss': 1 + number / 10, 'Loss/D/loss': 2.0, 'Timing/sec_per_kimg': 3.0,
             'Timing/total_sec': 3.0 * (number + 1), 'Timing/Gmain': 0.01, 'Timing/Dreg': 0.02,
             'Health/copies': 0.05, 'Health/repeats': 0.1, 'Resources/cpu_mem_gb': 1.5, **changes}
    return dict({name: dict(num=4, mean=mean, std=0) for name, mean in means.items()}, timestamp=1_700_000_000 + number)


def measurement(nimg, value, **changes):
    return dict(dict(metric='fid5k_full', better='lower', value=value, intervals=dict(value=[value - 1, value + 1]),
                     snapshot=f'network-snapshot-{nimg // 1000:06d}.safetensors', cur_nimg=nimg,
                     detector=dict(identity='inception:1'), reference=dict(dataset='photos', images=100),
                     generated=dict(images=5000, seed=0, truncation_psi=1)), **changes)


def write_lines(path, records):
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def picture(path, colour, size=None):
    PIL.Image.new('RGB', size or (COLUMNS * SIDE, ROWS * SIDE), colour).save(path)


def make_run(folder, ticks=10, frames=5, values=(30.0, 20.0, 25.0), **changes):
    """A run of `ticks` ticks, with `frames` grids of one colour each, and an FID for each of its first thousands.

    Args:
        changes: of the configuration.
    """
    folder.mkdir(parents=True)
    (folder / 'training_options.json').write_text(json.dumps(config(**changes)))
    write_lines(folder / 'stats.jsonl', [tick(number) for number in range(ticks)])
    picture(folder / 'reals.png', 'grey')
    for number in range(frames):
        name = f'fakes{number:06d}.png' if number else 'fakes_init.png'
        picture(folder / name, COLOURS[number % len(COLOURS)])
    records = [measurement(1000 * number, value) for number, value in enumerate(values, start=1)]
    write_lines(folder / 'metric-fid5k_full.jsonl', records)
    write_lines(folder / 'machine.jsonl', [dict(cur_nimg=0, torch='2.13', cuda=None, device='cpu'),
                                           dict(cur_nimg=4000, torch='2.13', cuda=None, device='A GPU')])
    (folder / 'log.txt').write_text('tick 0     kimg 1.0      time 3s\nWarning: something is odd.\n'
                                    'tick 1     kimg 2.0      time 6s\nWarning: /home/anna/x is odd.\n')
    return folder


def serving(folder):
    return running(serve.Server(str(folder), 0))
