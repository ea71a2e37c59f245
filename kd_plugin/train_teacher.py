"""Trains a small CLIP from scratch on captioned images: python -m kd_plugin.train_teacher --dest=FILE.safetensors

With --data=demo it learns the procedural cartoon faces: that is how kd_plugin/demo_teacher.safetensors was made. With a folder
or zip whose images have class names (see dataset_tool.py) the captions are made from the names.
"""

import math
import time

import click
import numpy as np
import torch

from dnnlib.util import UserError, user_errors
from training import demo_data
from training.dataset import ImageFolderDataset

from .prompts import CLASS_TEMPLATES
from .tiny_clip import TinyClip, save_tiny_clip, words

F = torch.nn.functional
EVAL_STREAM, TRAIN_STREAM = 1, 2        # seeds of the two are never equal: what is evaluated was not seen


class DemoFaces:
    """Endless procedural faces with captions, and a test of each attribute."""
    notes = 'procedural cartoon faces (training/demo_data.py)'

    def __init__(self, size):
        self.size = size

    def vocabulary(self):
        rng = np.random.default_rng(0)
        return sorted({word for _ in range(2000) for word in words(demo_data.caption(demo_data.random_attributes(rng)))})

    def batch(self, seed, count):
        """-> img [count, 3, size, size] in [-1, 1], captions. seed: tuple of int."""
        rng = np.random.default_rng([TRAIN_STREAM, *seed])
        attributes = [demo_data.random_attributes(rng) for _ in range(count)]
        return self._draw(attributes, rng), [demo_data.caption(a, rng) for a in attributes]

    def _draw(self, attributes, rng):
        img = np.stack([demo_data.draw(a, rng, self.size) for a in attributes])
        return torch.from_numpy(img).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def accuracy(self, model, count=1000):
        """{attribute: zero-shot accuracy} on unseen images: which caption fits best if only this attribute is exchanged?"""
        rng = np.random.default_rng([EVAL_STREAM, 0])
        attributes = [demo_data.random_attributes(rng) for _ in range(count)]
        images = F.normalize(model.image_features(self._draw(attributes, rng)), dim=1)
        result = {}
        for name, values in demo_data.ATTRIBUTES.items():
            texts = [demo_data.caption({**a, name: value}) for a in attributes for value in values]
            feats = F.normalize(model.text_features(texts), dim=1).reshape(count, len(values), -1)
            choice = (feats @ images[:, :, None]).squeeze(2).argmax(1)
            result[name] = float(np.mean([values[i] == a[name] for i, a in zip(choice.tolist(), attributes, strict=True)]))
        return result


class NamedClasses:
    """A data set with class names; captions are templates around the names. A tenth of the images is kept for the test."""

    def __init__(self, path, size):
        self.dataset = ImageFolderDataset(path, use_labels=True)
        self.names = self.dataset.class_names
        if self.names is None:
            raise UserError(f'--data={path}: the images have no class names; rebuild it with dataset_tool.py from folders named by class')
        if self.dataset.num_channels != 3:
            raise UserError(f'--data={path}: the images have {self.dataset.num_channels} channels, 3 are needed')
        self.size = size
        self.order = np.random.default_rng(0).permutation(len(self.dataset))
        self.num_test = len(self.order) // 10
        self.notes = f'{self.dataset.name}, {len(self.order) - self.num_test} images, {len(self.names)} classes'

    def vocabulary(self):
        return sorted({word for name in self.names for template in CLASS_TEMPLATES for word in words(template.format(name))})

    def _images(self, indices):
        img = torch.from_numpy(np.stack([self.dataset[i][0] for i in indices])).float() / 127.5 - 1
        return img if img.shape[2] == self.size else F.interpolate(img, size=[self.size] * 2, mode='bicubic', antialias=True).clamp(-1, 1)

    def _class(self, i):
        return int(self.dataset.get_label(i).argmax())

    def batch(self, seed, count):
        rng = np.random.default_rng([TRAIN_STREAM, *seed])
        indices = rng.choice(self.order[self.num_test:], size=count, replace=count > len(self.order) - self.num_test)
        img = self._images(indices)
        img = torch.where(torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None], img.flip(3), img)
        img = F.pad(img, [4] * 4, mode='reflect')
        top, left = rng.integers(0, 9, size=2)
        img = img[:, :, top:top + self.size, left:left + self.size]
        return img, [CLASS_TEMPLATES[rng.integers(len(CLASS_TEMPLATES))].format(self.names[self._class(i)]) for i in indices]

    @torch.no_grad()
    def accuracy(self, model, count=5000):
        """{'class': zero-shot accuracy} on images that were kept out of the training."""
        indices = self.order[:min(self.num_test, count)]
        feats = torch.cat([model.image_features(self._images(part)) for part in np.array_split(indices, math.ceil(len(indices) / 250))])
        texts = model.text_features([CLASS_TEMPLATES[0].format(name) for name in self.names])
        choice = (F.normalize(feats, dim=1) @ F.normalize(texts, dim=1).t()).argmax(1)
        return {'class': float(np.mean([self._class(i) == c for i, c in zip(indices, choice.tolist(), strict=True)]))}


def contrastive_loss(model, img, captions):
    """Symmetric cross-entropy over a batch (CLIP, Radford et al., ICML 2021, figure 3), equal captions sharing the target."""
    unique = sorted(set(captions))
    column = torch.tensor([unique.index(c) for c in captions])
    images = F.normalize(model.image_features(img), dim=1)
    texts = F.normalize(model.text_features(unique), dim=1)
    logits = model.log_scale.exp().clamp(max=100) * images @ texts.t()
    same = (column[:, None] == torch.arange(len(unique))).float()
    return F.cross_entropy(logits, column) / 2 + F.cross_entropy(logits.t(), same.t() / same.sum(0)[:, None]) / 2


def train(data, steps, batch, lr, seed, width, dim):
    """-> the trained model; prints the loss now and then."""
    torch.manual_seed(seed)
    model = TinyClip(data.vocabulary(), size=data.size, width=width, dim=dim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.1)
    start = time.time()
    for step in range(steps):
        img, captions = data.batch((seed, step), batch)
        loss = contrastive_loss(model, img, captions)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f'step {step + 1}/{steps}  loss {loss.item():.4f}  {time.time() - start:.0f}s', flush=True)
    return model.eval()


@click.command()
@click.option('--dest', help='Where to write the teacher', metavar='FILE.safetensors', required=True)
@click.option('--data', help='Captioned images: demo, or a data set with class names', metavar='demo|DIR|ZIP', default='demo', show_default=True)
@click.option('--size', help='Size of the images that the teacher sees', type=click.IntRange(min=16), default=32, show_default=True)
@click.option('--steps', help='Training steps', type=click.IntRange(min=10), default=2000, show_default=True)
@click.option('--batch', help='Images per step', type=click.IntRange(min=2), default=128, show_default=True)
@click.option('--lr', help='Peak learning rate', type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True)
@click.option('--width', help='Channels of the first stage, a multiple of 8', type=click.IntRange(min=8), default=32, show_default=True)
@click.option('--dim', help='Width of the features', type=click.IntRange(min=8), default=128, show_default=True)
@click.option('--seed', help='Random seed', type=click.IntRange(min=0), default=0, show_default=True)
def main(dest, data, size, steps, batch, lr, width, dim, seed):
    """Train a small CLIP teacher and report its zero-shot accuracy."""
    with user_errors():
        source = DemoFaces(size) if data == 'demo' else NamedClasses(data, size)
        model = train(source, steps, batch, lr, seed, width, dim)
        model.half().float()                                    # evaluate what is stored
        accuracy = source.accuracy(model)
        for name, value in accuracy.items():
            print(f'zero-shot accuracy on unseen images, {name}: {value:.3f}')
        save_tiny_clip(model, dest, notes=dict(data=source.notes, steps=steps, batch=batch, seed=seed, zero_shot_accuracy=accuracy))
        print(f'Saved {dest}')


if __name__ == '__main__':
    main()
