"""Trains a small teacher from scratch, for --kd-teacher=DIR: python -m kd_plugin.pretrain --data=photos.zip --out=DIR

With --data=demo it learns the procedural cartoon faces: that is how kd_plugin/demo_teacher.safetensors was made.
"""

import json
import os
import time

import click

from dnnlib import UserError, files
from dnnlib.published import without_folders
from dnnlib.util import format_time, user_errors

# The imports above come before torch: dnnlib sets how torch's threads wait.
# isort: split

import torch
import tqdm

from dnnlib.commands import SETTINGS, FiniteRange, device_option
from dnnlib.errors import refuse_idle
from torch_utils import checkpoint, cpu_threads
from torch_utils.devices import keep_freed_memory, torch_device
from torch_utils.stop_request import StopRequest

from .pretraining.data import CaptionedImages, DemoFaces
from .teachers.tiny_clip import TEACHER_FILE, TinyClip, as_teacher, save_tiny_clip

F = torch.nn.functional
STATE_FILE, RECORD_FILE = 'pretraining-state.safetensors', 'pretraining.json'
SAVE_SEC = 60               # between two states
WHERE = 'device', 'out'     # options that a continued training may change
LATER = dict(val_fraction=0.0)          # options that earlier records do not have: what they meant
# Options without effect on drawings: defaults
OF_IMAGES = dict(texts='classes', test_data=None, exclude_subset=0, val_fraction=0.0, mirror=True, shift=4)


def contrastive_loss(model, img, captions, bf16=False):
    """Symmetric cross-entropy over a batch (CLIP, Radford et al., ICML 2021, figure 3), equal captions sharing the
    target."""
    unique = sorted(set(captions))
    number = {caption: i for i, caption in enumerate(unique)}
    column = torch.tensor([number[c] for c in captions], device=img.device)
    with torch.autocast(img.device.type, torch.bfloat16, enabled=bf16):
        images, texts = model.image_features(img), model.text_features(unique)
    logits = model.log_scale.exp().clamp(max=100) * F.normalize(images.float(),
                                                                dim=1) @ F.normalize(texts.float(), dim=1).t()
    same = F.one_hot(column, len(unique)).float()
    return F.cross_entropy(logits, column) / 2 + F.cross_entropy(logits.t(), same.t() / same.sum(0)[:, None]) / 2


class Pretraining:
    """A model in training. The data of a step depend only on (seed, step), so a training that is stopped and continued
    stays the same.

    Args:
        data:  `CaptionedImages` or `DemoFaces`.
        steps: of the whole training, over which the learning rate rises (the first tenth) and falls.
        batch: images per step.
        lr:    peak learning rate.
        bf16:  compute features in bfloat16.
        sizes: keyword arguments of `TinyClip`.
    """

    def __init__(self, data, steps, batch, lr, seed, bf16=False, device='cpu', **sizes):
        self.data, self.steps, self.batch, self.seed = data, steps, batch, seed
        self.bf16, self.device = bf16, torch.device(device)
        torch.manual_seed(seed)
        self.model = TinyClip(data.vocabulary(), size=data.size, **sizes).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=lr, total_steps=steps,
                                                            pct_start=max(0.1, 2 / steps))
        self.step, self.elapsed_sec = 0, 0.0

    def advance(self):
        """One step. -> its loss."""
        start = time.time()
        img, captions = self.data.batch((self.seed, self.step), self.batch)
        loss = contrastive_loss(self.model, img.to(self.device), captions, self.bf16)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.elapsed_sec += time.time() - start
        return loss.detach()

    def teacher(self):
        """The model as it will be stored, in half precision, as a `Teacher`."""
        return as_teacher(self.model.half().float(), 'in training')

    def save(self, path, settings):
        """Writes everything that changes, and the settings of the training."""
        tensors, nests = {}, {}
        for name in ('model', 'optimizer', 'schedule'):
            part, nests[name] = checkpoint.flatten(name, getattr(self, name).state_dict())
            tensors.update(part)
        checkpoint.save(path, 'pretraining-state', tensors,
                        dict(settings=settings, step=self.step, elapsed_sec=self.elapsed_sec, state=nests,
                             threads=torch.get_num_threads()))

    def load(self, path, settings):
        """The inverse. -> threads that it was trained with. Raises UserError if it is the state of another training."""
        tensors, info = checkpoint.load(path, 'pretraining-state',
                                        remedy='delete it, and the same command starts afresh')
        _check_same(path, info['settings'], settings)
        for name, nest in info['state'].items():
            getattr(self, name).load_state_dict(checkpoint.unflatten(nest, tensors))
        self.step, self.elapsed_sec = info['step'], info['elapsed_sec']
        return info.get('threads')


def run(training, save, should_stop):
    """Does the remaining steps. Shows a bar, or without a terminal a line for every fiftieth; calls `save` now and
    then. -> whether all are done."""
    saved, total, first, start = time.time(), training.steps, training.step, time.time()
    with tqdm.tqdm(total=total, initial=first, unit='step', disable=None) as bar:
        while training.step < total and not should_stop():
            loss = training.advance()
            step, now = training.step, time.time()
            bar.update()
            if step % max(total // 50, 1) == 0:
                eta = format_time((now - start) / (step - first) * (total - step))
                if bar.disable:
                    print(f'step {step}/{total}  loss {loss.item():.4f}  {format_time(training.elapsed_sec)}  ETA '
                          f'{eta}', flush=True)
                bar.set_postfix(loss=f'{loss.item():.4f}', refresh=False)
            if now - saved > SAVE_SEC:
                save()
                saved = now
    save()
    return training.step >= total


def pretrain(**opts):
    """The work of the command; arguments are its options."""
    device = torch.device(torch_device(opts['device']))
    if opts['width'] % 8 or opts['text_width'] % 4:
        raise UserError(f'--width={opts["width"]} --text-width={opts["text_width"]}: must be multiples of 8 and of 4')
    data = open_data(opts)
    settings = {name: value for name, value in opts.items() if name not in WHERE}
    settings = without_folders(settings)                # they are shared with the teacher
    settings['content_hash'] = data.facts.get('content_hash')
    folder = opts['out']
    files.make_dir(folder)
    state_path, record_path = os.path.join(folder, STATE_FILE), os.path.join(folder, RECORD_FILE)
    if os.path.isfile(record_path):
        _check_same(record_path, _read_record(record_path)['settings'], settings)
        print(f'{folder} is complete. Use it as --kd-teacher={folder}')
        return
    training = Pretraining(data, opts['steps'], opts['batch'], opts['lr'], opts['seed'],
                           use_bf16(opts['precision'], device), device,
                           width=opts['width'], dim=opts['dim'], text_width=opts['text_width'])
    threads = None
    if os.path.isfile(state_path):
        threads = training.load(state_path, settings)
        print(f'Continuing after step {training.step} of {training.steps}.')
    cpu_threads.settle(device, threads)
    with StopRequest(tqdm.tqdm.write) as stop:
        done = run(training, lambda: training.save(state_path, settings), lambda: stop.requested)
    if not done:
        print(f'Stopped after step {training.step} of {training.steps}; the state is in {folder}. The same command '
              'continues.')
        raise KeyboardInterrupt
    finish(training, folder, settings)
    os.remove(state_path)


def open_data(opts):
    """--data and the options on it. Raises UserError for what does not go together."""
    if opts['data'] == 'demo':
        for name, default in OF_IMAGES.items():
            if opts[name] != default:
                refuse_idle('with --data=demo, whose drawings never end', **{name: opts[name]})
        return DemoFaces(opts['size'])
    return CaptionedImages(opts['data'], opts['size'], opts['texts'], opts['test_data'], opts['exclude_subset'],
                           opts['seed'], opts['mirror'], opts['shift'], opts['val_fraction'])


def use_bf16(precision, device):
    """auto = bfloat16 on a GPU that has it."""
    return precision == 'bf16' or (precision == 'auto' and device.type == 'cuda' and torch.cuda.is_bf16_supported())


def finish(training, folder, settings):
    """Tests the teacher, writes it with its record, and prints a line."""
    accuracy = training.data.accuracy(training.teacher())
    for name, value in accuracy.items():
        print(f'zero-shot accuracy on unseen images, {name}: {value:.3f}')
    record = dict(settings=settings, data=without_folders(training.data.facts), zero_shot_accuracy=accuracy,
                  elapsed_sec=round(training.elapsed_sec), device=str(training.device), bf16=training.bf16,
                  threads=torch.get_num_threads(), torch=torch.__version__)
    save_tiny_clip(training.model, os.path.join(folder, TEACHER_FILE), notes=record)
    files.write_text(os.path.join(folder, RECORD_FILE), json.dumps(record, indent=2))
    print(f'{training.steps} steps in {format_time(training.elapsed_sec)}. Use it as --kd-teacher={folder}')


def _check_same(path, before, now):
    before = without_folders(before)
    for name in now:
        if (earlier := before.get(name, LATER.get(name))) != now[name]:
            raise UserError(f'{path}: is of a training with {name} = {earlier}, now it is {now[name]}; choose '
                            'another --out, or remove the file')


def _read_record(path):
    try:
        with open(path, encoding='utf-8') as f:
            record = json.load(f)
        dict(record['settings'])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f'{path}: cannot be read ({err}); choose another --out, or remove the file') from err
    return record


@click.command(context_settings=SETTINGS)
@click.option('--data', help='Images with class names or captions: folder or zip from dataset_tool.py, or demo',
              required=True, metavar='PATH|demo')
@click.option('--texts', help='classes = the class names in common templates, FILE.txt = in templates of your own, one '
                              'per line with a {}, or FILE.json = captions, {"image name": "caption" or [captions]}',
              default='classes', show_default=True, metavar='classes|FILE')
@click.option('--out', help='Where to write the teacher', required=True, metavar='DIR')
@click.option('--test-data', help='Data set with the same classes to test on  [default: a tenth of the images, kept '
                                  'out]', metavar='PATH')
@click.option('--exclude-subset', help='Leave out the images that train.py --subset=N with the same --seed trains on',
              type=click.IntRange(min=0), default=0, show_default=True, metavar='N')
@click.option('--val-fraction', help='Leave out the images that train.py --val-fraction=F with the same --seed '
                                     'holds out', type=FiniteRange(0, 1, max_open=True), default=0.0,
              show_default=True, metavar='F')
@click.option('--size', help='Size of the images that the teacher sees', type=click.IntRange(min=16), default=32,
              show_default=True)
@click.option('--width', help='Channels of the first stage, a multiple of 8', type=click.IntRange(min=8), default=32,
              show_default=True)
@click.option('--dim', help='Width of the features', type=click.IntRange(min=8), default=128, show_default=True)
@click.option('--text-width', help='Width of the text encoder, a multiple of 4', type=click.IntRange(min=4),
              default=128, show_default=True)
@click.option('--steps', help='Training steps', type=click.IntRange(min=10), default=2000, show_default=True)
@click.option('--batch', help='Images per step', type=click.IntRange(min=2), default=128, show_default=True)
@click.option('--lr', help='Peak learning rate', type=FiniteRange(min=0, min_open=True), default=1e-3,
              show_default=True)
@click.option('--mirror', help='Learn from mirrored images too', type=bool, default=True, show_default=True)
@click.option('--shift', help='Move images by up to this many pixels', type=click.IntRange(0, 15), default=4,
              show_default=True)
@click.option('--precision', help='auto = bf16 on a GPU that has it', type=click.Choice(['auto', 'fp32', 'bf16']),
              default='auto', show_default=True)
@click.option('--seed', help='Random seed', type=click.IntRange(min=0), default=0, show_default=True)
@device_option()
def main(**opts):
    """Train a small CLIP from scratch and report its zero-shot accuracy.

    The result is a folder for --kd-teacher. Ctrl-C saves the state and stops; the same command continues; on a CPU, the
    result is that of an uninterrupted training.
    """
    with user_errors():
        if torch_device(opts['device']) == 'cpu':
            keep_freed_memory()
        pretrain(**opts)


if __name__ == '__main__':
    main()
