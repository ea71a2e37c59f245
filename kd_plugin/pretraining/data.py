"""The training data of `kd_plugin.pretrain`: endless captioned drawings, or a data set with class names or captions."""

import contextlib
import json

import numpy as np
import torch
import tqdm

from dnnlib import UserError
from torch_utils.images import to_float
from training.dataset import ImageFolderDataset
from training.dataset import demo as demo_data

from ..prompts import CLASS_TEMPLATES
from ..teachers.tiny_clip import words

F = torch.nn.functional
EVAL_STREAM, TRAIN_STREAM = 1, 2        # the two never share a seed: test images were not seen


class DemoFaces:
    """Endless procedural faces with captions, and a test of each attribute."""

    def __init__(self, size):
        self.size = size
        self.facts = dict(name='procedural cartoon faces (training/dataset/demo.py)')

    def vocabulary(self):
        rng = np.random.default_rng(0)
        return sorted({word for _ in range(2000)
                       for word in words(demo_data.caption(demo_data.random_attributes(rng)))})

    def batch(self, seed, count):
        """-> img [count, 3, size, size] in [-1, 1], captions. seed: tuple of int."""
        rng = np.random.default_rng([TRAIN_STREAM, *seed])
        attributes = [demo_data.random_attributes(rng) for _ in range(count)]
        return self._draw(attributes, rng), [demo_data.caption(a, rng) for a in attributes]

    def _draw(self, attributes, rng):
        img = np.stack([demo_data.draw(a, rng, self.size) for a in attributes])
        return to_float(torch.from_numpy(img).permute(0, 3, 1, 2))

    @torch.no_grad()
    def accuracy(self, teacher, count=1000):
        """{attribute: zero-shot accuracy} on unseen images: which caption fits best if only this attribute is
        exchanged?"""
        rng = np.random.default_rng([EVAL_STREAM, 0])
        attributes = [demo_data.random_attributes(rng) for _ in range(count)]
        images = F.normalize(teacher.encode_image(self._draw(attributes, rng).to(teacher.mean.device)), dim=1)
        result = {}
        for name, values in demo_data.ATTRIBUTES.items():
            texts = [demo_data.caption({**a, name: value}) for a in attributes for value in values]
            feats = F.normalize(teacher.encode_text(texts), dim=1).reshape(count, len(values), -1)
            choice = (feats @ images[:, :, None]).squeeze(2).argmax(1)
            result[name] = float(np.mean([values[i] == a[name]
                                          for i, a in zip(choice.tolist(), attributes, strict=True)]))
        return result


class CaptionedImages:
    """A data set whose images have class names or captions, in memory at the size that the teacher sees.

    Args:
        path:           folder or zip.
        size:           of the images given out.
        texts:          'classes' = the class names in `CLASS_TEMPLATES`, FILE.txt = in its lines, each with a {}, or
                        FILE.json = {"image name": "caption" or ["caption", ...]}.
        test_path:      data set with the same classes to test on; None = a tenth of `path`, which training does not
                        see.
        exclude_subset: leave out the images that `train.py --subset=N --seed=SEED` trains on; 0 = none.
        val_fraction:   leave out those that `train.py --val-fraction=FRACTION --seed=SEED` holds out; 0 = none.
        seed:           SEED of both.
        mirror:         give out half of the images mirrored.
        shift:          move images by up to so many pixels.
    Raises: UserError if texts or images cannot be used.
    """

    def __init__(self, path, size, texts='classes', test_path=None, exclude_subset=0, seed=0, mirror=True, shift=4,
                 val_fraction=0):
        self.size, self.mirror, self.shift = size, mirror, shift
        with contextlib.closing(_open(path, classes=not texts.endswith('.json'))) as dataset:
            used = np.setdiff1d(np.arange(len(dataset)), items_of_gan(path, exclude_subset, seed, val_fraction))
            order = np.random.default_rng(0).permutation(used)
            num_test = 0 if test_path else max(len(order) // 10, 1)
            if len(order) < num_test + 2:
                raise UserError(f'--data={path}: {len(order)} images are left to learn from; give more of them, or '
                                'exclude fewer')
            self.test_items, self.train_items = order[:num_test], order[num_test:]
            self._captions, self._candidates = _read_texts(texts, dataset)
            self.images, self.captions = self._load(dataset, self.train_items)
            self.facts = dict(dataset.facts(), texts=texts, trained_on=len(self.train_items),
                              excluded=len(dataset) - len(order))
            if not test_path:
                self.test_images, self.test_captions = self._load(dataset, self.test_items)
        if test_path:
            self._load_test(test_path, dataset.class_names)
        self.candidates = self._candidates or sorted({captions[0] for captions in self.test_captions})

    def vocabulary(self):
        return sorted({word for captions in self.captions for caption in captions for word in words(caption)})

    def batch(self, seed, count):
        """-> img [count, 3, size, size] in [-1, 1], captions. seed: tuple of int."""
        rng = np.random.default_rng([TRAIN_STREAM, *seed])
        picks = rng.choice(len(self.images), size=count, replace=count > len(self.images))
        img = to_float(self.images[torch.from_numpy(picks)])
        if self.mirror:
            img = torch.where(torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None], img.flip(3), img)
        if self.shift:
            corners = torch.from_numpy(rng.integers(0, 2 * self.shift + 1, size=(2, count)))
            img = _crop(F.pad(img, [self.shift] * 4, mode='reflect'), *corners, self.size)
        choices = [self.captions[i] for i in picks]
        return img, [captions[rng.integers(len(captions))] for captions in choices]

    @torch.no_grad()
    def accuracy(self, teacher, batch_size=250):
        """{'class' or 'caption': share of the test images whose own text, of all candidates, fits best}."""
        device = teacher.mean.device
        feats = torch.cat([teacher.encode_image(to_float(part.to(device)))
                           for part in self.test_images.split(batch_size)])
        texts = torch.cat([teacher.encode_text(self.candidates[i:i + batch_size])
                           for i in range(0, len(self.candidates), batch_size)])
        choice = (F.normalize(feats, dim=1) @ F.normalize(texts, dim=1).t()).argmax(1)
        right = [self.candidates[c] == captions[0] for c, captions in zip(choice.tolist(), self.test_captions,
                                                                          strict=True)]
        return {'class' if self._candidates else 'caption': float(np.mean(right))}

    def _load(self, dataset, items):
        """-> (uint8 [N, 3, size, size], for each image its possible captions)."""
        images = torch.empty([len(items), 3, self.size, self.size], dtype=torch.uint8)
        for row, item in enumerate(tqdm.tqdm(items, desc=f'Reading {dataset.name}', unit='image', leave=False,
                                             disable=None)):
            images[row] = _resize(torch.from_numpy(dataset[item][0]), self.size)
        return images, [self._captions(dataset, item) for item in items]

    def _load_test(self, path, class_names):
        with contextlib.closing(_open(path, classes=self._candidates is not None)) as dataset:
            if self._candidates is not None and dataset.class_names != class_names:
                raise UserError(f'--test-data={path}: its classes are {dataset.class_names}, those of --data are '
                                f'{class_names}; use a set with the same')
            self.test_images, self.test_captions = self._load(dataset, np.arange(len(dataset)))
            self.facts['tested_on'] = dict(name=dataset.name, content_hash=dataset.content_hash(), images=len(dataset))


def items_of_gan(path, count, seed, val_fraction=0):
    """int64 [n]: the images of a data set that `train.py --subset=COUNT --val-fraction=FRACTION --seed=SEED` trains on
    or holds out; none for COUNT 0 or FRACTION 0."""
    draws = [dict(max_size=count)] if count else []
    draws += [dict(part='validation')] if val_fraction else []
    items = [np.empty(0, dtype=np.int64)]
    for draw in draws:
        with contextlib.closing(ImageFolderDataset(path, random_seed=seed, val_fraction=val_fraction,
                                                   **draw)) as dataset:
            items.append(np.array([dataset.get_details(i).raw_idx for i in range(len(dataset))]))
    return np.concatenate(items)


def _open(path, classes):
    """The data set, with class numbers if `classes`. Raises UserError if they or their names are missing."""
    dataset = ImageFolderDataset(path)
    if classes and dataset.class_names is not None:
        dataset.close()
        dataset = ImageFolderDataset(path, use_labels=True)
    if classes and not (dataset.has_onehot_labels and dataset.label_dim == len(dataset.class_names)):
        raise UserError(f'--data={path}: the images have no class names; rebuild it with dataset_tool.py from folders '
                        'named by class, or give captions with --texts=FILE.json')
    return dataset


def _read_texts(spec, dataset):
    """-> (function (data set, item) -> possible captions, the first of which it is tested with; one candidate per class
    or None)."""
    if spec.endswith('.json'):
        by_name = _read_captions(spec)
        return lambda dataset, item: _captions_of(spec, by_name, dataset.files.names[item]), None
    templates = CLASS_TEMPLATES if spec == 'classes' else _read_templates(spec)
    captions = [[template.format(name.replace('_', ' ')) for template in templates] for name in dataset.class_names]
    return lambda dataset, item: captions[int(dataset.get_label(item).argmax())], [options[0] for options in captions]


def _read_captions(path):
    """{image name: [caption, ...]} from a JSON file."""
    try:
        with open(path, encoding='utf-8') as f:
            table = json.load(f)
        table = {name: [value] if isinstance(value, str) else value for name, value in table.items()}
        if not all(isinstance(value, list) and value and all(isinstance(v, str) and words(v) for v in value)
                   for value in table.values()):
            raise ValueError('a caption is no text')
    except (OSError, ValueError, AttributeError) as err:
        raise UserError(f'--texts={path}: cannot be used ({err}); it must be JSON of the form {{"image.png": '
                        f'"caption", ...}}') from err
    return table


def _captions_of(path, by_name, name):
    if name not in by_name:
        raise UserError(f'--texts={path}: there is no caption for the image {name}; every image of the data set '
                        'needs one')
    return by_name[name]


def _read_templates(path):
    try:
        with open(path, encoding='utf-8') as f:
            lines = [line.strip() for line in f if line.strip() and not line.startswith('#')]
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f'--texts={path}: cannot be read ({err}); use classes, FILE.json with captions, or FILE.txt '
                        'with templates') from err
    wrong = [line for line in lines if line.count('{}') != 1 or line.count('{') != 1 or line.count('}') != 1]
    if wrong or not lines:
        raise UserError(f'--texts={path}: {wrong[0] if wrong else "the file"} is no template; write one per line, with '
                        f'{{}} for the class name')
    return lines


def _resize(img, size):
    """uint8 [1 or 3, H, H] -> uint8 [3, size, size], bicubic with antialiasing."""
    img = img.expand(3, -1, -1)
    if img.shape[1] == size:
        return img
    return F.interpolate(img[None].float(), size=[size] * 2, mode='bicubic',
                         antialias=True)[0].round().clamp(0, 255).to(torch.uint8)


def _crop(img, top, left, size):
    """[N, C, H, W], int64 [N], int64 [N] -> [N, C, size, size], each image from its own corner."""
    rows, columns = (start[:, None] + torch.arange(size) for start in (top, left))
    number = torch.arange(len(img))[:, None, None]
    return img[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
