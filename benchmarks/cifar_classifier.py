"""An image classifier whose features judge generated images independently of any teacher.

    python benchmarks/cifar_classifier.py --data cifar10.zip --test cifar10-test.zip --dest classifier.safetensors

A residual network of nine convolutions for 32x32 images, trained on class labels alone: no text and no contrastive loss, so that it shares
nothing with a CLIP teacher but the images.
"""

import contextlib
import hashlib
import os
import sys
import time

import click
import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

from dnnlib.util import user_errors  # noqa: E402
from kd_plugin.teacher import Preprocess, Teacher  # noqa: E402
from torch_utils import checkpoint  # noqa: E402
from training.dataset import ImageFolderDataset  # noqa: E402

F = torch.nn.functional
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)        # of CIFAR-10
DIM = 256                                                       # of the features


class Classifier(torch.nn.Module):
    """[N, 3, 32, 32], normalised -> [N, classes]; `image_features` gives the [N, 256] before the last layer."""

    def __init__(self, classes):
        super().__init__()
        self.stem = _conv(3, 48)
        self.stages = torch.nn.ModuleList([_conv(48, 96), _conv(96, 192), _conv(192, DIM)])
        self.residuals = torch.nn.ModuleList([torch.nn.Sequential(_conv(c, c), _conv(c, c)) for c in (96, 192, DIM)])
        self.out = torch.nn.Linear(DIM, classes)

    def image_features(self, x):
        x = self.stem(x)
        for stage, residual in zip(self.stages, self.residuals, strict=True):
            x = F.max_pool2d(stage(x), 2)
            x = x + residual(x)
        return x.mean(dim=[2, 3])

    def forward(self, x):
        return self.out(self.image_features(x))


def _conv(i, o):
    return torch.nn.Sequential(torch.nn.Conv2d(i, o, 3, padding=1, bias=False), torch.nn.BatchNorm2d(o), torch.nn.ReLU())


def load(path, device='cpu'):
    """The classifier of a file in the shape of a teacher, whose `encode_image` the metrics call."""
    tensors, info = checkpoint.load(path, 'classifier')
    model = Classifier(info['classes'])
    model.load_state_dict(tensors)
    return Teacher(model.to(device), Preprocess(32, MEAN, STD), DIM, f'cifar-classifier-{info["digest"]}').to(device)


def read_all(path):
    """-> uint8 [n, 3, 32, 32], labels [n]."""
    with contextlib.closing(ImageFolderDataset(path, use_labels=True)) as dataset:
        items = [dataset[i] for i in range(len(dataset))]
    return torch.from_numpy(np.stack([img for img, _ in items])), torch.tensor([int(label.argmax()) for _, label in items])


def normalised(img, device):
    x = img.to(device).to(torch.float32) / 255
    return (x - torch.tensor(MEAN, device=device).reshape(1, 3, 1, 1)) / torch.tensor(STD, device=device).reshape(1, 3, 1, 1)


def augmented(img):
    """Mirrored at random, and shifted by up to four pixels."""
    img = torch.where(torch.rand(len(img), 1, 1, 1) < 0.5, img.flip(3), img)
    padded = F.pad(img, [4] * 4)
    dx, dy = torch.randint(0, 9, [2]).tolist()
    return padded[:, :, dy:dy + 32, dx:dx + 32]


def train(model, images, labels, epochs, batch, device, seed):
    """One-cycle SGD with label smoothing."""
    torch.manual_seed(seed)
    model.train().to(device)
    opt = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.4, total_steps=steps, pct_start=0.2)
    start = time.time()
    for epoch in range(epochs):
        for part in torch.randperm(len(images))[:len(images) // batch * batch].split(batch):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                logits = model(normalised(augmented(images[part]), device))
            loss = F.cross_entropy(logits.float(), labels[part].to(device), label_smoothing=0.1)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            schedule.step()
        print(f'epoch {epoch + 1}/{epochs}  loss {loss.item():.3f}  {time.time() - start:.0f} s', flush=True)
    return model.eval()


@torch.no_grad()
def accuracy(model, images, labels, device):
    right = [(model(normalised(x, device)).argmax(1).cpu() == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return (sum(right) / len(images)).item()


@click.command()
@click.option('--data', help='Training images with classes', required=True, metavar='ZIP')
@click.option('--test', help='Test images with the same classes', required=True, metavar='ZIP')
@click.option('--dest', help='Where to write the classifier', required=True, metavar='FILE.safetensors')
@click.option('--epochs', type=click.IntRange(min=1), default=8, show_default=True)
@click.option('--batch', type=click.IntRange(min=1), default=256, show_default=True)
@click.option('--device', type=click.Choice(['cpu', 'cuda']), default='cpu', show_default=True)
@click.option('--seed', type=click.IntRange(min=0), default=0, show_default=True)
def main(data, test, dest, epochs, batch, device, seed):
    """Train the classifier and report its accuracy on the test images."""
    with user_errors():
        images, labels = read_all(data)
        torch.manual_seed(seed)
        model = train(Classifier(int(labels.max()) + 1), images, labels, epochs, batch, device, seed).to('cpu')
        right = accuracy(model, *read_all(test), 'cpu')
        print(f'accuracy on {test}: {right:.4f}')
        digest = hashlib.sha256(model.out.weight.detach().numpy().tobytes()).hexdigest()[:12]
        checkpoint.save(dest, 'classifier', model.state_dict(), dict(classes=model.out.out_features, accuracy=right, epochs=epochs, digest=digest))


if __name__ == '__main__':
    main()
